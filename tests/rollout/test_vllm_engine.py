"""The vLLM engine on a CPU: against a plain model, under new weights, and beside an FSDP trainer."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.config.algorithm import LossConfig
from reasoner_rl.config.model import LoraConfig, ModelConfig
from reasoner_rl.config.rollout import SamplingConfig, VllmEngineConfig
from reasoner_rl.config.training import FsdpBackendConfig, OptimizerConfig, TrainingConfig
from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.experts import as_in_checkpoints
from reasoner_rl.hybrid.engine import HybridEngine
from reasoner_rl.hybrid.sync_check import SyncCheck, WeightSyncError, check_token_ids
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.metrics import values
from reasoner_rl.rollout import vllm_cpu
from reasoner_rl.rollout.engine import GenerationRequest, StepOutput
from reasoner_rl.rollout.vllm_engine import VllmRolloutEngine, build_vllm_engine
from reasoner_rl.training.fsdp import FsdpBackend, single_process_group
from reasoner_rl.types import Rollout, TrainSample

pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = pytest.mark.usefixtures("vllm_on_cpu")

CPU = torch.device("cpu")
MODELS = [
    "qwen2-wide-tied",
    "qwen2-wide-untied",
    "llama-wide-tied",
    "llama-wide-untied",
    "qwen3_moe-wide-untied",
]
PROMPTS = [[5, 9, 30, 31], [7], [40, 41, 42, 43, 44, 45, 46], [12, 80, 3]]
REQUESTS = [GenerationRequest(tuple(prompt), 3, seed=index) for index, prompt in enumerate(PROMPTS)]
Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Checkpoint, tiny_tokenizer: Any) -> Callable[..., VllmRolloutEngine]:
    """A function from a model's name to an engine with that checkpoint's weights; one start per model."""
    started: dict[tuple[str, str], VllmRolloutEngine] = {}

    def start(name: str = "qwen2-wide-tied", dtype: Any = "float32") -> VllmRolloutEngine:
        path = tiny_checkpoint(name)
        if (name, dtype) not in started:
            single_process_group()  # as beside a trainer
            # vLLM makes its groups once per process, and for a dense model none for experts.
            importlib.import_module("vllm.distributed").destroy_model_parallel()
            config = VllmEngineConfig(max_batch_sequences=16, max_batched_tokens=512, dtype=dtype)
            started[name, dtype] = build_vllm_engine(
                ModelConfig(path=str(path)), config, tiny_tokenizer, CPU, context_tokens=96, seed=0
            )
        started[name, dtype].state = "ready"
        started[name, dtype].load_weights(as_trained(plain(path)).items(), version=0)
        return started[name, dtype]

    return start


def plain(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def as_trained(model: Any) -> dict[str, Tensor]:
    """The weights under the names that a trainer streams."""
    return dict(as_in_checkpoints(model.config, ((n, p.detach()) for n, p in model.named_parameters())))


def flat(groups: Sequence[Sequence[Rollout]]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group]


@torch.no_grad()
def plain_logprobs(
    model: Any, prompt: Sequence[int], response: Sequence[int], temperature: float = 1.0
) -> Tensor:
    logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor([list(response)]).T)[:, 0]


def largest_gap(model: Any, groups: Sequence[Sequence[Rollout]], temperature: float) -> float:
    """Between an engine's logprobs and a plain model's, in nats."""
    return max(
        float(
            (torch.tensor(r.logprobs) - plain_logprobs(model, prompt, tuple(r.token_ids), temperature))
            .abs()
            .max()
        )
        for prompt, group in zip(PROMPTS, groups, strict=True)
        for r in group
    )


@pytest.mark.parametrize("name", MODELS)
def test_logprobs_are_the_models_before_and_after_new_weights(
    name: str, engine: Any, tiny_checkpoint: Checkpoint
) -> None:
    vllm, model = engine(name), plain(tiny_checkpoint(name))
    before = vllm.generate(REQUESTS, SamplingConfig(max_response_tokens=10))
    assert largest_gap(model, before, 1.0) < 1e-5
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    vllm.load_weights(as_trained(model).items(), version=7)
    after = vllm.generate(REQUESTS, SamplingConfig(max_response_tokens=10, temperature=0.7))
    assert largest_gap(model, after, 0.7) < 1e-4
    assert {rollout.policy_version for rollout in flat(after)} == {vllm.policy_version} == {7}
    assert [tuple(r.token_ids) for r in flat(after)] != [tuple(r.token_ids) for r in flat(before)]
    ids = [5, 9, 30, 31, 7, 7, 60]
    torch.testing.assert_close(
        torch.tensor(vllm.score(ids)), plain_logprobs(model, ids[:1], ids[1:]), atol=1e-4, rtol=0
    )


def test_a_response_depends_on_its_own_seed_alone(engine: Any) -> None:
    vllm, sampling = engine(), SamplingConfig(max_response_tokens=12)

    def draw(requests: Sequence[GenerationRequest]) -> list[list[tuple[int, ...]]]:
        return [
            [tuple(rollout.token_ids) for rollout in group] for group in vllm.generate(requests, sampling)
        ]

    together = draw(REQUESTS)
    assert draw(REQUESTS) == together
    assert draw(REQUESTS[2:3]) == together[2:3]
    assert draw(REQUESTS[::-1]) == together[::-1]
    assert len(set(together[2])) == 3, "responses to one prompt differ"
    assert draw([GenerationRequest(REQUESTS[2].prompt_ids, 3, seed=99)]) != together[2:3]


def test_a_response_is_continued(engine: Any, tiny_checkpoint: Checkpoint, tiny_tokenizer: Any) -> None:
    vllm, model = engine(), plain(tiny_checkpoint("qwen2-wide-tied"))
    vllm.load_weights(as_trained(model).items(), version=1)
    sampling = SamplingConfig(max_response_tokens=12)
    begun = flat(vllm.generate([replace(request, max_tokens=5) for request in REQUESTS], sampling))
    rest = [
        replace(request, samples=1, first_sample=sample, begun=tuple(begun[3 * place + sample].token_ids))
        for place, request in enumerate(REQUESTS)
        for sample in range(3)
        if begun[3 * place + sample].finish_reason == "length"
    ]
    assert len(rest) > 9
    added = flat(vllm.generate(rest, sampling))
    assert added == flat(vllm.generate(rest[::-1], sampling)[::-1])
    assert len({tuple(rollout.token_ids) for rollout in added}) == len(rest)
    for request, rollout in zip(rest, added, strict=True):
        whole = [*request.begun, *rollout.token_ids]
        assert 5 < len(whole) <= 12
        assert rollout.text == tiny_tokenizer.decode(whole, skip_special_tokens=True)
        expected = plain_logprobs(model, [*request.prompt_ids, *request.begun], list(rollout.token_ids))
        torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="vLLM would not find it"):
        vllm.submit(rest, SamplingConfig(max_response_tokens=12, stop=["x"]))
    assert vllm.step() == StepOutput()


def test_what_is_interrupted_has_its_tokens_and_logprobs(
    engine: Any, tiny_checkpoint: Checkpoint, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoner_rl.rollout.vllm_engine.MAX_DECODING_STEPS", 6)
    vllm, model = engine(), plain(tiny_checkpoint("qwen2-wide-tied"))
    vllm.load_weights(as_trained(model).items(), version=1)
    sampling = SamplingConfig(max_response_tokens=20)
    whole = vllm.generate(REQUESTS, sampling)
    vllm.submit([replace(request, number=number) for number, request in enumerate(REQUESTS)], sampling)
    output = vllm.step().followed_by(vllm.interrupt())
    assert vllm.step() == StepOutput()
    begun = dict(output.interrupted)
    assert len(begun) > 1
    for number, group in begun.items():
        for rollout, expected in zip(group, whole[number], strict=True):
            length = len(rollout.token_ids)
            assert rollout.token_ids == expected.token_ids[:length]
            torch.testing.assert_close(
                torch.tensor(rollout.logprobs), torch.tensor(expected.logprobs[:length])
            )
            assert rollout.text == tiny_tokenizer.decode(rollout.token_ids, skip_special_tokens=True)
            assert rollout.finish_reason == ("length" if length < len(expected.token_ids) else "stop")
            assert length >= min(3, len(expected.token_ids))
    vllm.load_weights(as_trained(model).items(), version=2)  # which needs an engine with nothing in flight
    assert vllm.generate(REQUESTS[:1], sampling)[0][0].policy_version == 2


def test_endings(engine: Any, tiny_tokenizer: Any) -> None:
    vllm = engine()
    limited = flat(vllm.generate(REQUESTS, SamplingConfig(max_response_tokens=5, min_response_tokens=5)))
    assert {(len(r.token_ids), r.finish_reason) for r in limited} == {(5, "length")}
    many = [GenerationRequest((5, 9), 200, seed=3)]
    stopped = [
        r
        for r in flat(vllm.generate(many, SamplingConfig(max_response_tokens=40)))
        if r.finish_reason == "stop"
    ]
    assert stopped
    for rollout in stopped:
        assert rollout.token_ids[-1] == tiny_tokenizer.eos_token_id, (
            "the end is part of the response, and trained"
        )
        assert tiny_tokenizer.eos_token_id not in tuple(rollout.token_ids)[:-1]
        assert rollout.text == tiny_tokenizer.decode(tuple(rollout.token_ids), skip_special_tokens=True)
    greedy = flat(vllm.generate(REQUESTS, SamplingConfig(max_response_tokens=8, temperature=0)))
    assert all(len({tuple(greedy[i + j].token_ids) for j in range(3)}) == 1 for i in range(0, len(greedy), 3))
    stop = tiny_tokenizer.decode(tuple(greedy[0].token_ids)[2:4])
    [[ended, *_], *_] = vllm.generate(
        REQUESTS, SamplingConfig(max_response_tokens=8, temperature=0, stop=[stop])
    )
    assert tuple(ended.token_ids) == tuple(greedy[0].token_ids)[: len(ended.token_ids)]
    assert ended.text.endswith(stop)
    assert ended.finish_reason == "stop"


def test_progress_and_interruption(engine: Any) -> None:
    vllm, seen = engine(), []
    groups = vllm.generate(
        REQUESTS, SamplingConfig(max_response_tokens=4), lambda *progress: seen.append(progress)
    )
    tokens = sum(len(rollout.token_ids) for group in groups for rollout in group)
    assert [sum(column) for column in zip(*seen, strict=True)] == [12, tokens]

    def interrupt(finished: int, tokens: int) -> None:
        raise ZeroDivisionError

    many = [GenerationRequest((5, 9), 40, seed=3)]
    with pytest.raises(ZeroDivisionError):
        vllm.generate(many, SamplingConfig(max_response_tokens=20), interrupt)
    assert not vllm._engine.has_unfinished_requests()
    assert vllm.generate(REQUESTS, SamplingConfig(max_response_tokens=4))


def test_cancelled_requests_leave_no_trace(engine: Any) -> None:
    vllm, sampling = engine(), SamplingConfig(max_response_tokens=60, min_response_tokens=40)
    expected = vllm.generate(REQUESTS, sampling)
    numbered = [replace(request, number=number) for number, request in enumerate(REQUESTS)]
    vllm.submit(numbered, sampling)
    for _ in range(3):
        assert not any(output.finished for output in vllm._engine.step())
    vllm.cancel()
    assert not vllm._engine.has_unfinished_requests()
    vllm.sleep()
    vllm.wake_weights()
    vllm.use_shared_weights(3)
    vllm.wake_cache()
    vllm.submit(numbered, sampling)
    found: dict[int, Any] = {}
    while len(found) < len(numbered):
        found.update(vllm.step().finished)
    tokens = [[tuple(rollout.token_ids) for rollout in found[number]] for number in range(len(numbered))]
    assert tokens == [[tuple(rollout.token_ids) for rollout in group] for group in expected]


def test_a_step_ends_with_the_first_whole_group_or_after_so_many_decoding_steps(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm = engine()
    short, long = (
        GenerationRequest((5, 9), 2, seed=1, number=7),
        GenerationRequest((5, 9), 2, seed=2, number=8),
    )
    vllm.submit([short, long], SamplingConfig(max_response_tokens=30, min_response_tokens=30))
    monkeypatch.setattr("reasoner_rl.rollout.vllm_engine.MAX_DECODING_STEPS", 10)
    outputs = [vllm.step() for _ in range(2)]
    assert [output.finished for output in outputs] == [[], []], "ten tokens each"
    assert [output.tokens for output in outputs] == [0, 0]
    monkeypatch.setattr("reasoner_rl.rollout.vllm_engine.MAX_DECODING_STEPS", 1000)
    output = vllm.step()
    assert ({number for number, _ in output.finished}, output.tokens) == ({7, 8}, 120)
    assert vllm.step() == StepOutput()


def test_states(engine: Any) -> None:
    vllm, sampling = engine(), SamplingConfig(max_response_tokens=4)
    before = vllm.generate(REQUESTS, sampling)
    vllm.sleep()
    for call, arguments in (
        ("generate", (REQUESTS, sampling)),
        ("score", ([1, 2],)),
        ("load_weights", ([], 1)),
    ):
        with pytest.raises(RuntimeError, match=f"{call} needs an engine that is .*; it is asleep"):
            getattr(vllm, call)(*arguments)
    vllm.wake_weights()
    with pytest.raises(RuntimeError, match="generate needs an engine that is ready; it is weights"):
        vllm.generate(REQUESTS, sampling)
    vllm.wake_cache()
    assert vllm.generate(REQUESTS, sampling) == before


@pytest.mark.parametrize(
    ("model", "up"),
    [("llama-wide-untied", "mlp.up_proj"), ("qwen3_moe-wide-untied", "mlp.experts.3.up_proj")],
)
def test_tensors_that_differ_are_named_though_vllm_fuses_them(
    model: str, up: str, engine: Any, tiny_checkpoint: Checkpoint
) -> None:
    vllm, weights = engine(model), as_trained(plain(tiny_checkpoint(model)))
    assert vllm.differing_tensors(weights.items()) == []
    wrong = {
        "model.layers.0.self_attn.k_proj.weight",
        f"model.layers.1.{up}.weight",
        "model.norm.weight",
        "lm_head.weight",
    }
    with torch.no_grad():
        for name in wrong:
            weights[name].flatten()[3] += 1e-6
    assert set(vllm.differing_tensors(weights.items())) == wrong


def test_weights_that_do_not_fit_are_named(engine: Any, tiny_checkpoint: Checkpoint) -> None:
    vllm, weights = engine(), dict(plain(tiny_checkpoint("qwen2-wide-tied")).named_parameters())
    short = {name: tensor for name, tensor in weights.items() if name != "model.norm.weight"}
    with pytest.raises(ValueError, match=r"do not fit the rollout model: model\.norm\.weight got none"):
        vllm.load_weights(short.items(), version=1)
    with pytest.raises(ValueError, match=r"do not fit the rollout model: .*surplus"):
        vllm.load_weights([*weights.items(), ("model.surplus.weight", torch.zeros(1))], version=1)


def test_a_vllm_that_renamed_what_is_replaced_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm.model_executor.layers.utils as layers

    monkeypatch.delattr(layers, "dispatch_cpu_unquantized_gemm")
    with pytest.raises(
        UserError, match=r"replaces .*dispatch_cpu_unquantized_gemm, which vLLM [0-9.]+ does not have"
    ):
        vllm_cpu.adapt()


# --- beside a trainer ----------------------------------------------------------------------------------------------


def hybrid(
    vllm: VllmRolloutEngine, path: Path, tokenizer: Any, *, check: Any = "logprobs", **model: Any
) -> HybridEngine:
    backend = FsdpBackend(
        ModelConfig(path=str(path), **model),
        TrainingConfig(optimizer=OptimizerConfig(lr=1e-2)),
        FsdpBackendConfig(),
        temperature=0.7,
        total_updates=10,
        updates_per_step=1,
    )
    sync_check = SyncCheck(check, check_token_ids(tokenizer), tolerance=1e-3)
    return HybridEngine({"policy": backend}, vllm, sync_check, {"policy": "none"})


def as_samples(groups: Sequence[Sequence[Rollout]]) -> list[TrainSample]:
    return [
        TrainSample(
            prompt_ids=torch.tensor(prompt),
            response_ids=torch.tensor(tuple(rollout.token_ids)),
            loss_mask=torch.ones(len(rollout.token_ids), dtype=torch.bool),
            advantages=torch.full((len(rollout.token_ids),), (-1.0) ** index),
            rollout_logprobs=torch.tensor(rollout.logprobs),
        )
        for prompt, group in zip(PROMPTS, groups, strict=True)
        for index, rollout in enumerate(group)
    ]


@pytest.mark.parametrize("name", [*MODELS, "qwen2-wide-tied with LoRA"])
def test_trainer_and_vllm_agree_before_and_after_updates(
    name: str, engine: Any, tiny_checkpoint: Checkpoint, tiny_tokenizer: Any
) -> None:
    name, _, lora = name.partition(" with ")
    vllm = engine(name)
    both = hybrid(
        vllm, tiny_checkpoint(name), tiny_tokenizer, lora=LoraConfig(rank=4, alpha=8) if lora else None
    )
    loss = partial(policy_loss, config=LossConfig())
    generated = []
    for version in range(3):
        synced = values(both.publish(version))
        assert synced["sync/check_gap"] < 1e-4
        generated.append(both.generate(REQUESTS, SamplingConfig(max_response_tokens=12, temperature=0.7)))
        policy = both.take_turn("policy")
        batch = plan_mini_batch(as_samples(generated[-1]), 100, 12)
        gaps = [
            (computed - micro.rollout_logprobs).abs().max()
            for micro, computed in zip(batch.micro_batches, policy.logprobs(batch.micro_batches), strict=True)
        ]
        assert float(max(gaps)) < 1e-4
        policy.update(batch, loss)
    assert generated[0] != generated[2], "the policy moved"


@pytest.mark.parametrize("name", ["qwen2-wide-tied", "llama-wide-untied"])
def test_a_trainer_can_train_vllms_own_weights(
    name: str, engine: Any, tiny_checkpoint: Checkpoint, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    vllm, path = engine(name), tiny_checkpoint(name)
    apart = hybrid(vllm, path, tiny_tokenizer).models["policy"]
    backend = hybrid(vllm, path, tiny_tokenizer).models["policy"]
    assert isinstance(backend, FsdpBackend)
    backend.train_in(vllm.storage(backend.parameter_shapes()))
    sync_check = SyncCheck("logprobs", check_token_ids(tiny_tokenizer), 1e-4)
    both = HybridEngine({"policy": backend}, vllm, sync_check, {"policy": "none"}, shared=True)
    loss, tokens = partial(policy_loss, config=LossConfig()), []
    for version in range(3):
        synced = values(both.publish(version))  # proves that generation has the trained weights
        assert synced["sync/gib"] == 0
        generated = both.generate(REQUESTS, SamplingConfig(max_response_tokens=12, temperature=0.7))
        assert {rollout.policy_version for rollout in flat(generated)} == {version}
        tokens.append([tuple(rollout.token_ids) for rollout in flat(generated)])
        batch = plan_mini_batch(as_samples(generated), 100, 12)
        both.take_turn("policy").update(batch, loss)
        apart.update(batch, loss)
        if version == 1:
            backend.save(tmp_path)
            backend.load(tmp_path)  # must not move the weights elsewhere
    assert tokens[0] != tokens[2], "the policy moved"
    trained = dict(backend.full_weights())
    for key, tensor in apart.full_weights():
        assert torch.equal(trained[key], tensor), f"{key}: training in place is the same training"
    both.publish(3)
    assert vllm.differing_tensors(trained.items()) == []


def test_a_corrupted_sync_is_caught_and_the_tensor_named(
    engine: Any, tiny_checkpoint: Checkpoint, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wrong = tiny_checkpoint("llama-wide-untied"), "model.layers.1.self_attn.v_proj.weight"
    both = hybrid(engine("llama-wide-untied"), path, tiny_tokenizer)
    both.publish(1)
    load = both.rollout.load_weights

    def corrupt(tensors: Any, version: int) -> None:
        load(((name, tensor.flip(0) if name == wrong else tensor) for name, tensor in tensors), version)

    monkeypatch.setattr(both.rollout, "load_weights", corrupt)
    with pytest.raises(
        WeightSyncError, match=rf"differ by .* nats on average.*these tensors differ: {wrong}$"
    ):
        both.publish(2)


def test_float32_master_weights_and_bfloat16_generation(
    engine: Any, tiny_checkpoint: Checkpoint, tiny_tokenizer: Any
) -> None:
    both = hybrid(
        engine("qwen2-wide-untied", "bfloat16"),
        tiny_checkpoint("qwen2-wide-untied"),
        tiny_tokenizer,
        check="tensors",
    )
    both.publish(1)  # compares every tensor after rounding
    [group, *_] = both.generate(REQUESTS, SamplingConfig(max_response_tokens=8))
    assert all(len(rollout.token_ids) >= 1 for rollout in group)
