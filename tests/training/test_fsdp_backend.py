"""The FSDP2 backend in one process against a plain Hugging Face model in float32."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo_rank import gloo_rank
from parity import CLIP_HIGHER, EPS, TRAINING, make_samples, plain_loss
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.multiprocessing.spawn import spawn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, GenerationConfig, Glm4MoeConfig, Glm4MoeForCausalLM

from reasoner_rl.batching.plan import BatchLimits, plan_mini_batch, plan_shares
from reasoner_rl.config.model import LoraConfig, ModelConfig
from reasoner_rl.config.training import FsdpBackendConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.metrics import values
from reasoner_rl.training.fsdp import FsdpBackend, single_process_group
from reasoner_rl.training.gather import Transfer
from reasoner_rl.types import IDLE, MiniBatch, TokenOutputs

Checkpoint = Callable[[str], Path]


def make_backend(path: Path, **changes: Any) -> FsdpBackend:
    """A backend of all ranks there are. Sharding by ``shard_ranks`` only where there is something to shard."""
    single_process_group()
    torch.manual_seed(0)  # new adapters
    model = {key: changes.pop(key) for key in list(changes) if key in ModelConfig.model_fields}
    backend = FsdpBackendConfig(
        shard_ranks=min(changes.pop("shard_ranks", dist.get_world_size()), dist.get_world_size()),
        prefetch_layers=changes.pop("prefetch_layers", 1),
    )
    options = {"temperature": 0.7, "total_updates": 10, "updates_per_step": 1, **changes}
    return FsdpBackend(ModelConfig(path=str(path), **model), TRAINING, backend, **options)


def plan(tokens: int = 40) -> MiniBatch:
    return plan_mini_batch(make_samples(100), tokens, 64)


def test_logprobs_leave_no_gathered_weights(tiny_checkpoint: Checkpoint) -> None:
    """What vLLM wakes into is not taken by a whole copy that the last forward pass left."""
    backend = make_backend(tiny_checkpoint("qwen2-tied"))
    backend.logprobs(plan().micro_batches)
    groups = [
        m._get_fsdp_state()._fsdp_param_group for m in backend._policy.modules() if isinstance(m, FSDPModule)
    ]
    assert [group.is_unsharded for group in groups if group is not None] == [False] * 3


@pytest.mark.parametrize("name", ["qwen2-tied", "qwen2-untied", "qwen3-untied", "llama-tied"])
def test_logprobs_gradients_and_update_equal_plain_hf(name: str, tiny_checkpoint: Checkpoint) -> None:
    path = tiny_checkpoint(name)
    backend, samples = make_backend(path), make_samples(100)
    reference = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    loss, logprobs = plain_loss(reference, samples, 0.7, CLIP_HIGHER)
    batch = plan()
    assert len(batch.micro_batches) > 2
    for micro_batch, computed in zip(batch.micro_batches, backend.logprobs(batch.micro_batches), strict=True):
        for index, part in micro_batch.split_responses(computed).items():
            torch.testing.assert_close(part, logprobs[index], atol=1e-5, rtol=0)

    seen: dict[str, Tensor] = {}

    def loss_that_looks(outputs: TokenOutputs, micro_batch: Any) -> Any:
        value, metrics = policy_loss(outputs, micro_batch, CLIP_HIGHER)
        seen["loss"] = seen.get("loss", torch.zeros(())) + value.detach()
        return value, metrics

    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in reference.parameters() if p.grad is not None])
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in reference.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in reference.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=0.5e-2,  # the first of two warm-up fractions
        eps=EPS,
    )
    torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.05)
    optimizer.step()
    metrics = values(backend.update(batch, loss_that_looks))
    torch.testing.assert_close(seen["loss"], loss.detach(), atol=1e-6, rtol=1e-5)
    assert metrics["train/grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert metrics["train/lr"] == pytest.approx(0.5e-2)
    expected = dict(reference.named_parameters())
    ours = dict(backend.full_weights())
    assert ours.keys() == expected.keys()
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, expected[key].detach(), atol=1e-6, rtol=0, msg=key)


def test_result_does_not_depend_on_the_micro_batches(tiny_checkpoint: Checkpoint) -> None:
    path = tiny_checkpoint("qwen2-tied")
    weights = []
    for tokens in (1, 50, 10_000):
        backend = make_backend(path, gradient_checkpointing=tokens == 50)
        batch = plan(tokens)
        norms = [
            values(backend.update(batch, partial(policy_loss, config=CLIP_HIGHER)))["train/grad_norm"]
            for _ in range(2)
        ]
        weights.append((len(batch.micro_batches), norms, dict(backend.full_weights())))
    assert [count for count, _, _ in weights] == [6, 2, 1]
    for _, norms, tensors in weights[1:]:
        assert norms == pytest.approx(weights[0][1], rel=1e-4)
        for key, tensor in tensors.items():
            torch.testing.assert_close(tensor, weights[0][2][key], atol=1e-6, rtol=0, msg=key)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_prompt_of_several_responses_is_computed_once(
    gradient_checkpointing: bool, tiny_checkpoint: Checkpoint
) -> None:
    path, samples = tiny_checkpoint("qwen2-tied"), make_samples(100)
    groups = [s.replace(prompt_ids=samples[i // 3].prompt_ids) for i, s in enumerate(samples)]
    prompts, responses = [4, 5], [3, 5, 7, 9, 11, 13]
    results, read = [], []
    for tokens in (1, 10_000):
        backend = make_backend(path, gradient_checkpointing=gradient_checkpointing)
        embeddings = backend._policy.model.get_input_embeddings()
        handle = embeddings.register_forward_hook(
            lambda module, inputs, output: read.append(inputs[0].numel())
        )
        batch = plan_mini_batch(groups, tokens, 64)
        logprobs: dict[int, Tensor] = {}
        for cut, values_ in zip(batch.micro_batches, backend.logprobs(batch.micro_batches), strict=True):
            logprobs |= cut.split_responses(values_)
        handle.remove()
        norm = values(backend.update(batch, partial(policy_loss, config=CLIP_HIGHER)))["train/grad_norm"]
        results.append((logprobs, norm, dict(backend.full_weights())))
    assert sum(read[:6]) == 3 * sum(prompts) + sum(responses)
    assert read[6:] == [sum(prompts) + sum(responses)]
    (alone, norm_alone, weights_alone), (together, norm_together, weights_together) = results
    for index in range(6):
        torch.testing.assert_close(together[index], alone[index], atol=1e-5, rtol=0)
    assert norm_together == pytest.approx(norm_alone, rel=1e-5)
    for key, tensor in weights_together.items():
        torch.testing.assert_close(tensor, weights_alone[key], atol=1e-6, rtol=0, msg=key)


def test_resume_is_exact(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    path, loss = tiny_checkpoint("llama-untied"), partial(policy_loss, config=CLIP_HIGHER)
    straight = make_backend(path)
    straight.update(plan(), loss)
    straight.save(tmp_path)
    straight.update(plan(), loss)
    resumed = make_backend(path)
    resumed.load(tmp_path)
    metrics = values(resumed.update(plan(), loss))
    assert metrics["train/lr"] == pytest.approx(1e-2)
    for (name, a), (_, b) in zip(straight.full_weights(), resumed.full_weights(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", ["qwen2-tied", "llama-untied"])
def test_export_loads_with_transformers_bit_for_bit(
    name: str, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    backend = make_backend(tiny_checkpoint(name))
    backend.update(plan(), partial(policy_loss, config=CLIP_HIGHER))
    backend.export_hf(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    exported = dict(backend.full_weights())
    for key, parameter in loaded.named_parameters():
        assert torch.equal(parameter, exported[key]), key
    assert loaded.config.tie_word_embeddings == name.endswith("-tied")


def test_export_keeps_the_settings_of_generation(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Instruction-tuned models end a response with one of several tokens; config.json knows one of them."""
    shutil.copytree(tiny_checkpoint("qwen2-tied"), tmp_path / "start")
    GenerationConfig(eos_token_id=[1, 7], temperature=0.6, do_sample=True).save_pretrained(tmp_path / "start")
    make_backend(tmp_path / "start").export_hf(tmp_path / "final")
    exported = GenerationConfig.from_pretrained(tmp_path / "final")
    assert (exported.eos_token_id, exported.temperature) == ([1, 7], 0.6)


