"""Every training backend with a value head against transformers' token classification in float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo_rank import gloo_rank
from parity import MAX_RESPONSE, TEMPERATURE, TOTAL_UPDATES, TRAINING, UPDATES, make_samples, plain_reference
from test_backend_parity import copied, forget_the_layout, gradients, move_away_and_back
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from transformers import AutoModelForTokenClassification

from reasoner_rl.batching.plan import BatchLimits, plan_shares
from reasoner_rl.config.algorithm import ValueLossConfig
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.training import BackendConfig, FsdpBackendConfig, MegatronBackendConfig
from reasoner_rl.distributed.building import build_backend
from reasoner_rl.errors import ConfigError
from reasoner_rl.losses.value import value_loss
from reasoner_rl.metrics import merge, values
from reasoner_rl.types import IDLE, TrainSample

MODELS = ("qwen2-tied", "llama-untied")
WHOLE = {"distributed_optimizer": False}  # gradients, so that they can be compared
# Layouts of as many ranks run in the same processes, which take long to start.
LAYOUTS: dict[str, tuple[int, dict[str, BackendConfig]]] = {
    "fsdp": (1, {"one rank": FsdpBackendConfig()}),
    "fsdp, 2 ranks": (2, {"sharded": FsdpBackendConfig()}),
    "megatron": (1, {"one rank": MegatronBackendConfig(**WHOLE)}),
    "megatron, 2 ranks": (
        2,
        {
            "tensor parallel": MegatronBackendConfig(tensor_parallel=2, **WHOLE),
            "pipeline": MegatronBackendConfig(pipeline_parallel=2, **WHOLE),
            "context parallel": MegatronBackendConfig(context_parallel=2, **WHOLE),
            "distributed optimizer": MegatronBackendConfig(distributed_optimizer=True),
        },
    ),
}
CLIP = 0.2
LOSS = partial(value_loss, config=ValueLossConfig(clip=CLIP))


def build(path: Path, backend: BackendConfig, head: str = "value", **model: Any) -> Any:
    return build_backend(
        ModelConfig(path=str(path), **model),
        TRAINING.model_copy(update={"backend": backend}),
        temperature=TEMPERATURE,
        total_updates=TOTAL_UPDATES,
        head=head,
    )


def with_returns(samples: list[TrainSample]) -> list[TrainSample]:
    """Returns and old values about as far from the values as the clip."""
    generator = torch.Generator().manual_seed(3)

    def draw(sample: TrainSample) -> Tensor:
        return torch.randn(len(sample.response_ids), generator=generator)

    return [sample.replace(returns=draw(sample), old_values=0.5 * draw(sample)) for sample in samples]


def load_critic(path: Path) -> Any:
    model = AutoModelForTokenClassification.from_pretrained(path, dtype=torch.float32)
    assert not model.score.bias.any()
    model.score.bias = None
    model.get_input_embeddings().padding_idx = None
    return model.eval()


def plain_value_loss(model: Any, samples: list[TrainSample]) -> tuple[Tensor, list[Tensor]]:
    """PPO's loss, one sequence at a time; a value is read where the response token is predicted."""
    total, tokens, found = torch.zeros(()), 0, []
    for sample in with_returns(samples):
        ids = torch.cat([sample.prompt_ids, sample.response_ids])
        said = model(input_ids=ids[None]).logits[0, len(sample.prompt_ids) - 1 : -1, 0]
        near = torch.clamp(said, sample.old_values - CLIP, sample.old_values + CLIP)
        errors = torch.maximum((said - sample.returns) ** 2, (near - sample.returns) ** 2)
        total = total + 0.5 * errors[sample.loss_mask].sum()
        tokens += int(sample.loss_mask.sum())
        found.append(said.detach())
    return total / tokens, found


