"""What a worker does for each call of the driver; its models are played by recorders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from reasoner_rl.batching.plan import BatchLimits, plan_shares
from reasoner_rl.config.load import load_recipe
from reasoner_rl.distributed.building import vllm_sleeps_here
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.errors import UserError
from reasoner_rl.hybrid.engine import HybridEngine
from reasoner_rl.metrics import mean, total, values
from reasoner_rl.training.fsdp import single_process_group
from reasoner_rl.types import TrainSample


class FakeModel:
    """Records its calls; a token's logprob or value is the token itself, or ten times it without adapters."""

    def __init__(self, calls: list[str], role: str) -> None:
        self.calls, self.role = calls, role

    def note(self, call: str) -> None:
        self.calls.append(f"{self.role} {call}")

    def logprobs(self, micro_batches: Any, *, adapters: bool = True) -> list[torch.Tensor]:
        self.note(f"logprobs adapters={adapters}")
        return [batch.targets.float() * (1 if adapters else 10) for batch in micro_batches]

    def values(self, micro_batches: Any) -> list[torch.Tensor]:
        self.note("values")
        return [batch.targets.float() for batch in micro_batches]

    def update(self, mini_batch: Any, loss: Any) -> dict[str, Any]:
        sequences = sum(batch.sequences for batch in mini_batch.micro_batches)
        self.note(f"update {sequences} {loss}")
        return {"train/loss": mean(sequences), "updates": total(1)}

    def offload_optimizer(self) -> None:
        self.note("offload_optimizer")

    def offload_weights(self) -> None:
        self.note("offload_weights")

    def reload(self) -> None:
        self.note("reload")

    def save(self, folder: Path) -> None:
        self.note(f"save {folder.name}")
        (folder / "weights").write_text(self.role)

    def load(self, folder: Path) -> None:
        self.note(f"load {folder.name}")
        assert (folder / "weights").read_text() == self.role

    def export_hf(self, folder: Path) -> None:
        self.note("export")


class FakeTokenizer:
    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").touch()


def make(calls: list[str], *roles: str, offload: Any = "none", **options: Any) -> Worker:
    models: Any = {role: FakeModel(calls, role) for role in roles}
    losses: Any = {role: f"{role}_loss" for role in roles if role != "reference"}
    tokenizer: Any = FakeTokenizer()
    return Worker(
        HybridEngine(models, None, None, dict.fromkeys(models, offload)), tokenizer, losses, **options
    )


def share(*lengths: int) -> Any:
    samples = [
        TrainSample(
            prompt_ids=torch.tensor([9]),
            response_ids=torch.full((length,), index + 1),
            loss_mask=torch.ones(length, dtype=torch.bool),
            advantages=torch.zeros(length),
            rollout_logprobs=torch.zeros(length),
        )
        for index, length in enumerate(lengths)
    ]
    return plan_shares(samples, BatchLimits(micro_batch_tokens=5, max_response_tokens=8), 1)[0]


def listed(found: dict[int, torch.Tensor]) -> dict[int, list[float]]:
    return {index: tensor.tolist() for index, tensor in sorted(found.items())}


@pytest.fixture
def calls() -> list[str]:
    return []


def test_each_role_answers_by_sample_and_takes_its_turn(calls: list[str]) -> None:
    worker = make(calls, "policy", "reference", "critic", offload="all")
    expected = {0: [1.0, 1.0], 1: [2.0], 2: [3.0, 3.0, 3.0]}
    assert listed(worker.logprobs("reference", share(2, 1, 3))) == expected
    assert listed(worker.values("critic", share(2, 1, 3))) == expected
    others = ["policy offload_optimizer", "policy offload_weights"]
    others += ["critic offload_optimizer", "critic offload_weights"]
    assert calls == [
        *(*others, "reference logprobs adapters=True"),
        *("reference offload_optimizer", "reference offload_weights", "critic reload", "critic values"),
    ]


def test_with_adapters_the_reference_is_the_policy_without_them(calls: list[str]) -> None:
    worker = make(calls, "policy", reference_is_base=True)
    assert listed(worker.logprobs("reference", share(2, 1))) == {0: [10.0, 10.0], 1: [20.0]}
    assert listed(worker.logprobs("policy", share(2, 1))) == {0: [1.0, 1.0], 1: [2.0]}
    assert calls == ["policy logprobs adapters=False", "policy logprobs adapters=True"]
    with pytest.raises(RuntimeError, match="this run has no reference"):
        make(calls, "policy").logprobs("reference", share(1))


def test_every_epoch_makes_all_updates_in_order_with_the_loss_of_the_role(calls: list[str]) -> None:
    worker = make(calls, "policy", "critic")
    metrics = values(worker.update("critic", (share(1, 1, 1), share(1)), 2))
    assert calls == ["critic update 3 critic_loss", "critic update 1 critic_loss"] * 2
    assert metrics["train/loss"] == 2.0, "metrics of all updates are merged"
    assert metrics["updates"] == 4
    assert any(name.startswith("memory/") for name in metrics)


def test_every_update_of_every_epoch_has_examples_of_its_own(calls: list[str]) -> None:
    worker = make(calls, "policy")
    worker.update("policy", (share(1), share(1, 1)), 2, tuple(share(*[1] * count) for count in (2, 3, 4, 5)))
    assert calls == [f"policy update {sequences} policy_loss" for sequences in (3, 5, 5, 7)]


def test_every_trained_model_has_a_folder_of_its_own_in_a_checkpoint(
    calls: list[str], tmp_path: Path
) -> None:
    worker = make(calls, "policy", "reference", "critic", offload="all")
    worker.save(tmp_path)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["critic/weights", "policy/weights"], "the reference is read from the model's own files"
    calls.clear()
    make(calls, "policy", "reference", "critic").load(tmp_path)
    assert calls == ["policy load policy", "critic load critic"]


def test_a_checkpoint_that_cannot_be_read_is_named(calls: list[str], tmp_path: Path) -> None:
    make(calls, "policy").save(tmp_path)
    with pytest.raises(
        UserError, match=rf"checkpoint {tmp_path} is damaged, or of another model: FileNotFound"
    ):
        make(calls, "policy", "critic").load(tmp_path)


def test_the_policy_is_what_is_exported(calls: list[str], tmp_path: Path) -> None:
    single_process_group()
    make(calls, "policy", "critic").export(tmp_path)
    assert calls == ["policy export"]
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


VLLM = "rollout.engine.kind=vllm"


@pytest.mark.parametrize(
    ("recipe", "overrides", "sleeps"),
    [
        ("quickstart", [], False),
        ("quickstart", [VLLM], True),
        ("quickstart", [VLLM, "rollout.engine.share_weights=true", "model.dtype=float32"], False),
        ("aime", [VLLM], True),
        ("quickstart_sft", [], False),
        ("dpo_qwen2.5_7b", [VLLM], False),
    ],
)
def test_where_vllm_has_a_pool_of_its_own(recipe: str, overrides: list[str], sleeps: bool) -> None:
    """There torch's allocator is left as it is; a run that generates nothing starts no vLLM."""
    config: Any = load_recipe(recipe, overrides)
    assert vllm_sleeps_here(config) is sleeps