def test_lora_trains_adapters_only_and_streams_merged_weights(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = tiny_checkpoint("qwen2-tied")
    backend = make_backend(path, lora=LoraConfig(rank=4, alpha=8))
    before = {name: tensor.clone() for name, tensor in backend.full_weights()}
    original = dict(AutoModelForCausalLM.from_pretrained(path).named_parameters())
    assert before.keys() == original.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, original[name]), name
    for _ in range(3):
        backend.update(plan(), partial(policy_loss, config=CLIP_HIGHER))
    after = dict(backend.full_weights())
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {name for name in after if "proj" in name and name.endswith("weight")}
    backend.export_hf(tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    _, logprobs = plain_loss(merged, make_samples(100), 0.7, CLIP_HIGHER)
    batch = plan()
    for micro_batch, computed in zip(batch.micro_batches, backend.logprobs(batch.micro_batches), strict=True):
        for index, part in micro_batch.split_responses(computed).items():
            torch.testing.assert_close(part, logprobs[index], atol=2e-5, rtol=0)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_adapters_that_would_not_be_seen_are_refused(target: str, tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match=rf"puts an adapter on .*{target}; only linear layers inside"):
        make_backend(tiny_checkpoint("llama-untied"), lora=LoraConfig(target_modules=["q_proj", target]))


def test_a_listed_module_that_does_not_exist_is_refused(tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(
        ConfigError, match=r"no module is called 'v_prok'; linear layers are .* Did you mean 'v_proj'"
    ):
        make_backend(tiny_checkpoint("llama-untied"), lora=LoraConfig(target_modules=["q_proj", "v_prok"]))


def test_persistent_buffers_are_streamed_and_exported(tmp_path: Path) -> None:
    config = Glm4MoeConfig(
        vocab_size=100, hidden_size=16, intermediate_size=16, moe_intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=8, n_routed_experts=4, num_experts_per_tok=2,
        first_k_dense_replace=1, tie_word_embeddings=False,
    )  # fmt: skip
    model, bias = Glm4MoeForCausalLM(config), torch.tensor([1.0, 2.0, 3.0, 4.0])
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    dict(model.named_buffers())[name].copy_(bias)
    model.save_pretrained(tmp_path / "start")
    backend = make_backend(tmp_path / "start")
    assert torch.equal(dict(backend.full_weights())[name], bias)
    backend.export_hf(tmp_path / "final")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert torch.equal(dict(exported.named_buffers())[name], bias)


# By ranks, and by name: the model, and what is changed of the backend.
ON_MANY_RANKS: dict[int, dict[str, tuple[str, dict[str, Any]]]] = {
    2: {
        "sharded-adapters": ("llama-untied", {"lora": LoraConfig(rank=2), "prefetch_layers": 0}),
        "sharded-tied": ("qwen2-tied", {}),
        "replicated": ("qwen2-tied", {"shard_ranks": 1}),
    },
    4: {
        "hybrid-frozen": ("llama-untied", {"shard_ranks": 2, "freeze_first_fraction": 0.5}),
        "hybrid-prefetch": (
            "qwen2-deep-tied",
            {"shard_ranks": 2, "prefetch_layers": 2, "gradient_checkpointing": "keep_attention"},
        ),
    },
}
# Collectives of one update, by case: how many groups of parameters (layers and the root) are reduced to shards in every
# micro-batch, and of how many the copies are added up, once.
REDUCTIONS = {
    "sharded-adapters": (2, 0),
    "sharded-tied": (3, 0),
    "replicated": (0, 3),
    "hybrid-frozen": (2, 2),
    "hybrid-prefetch": (5, 5),
}


@pytest.fixture(scope="module")
def trained(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The folder with the results of all cases on so many ranks, in the same processes, which take long to start."""

    @cache
    def train(ranks: int) -> Path:
        folder = tmp_path_factory.mktemp("ranks")
        cases = {case: (tiny_checkpoint(name), c) for case, (name, c) in ON_MANY_RANKS[ranks].items()}
        spawn(train_all_cases, (ranks, cases, folder), nprocs=ranks)
        return folder

    return train


@pytest.mark.parametrize(
    ("ranks", "case"),
    [(ranks, case) for ranks, cases in ON_MANY_RANKS.items() for case in cases],
    ids=[case for cases in ON_MANY_RANKS.values() for case in cases],
)
def test_many_ranks_give_the_result_of_one(
    ranks: int, case: str, trained: Callable[[int], Path], tiny_checkpoint: Checkpoint
) -> None:
    name, changes = ON_MANY_RANKS[ranks][case]
    path, folder = tiny_checkpoint(name), trained(ranks) / case
    alone, loss = make_backend(path, **changes), partial(policy_loss, config=CLIP_HIGHER)
    norms = [values(alone.update(plan(1), loss))["train/grad_norm"] for _ in range(2)]
    logprobs = {}
    for batch in plan(1).micro_batches:
        logprobs.update(batch.split_responses(alone.logprobs([batch])[0]))
    for rank in range(ranks):
        result = torch.load(folder / f"rank_{rank}.pt")
        assert result["norms"] == pytest.approx(norms, rel=1e-5)
        assert result["micro_batches"] > 1
        assert result["reductions"] == REDUCTIONS[case]
        for key, tensor in alone.full_weights():
            torch.testing.assert_close(result["weights"][key], tensor, atol=1e-6, rtol=0, msg=key)
        for key, tensor in result["resumed"].items():
            assert torch.equal(tensor, result["weights"][key]), key
        for index, values_of_one in result["logprobs"].items():
            torch.testing.assert_close(values_of_one, logprobs[index], atol=1e-5, rtol=0)
        assert len(result["base"]) == (len(result["logprobs"]) if "lora" in changes else 0)
        for index, base in result["base"].items():
            assert torch.equal(result["without adapters"][index], base), "to the bit"
            assert not torch.equal(result["logprobs"][index], base)
    on_one = make_backend(path, **changes)
    on_one.load(folder / "checkpoint")
    on_one.update(plan(1), loss)
    for key, tensor in on_one.full_weights():
        torch.testing.assert_close(tensor, result["weights"][key], atol=1e-6, rtol=0, msg=key)


def train_all_cases(
    rank: int, ranks: int, cases: dict[str, tuple[Path, dict[str, Any]]], folder: Path
) -> None:
    with gloo_rank(rank, ranks, folder):
        for case, (path, changes) in cases.items():
            train_on_one_of_many_ranks(rank, ranks, path, changes, folder / case)


def train_on_one_of_many_ranks(
    rank: int, ranks: int, path: Path, changes: dict[str, Any], folder: Path
) -> None:
    """Two updates, each rank on its share, with a checkpoint between them to resume from."""
    loss = partial(policy_loss, config=CLIP_HIGHER)
    mine = plan_shares(make_samples(100), BatchLimits(1, 64), ranks)[rank].pack()
    backend = make_backend(path, **changes)
    with Reductions() as counted:
        norms = [values(backend.update(mine, loss))["train/grad_norm"]]
    if rank == 0:
        (folder / "checkpoint").mkdir(parents=True)
    dist.barrier()
    backend.save(folder / "checkpoint")
    norms.append(values(backend.update(mine, loss))["train/grad_norm"])
    resumed = make_backend(path, **changes)
    resumed.load(folder / "checkpoint")
    resumed.update(mine, loss)
    result: dict[str, Any] = {
        "norms": norms,
        "reductions": (counted.to_shards / len(mine.micro_batches), counted.of_copies),
        "micro_batches": len(mine.micro_batches),
        "weights": dict(backend.full_weights()),
        "resumed": dict(resumed.full_weights()),
        "logprobs": by_sample(mine, backend.logprobs(mine.micro_batches)),
        "base": {},
    }
    for name, tensor in backend.full_weights(Transfer(torch.bfloat16, 10_000)):  # as a sync gathers them
        assert torch.equal(tensor.bfloat16(), result["weights"][name].bfloat16()), name
    if "lora" in changes:
        without = backend.logprobs(mine.micro_batches, adapters=False)
        result["without adapters"] = by_sample(mine, without)
        base = make_backend(path, frozen=True)
        result["base"] = by_sample(mine, base.logprobs(mine.micro_batches))
    torch.save(result, folder / f"rank_{rank}.pt")


class Reductions(TorchDispatchMode):
    """Counts what FSDP2 has process groups reduce; DTensors, as of the gradient's norm, call other operators."""

    def __init__(self) -> None:
        super().__init__()
        self.to_shards = self.of_copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.to_shards += func is torch.ops.c10d._reduce_scatter_base_.default
        self.of_copies += func is torch.ops.c10d.allreduce_.default
        return func(*args, **(kwargs or {}))


def by_sample(batch: MiniBatch, found: list[Tensor]) -> dict[int, Tensor]:
    by_index: dict[int, Tensor] = {}
    for micro_batch, logprobs in zip(batch.micro_batches, found, strict=True):
        by_index.update(micro_batch.split_responses(logprobs))
    return {index: logprobs for index, logprobs in by_index.items() if index != IDLE}


def test_frozen_layers_stay(tiny_checkpoint: Checkpoint) -> None:
    backend = make_backend(tiny_checkpoint("llama-untied"), freeze_first_fraction=0.5)
    before = {name: tensor.clone() for name, tensor in backend.full_weights()}
    backend.update(plan(), partial(policy_loss, config=CLIP_HIGHER))
    changed = {name for name, tensor in backend.full_weights() if not torch.equal(tensor, before[name])}
    assert changed == {n for n in before if "layers.0." not in n and "embed_tokens" not in n}


def test_bfloat16_stays_near_float32(tiny_checkpoint: Checkpoint) -> None:
    path, batch = tiny_checkpoint("qwen2-untied"), plan()
    exact = torch.cat(make_backend(path).logprobs(batch.micro_batches))
    backend = make_backend(path, dtype="bfloat16")
    rounded = torch.cat(backend.logprobs(batch.micro_batches))
    assert 1e-5 < float((exact - rounded).abs().max()) < 0.3
    loss = partial(policy_loss, config=CLIP_HIGHER)
    norm = values(make_backend(path).update(batch, loss))["train/grad_norm"]
    assert values(backend.update(batch, loss))["train/grad_norm"] == pytest.approx(norm, rel=0.05)
    assert all(tensor.dtype is torch.float32 for _, tensor in backend.full_weights())


def test_reference_policy_does_not_move(tiny_checkpoint: Checkpoint) -> None:
    batch = plan()
    backend, reference = (
        make_backend(tiny_checkpoint("qwen2-tied"), frozen=frozen) for frozen in (False, True)
    )
    at_start = torch.cat(backend.logprobs(batch.micro_batches))
    backend.update(batch, partial(policy_loss, config=CLIP_HIGHER))
    assert torch.equal(torch.cat(reference.logprobs(batch.micro_batches)), at_start)
    assert not torch.equal(torch.cat(backend.logprobs(batch.micro_batches)), at_start)


def test_a_frozen_backend_scores_and_streams_and_refuses_to_train(
    tiny_checkpoint: Checkpoint,
) -> None:
    path, batch = tiny_checkpoint("qwen2-tied"), plan()
    frozen = make_backend(path, frozen=True)
    original = dict(AutoModelForCausalLM.from_pretrained(path).named_parameters())
    for name, tensor in frozen.full_weights():
        assert torch.equal(tensor, original[name]), name
    with pytest.raises(RuntimeError, match=r"^update needs a model that is trained, and this one was built"):
        frozen.update(batch, partial(policy_loss, config=CLIP_HIGHER))
    before = torch.cat(frozen.logprobs(batch.micro_batches))
    frozen.offload_optimizer()
    frozen.offload_weights()
    frozen.reload()
    assert torch.equal(torch.cat(frozen.logprobs(batch.micro_batches)), before)


def test_without_its_adapters_a_policy_is_the_model_that_it_began_as(tiny_checkpoint: Checkpoint) -> None:
    """So that LoRA needs no reference model; and the adapters are there again afterwards."""
    path, batch = tiny_checkpoint("qwen2-tied"), plan()
    base = make_backend(path, frozen=True).logprobs(batch.micro_batches)
    backend = make_backend(path, lora=LoraConfig(rank=4, alpha=8))
    backend.update(batch, partial(policy_loss, config=CLIP_HIGHER))
    trained = backend.logprobs(batch.micro_batches)
    without = backend.logprobs(batch.micro_batches, adapters=False)
    assert torch.equal(torch.cat(without), torch.cat(base)), "to the bit"
    assert not torch.equal(torch.cat(trained), torch.cat(base))
    assert torch.equal(torch.cat(backend.logprobs(batch.micro_batches)), torch.cat(trained))
    twin = make_backend(path, lora=LoraConfig(rank=4, alpha=8))
    for _ in range(2):
        twin.update(batch, partial(policy_loss, config=CLIP_HIGHER))
    backend.update(batch, partial(policy_loss, config=CLIP_HIGHER))
    for (name, one), (_, other) in zip(backend.full_weights(), twin.full_weights(), strict=True):
        assert torch.equal(one, other), f"{name}: the adapters' gradients are what they were"


def test_a_gradient_that_is_not_finite_stops_the_run(tiny_checkpoint: Checkpoint) -> None:
    backend = make_backend(tiny_checkpoint("qwen2-tied"))
    before = dict(backend.full_weights())

    def broken(outputs: TokenOutputs, batch: Any) -> Any:
        return outputs.logprobs.sum() * float("nan"), {}

    with pytest.raises(FloatingPointError, match="gradient norm"):
        backend.update(plan(), broken)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backend.full_weights())