def make_critic(policy: Path, path: Path, bias: Tensor | None = None) -> Path:
    """The policy's decoder with a head drawn at random: with a zero head, nothing else would have a gradient."""
    model = AutoModelForTokenClassification.from_pretrained(policy, num_labels=1, dtype=torch.float32)
    generator = torch.Generator().manual_seed(4)
    model.score.weight.data = 0.2 * torch.randn(model.score.weight.shape, generator=generator)
    model.score.bias = bias if bias is None else torch.nn.Parameter(bias)
    model.save_pretrained(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("group", LAYOUTS)
def test_a_critic_computes_what_plain_transformers_computes(
    group: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    if group.startswith("megatron"):
        pytest.importorskip("megatron.core")
        pytest.importorskip("mbridge")
    ranks, layouts = LAYOUTS[group]
    policies = {name: tiny_checkpoint(name) for name in MODELS}
    critics = {name: make_critic(path, tmp_path / f"{name}-critic") for name, path in policies.items()}
    make_critic(policies[MODELS[0]], tmp_path / "biased", bias=torch.ones(1))
    spawn(train_all, (ranks, layouts, policies, critics, tmp_path), nprocs=ranks)
    for name, path in critics.items():
        expected = plain_reference(path, load_critic, plain_value_loss)
        for layout, backend in layouts.items():
            folder = tmp_path / layout / name
            found = [torch.load(folder / f"result_{rank}.pt", weights_only=False) for rank in range(ranks)]
            compare(found, expected, backend, f"{name}, {layout}")
            exported = dict(load_critic(folder / "export").named_parameters())
            assert exported.keys() == found[0]["weights"].keys()
            for key, tensor in exported.items():
                assert torch.equal(tensor, found[0]["weights"][key]), (name, layout, key)


def compare(found: list[dict[str, Any]], expected: Any, backend: BackendConfig, what: str) -> None:
    metrics = [values(merge(parts)) for parts in zip(*(rank["metrics"] for rank in found), strict=True)]
    assert [m["value/loss"] for m in metrics] == pytest.approx(expected.losses, rel=1e-5), what
    assert [m["train/grad_norm"] for m in metrics] == pytest.approx(expected.norms, rel=1e-5), what
    assert [m["train/lr"] for m in metrics] == pytest.approx(expected.rates), what
    said = torch.cat([v[s.loss_mask] for v, s in zip(expected.logprobs, make_samples(100), strict=True)])
    assert metrics[0]["value/mean"] == pytest.approx(float(said.mean()), rel=1e-4), what
    assert 0.1 < metrics[0]["value/clip_fraction"] < 0.9, what
    for rank in found:
        for index, said in rank["values"].items():
            assert said.dtype == torch.float32
            torch.testing.assert_close(said, expected.logprobs[index], atol=1e-5, rtol=0, msg=what)
        assert rank["initial"].keys() == rank["weights"].keys() == expected.weights.keys(), what
        for key, tensor in expected.initial.items():
            assert torch.equal(rank["initial"][key], tensor), f"{what}: {key} is not what was loaded"
        for key, tensor in expected.weights.items():
            torch.testing.assert_close(rank["weights"][key], tensor, atol=2e-6, rtol=0, msg=f"{what}: {key}")
            assert torch.equal(rank["resumed"][key], rank["weights"][key]), f"{what}: {key} after a resume"
        for key, gradient in rank["gradients"].items():
            error = (gradient - expected.gradients[key]).norm() / expected.gradients[key].norm()
            assert error < 1e-5, (what, key)
    covered = set().union(*(rank["values"] for rank in found))
    assert covered == set(range(len(expected.logprobs)))
    divides_gradients = isinstance(backend, MegatronBackendConfig) and backend.distributed_optimizer
    assert found[0]["gradients"].keys() == (set() if divides_gradients else expected.weights.keys())


def train_all(
    rank: int,
    ranks: int,
    layouts: dict[str, BackendConfig],
    policies: dict[str, Path],
    critics: dict[str, Path],
    folder: Path,
) -> None:
    with gloo_rank(rank, ranks, folder):
        for layout, backend in layouts.items():
            samples = with_returns(make_samples(100))
            limits = BatchLimits(micro_batch_tokens=40, max_response_tokens=MAX_RESPONSE)
            shares = plan_shares(samples, limits, backend.data_parallel_size(ranks))
            mine = shares[backend.data_parallel_rank(rank, ranks)].pack()
            for name, critic in critics.items():
                own = folder / layout / name
                if rank == 0:
                    for part in ("checkpoint", "export", "half", "half_export"):
                        (own / part).mkdir(parents=True)
                dist.barrier()
                torch.save(train_and_resume(critic, own, backend, mine), own / f"result_{rank}.pt")
                begin_at_zero(policies[name], backend, mine)
            learn_in_bfloat16(critic, own, backend, mine)
            refuse_what_is_a_policys(critic, policies[name], own, backend, mine)
            if isinstance(backend, MegatronBackendConfig):
                with pytest.raises(ConfigError, match="with bias"):
                    build(folder / "biased", backend)
                forget_the_layout()


def train_and_resume(critic: Path, own: Path, backend: BackendConfig, mine: Any) -> dict[str, Any]:
    trained = build(critic, backend)
    result = {
        "initial": copied(trained),
        "values": by_sample(trained, mine),
        "gradients": gradients(trained, mine, LOSS),
        "metrics": [trained.update(mine, LOSS)],
    }
    trained.save(own / "checkpoint")
    move_away_and_back(trained)
    result["metrics"] += [trained.update(mine, LOSS) for _ in range(UPDATES - 1)]
    result["weights"] = copied(trained)
    trained.export_hf(own / "export")
    resumed = build(critic, backend)
    resumed.load(own / "checkpoint")
    for _ in range(UPDATES - 1):
        resumed.update(mine, LOSS)
    return result | {"resumed": copied(resumed)}


def by_sample(backend: Any, batch: Any) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    for micro_batch, said in zip(batch.micro_batches, backend.values(batch.micro_batches), strict=True):
        found.update(micro_batch.split_responses(said))
    return {index: said for index, said in found.items() if index != IDLE}


def begin_at_zero(policy: Path, backend: BackendConfig, mine: Any) -> None:
    """A language model has no head: then its critic says exactly 0 of everything, and learns."""
    fresh = build(policy, backend)
    weights = copied(fresh)
    assert not weights.pop("score.weight").any()
    assert all(name.startswith("model.") for name in weights), "no output embedding"
    assert not any(said.any() for said in by_sample(fresh, mine).values())
    fresh.update(mine, LOSS)
    assert all(said.any() for said in by_sample(fresh, mine).values())


def learn_in_bfloat16(critic: Path, own: Path, backend: BackendConfig, mine: Any) -> None:
    """The head stays in float32, through updates, a checkpoint and an export."""
    half = build(critic, backend, dtype="bfloat16", gradient_checkpointing=True)
    exact = copied(build(critic, backend))["score.weight"]
    assert torch.equal(copied(half)["score.weight"], exact), "rounded by loading"
    half.update(mine, LOSS)
    half.save(own / "half")
    resumed = build(critic, backend, dtype="bfloat16", gradient_checkpointing=True)
    resumed.load(own / "half")
    for each in (half, resumed):
        move_away_and_back(each)
        each.update(mine, LOSS)
    for name, tensor in copied(half).items():
        assert torch.equal(tensor, copied(resumed)[name]), name
    half.export_hf(own / "half_export")
    again = build(own / "half_export", backend, dtype="bfloat16")
    head = copied(half)["score.weight"]
    assert head.dtype == torch.float32
    assert not torch.equal(head, head.bfloat16().float())
    assert torch.equal(copied(again)["score.weight"], head)
    for index, said in by_sample(again, mine).items():
        assert torch.equal(said, by_sample(half, mine)[index])


def refuse_what_is_a_policys(
    critic: Path, policy: Path, own: Path, backend: BackendConfig, mine: Any
) -> None:
    judge, actor = build(critic, backend), build(policy, backend, head="policy")
    with pytest.raises(RuntimeError, match="logprobs needs a backend with a policy head"):
        judge.logprobs(mine.micro_batches)
    with pytest.raises(RuntimeError, match="values needs a backend with a value head"):
        actor.values(mine.micro_batches)
    if isinstance(backend, MegatronBackendConfig):
        with pytest.raises(ConfigError, match=r"'head': 'value'.*'head': 'policy'"):
            actor.load(own / "checkpoint")
    # A reward model that is not trained needs a head; and a critic can be one.
    if isinstance(backend, MegatronBackendConfig) or dist.get_world_size() == 1:  # else rank 0 alone reads it
        with pytest.raises(ConfigError, match=r"holds no score\.weight, so it gives no scores"):
            build_reward_model(policy, backend)
    scored = by_sample(build_reward_model(critic, backend), mine)
    for index, said in by_sample(judge, mine).items():
        torch.testing.assert_close(scored[index], said, rtol=0, atol=0)


def build_reward_model(path: Path, backend: BackendConfig) -> Any:
    training = TRAINING.model_copy(update={"backend": backend})
    return build_backend(ModelConfig(path=str(path)), training, total_updates=1, head="score", frozen=True)
