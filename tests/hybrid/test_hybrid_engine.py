"""The hybrid engine's phases: what it calls, in which order, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_rank import gloo_rank
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.hybrid.engine import HybridEngine
from reasoner_rl.hybrid.sync_check import SyncCheck, WeightSyncError
from reasoner_rl.metrics import Metrics, mean, values
from reasoner_rl.rollout.engine import GenerationRequest, StepOutput
from reasoner_rl.training.gather import Transfer
from reasoner_rl.types import Rollout

SAMPLING = SamplingConfig(max_response_tokens=4)
REQUEST = GenerationRequest((1, 2), 1, seed=0)
ROLLOUT = Rollout((7,), (-0.5,), "stop", 1, "x")


class FakeBackend:
    """Records its calls, with its role where a test has several; its weights are streamed, as a real backend's are."""

    def __init__(self, calls: list[str], role: str = "") -> None:
        self.calls, self.role = calls, role
        self.transfers = list[Transfer | None]()

    def note(self, call: str) -> None:
        self.calls.append(f"{self.role} {call}".strip())

    def full_weights(self, transfer: Transfer | None = None) -> Iterable[tuple[str, Tensor]]:
        self.note("full_weights")
        self.transfers.append(transfer)
        yield "w", torch.tensor([2.0])

    def logprobs(self, micro_batches: Sequence[Any], *, temperature: float | None = None) -> list[Tensor]:
        self.note(f"logprobs temperature={temperature}")
        return [torch.tensor([-1.0, -2.0])]

    def offload_optimizer(self) -> None:
        self.note("offload_optimizer")

    def offload_weights(self) -> None:
        self.note("offload_weights")

    def reload(self) -> None:
        self.note("reload")

    def update(self, mini_batch: Any, loss: Any) -> Metrics:
        self.note(f"update {mini_batch}")
        return {"train/loss": mean({"first": 1.0, "second": 4.0}[mini_batch])}


class FakeRollout:
    """Records its calls, in the same list."""

    weight_dtype = torch.bfloat16

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls
        self.weights: dict[str, float] = {}
        self.scores = [-1.0, -2.0]
        self.wrong: list[str] = []
        self.in_flight: list[GenerationRequest] = []

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        self.calls.append(f"submit {len(requests)}")
        self.in_flight = list(requests)

    def step(self) -> StepOutput:
        self.calls.append("step")
        return StepOutput([(self.in_flight.pop().number, [ROLLOUT])], 1)

    def cancel(self) -> None:
        self.calls.append("cancel")
        self.in_flight = []

    def load_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        self.calls.append(f"load_weights {version}")
        self.weights = {name: float(tensor) for name, tensor in tensors}

    def use_shared_weights(self, version: int) -> None:
        self.calls.append(f"use_shared_weights {version}")

    def sleep(self) -> None:
        if self.in_flight:
            raise RuntimeError("sleep needs an engine with nothing in flight")
        self.calls.append("sleep")

    def wake_weights(self) -> None:
        self.calls.append("wake_weights")

    def wake_cache(self) -> None:
        self.calls.append("wake_cache")

    def score(self, token_ids: Sequence[int]) -> list[float]:
        self.calls.append(f"score {list(token_ids)}")
        return self.scores

    def differing_tensors(self, tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
        self.calls.append("differing_tensors")
        dict(tensors)
        return self.wrong


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def engine(calls: list[str]) -> Any:
    return hybrid(calls, check="none")


def hybrid(calls: list[str], *, check: Any = "logprobs", offload: Any = "none") -> Any:
    backend: Any = FakeBackend(calls)
    sync_check = SyncCheck(check, [7, 8, 9], tolerance=0.01)
    rollout: Any = FakeRollout(calls)
    return HybridEngine({"policy": backend}, rollout, sync_check, {"policy": offload})


def of_several(calls: list[str], *, check: Any = "logprobs", **offload: Any) -> Any:
    """An engine with a model per role in ``offload``."""
    models: Any = {role: FakeBackend(calls, role) for role in offload}
    rollout: Any = FakeRollout(calls)
    engine = HybridEngine(models, rollout, SyncCheck(check, [7, 8, 9], tolerance=0.01), offload)  # type: ignore[arg-type]
    assert calls == ["sleep"], "all models are on the device"
    calls.clear()
    return engine


def test_a_new_engine_trains_and_the_rollout_engine_sleeps(engine: Any, calls: list[str]) -> None:
    assert engine.phase == "train"
    assert calls == ["sleep"]
    engine.take_turn("policy")
    assert calls == ["sleep"], "there is nothing to put to sleep in the train phase"


def test_publishing_wakes_then_streams_the_weights(engine: Any, calls: list[str]) -> None:
    calls.clear()
    engine.publish(3)
    assert calls == ["wake_weights", "load_weights 3", "full_weights", "wake_cache"]
    assert engine.rollout.weights == {"w": 2.0}
    assert engine.phase == "generate"


def test_publishing_twice_puts_the_rollout_engine_to_sleep_between(engine: Any, calls: list[str]) -> None:
    engine.publish(1)
    calls.clear()
    engine.publish(2)
    assert calls == ["sleep", "wake_weights", "load_weights 2", "full_weights", "wake_cache"]


def test_training_begins_by_putting_the_rollout_engine_to_sleep_once(engine: Any, calls: list[str]) -> None:
    engine.publish(1)
    calls.clear()
    engine.take_turn("policy")
    engine.take_turn("policy")
    assert calls == ["sleep"]
    assert engine.phase == "train"


def test_a_whole_step(engine: Any, calls: list[str]) -> None:
    engine.publish(0)
    calls.clear()
    assert engine.generate([REQUEST, REQUEST], SAMPLING) == [[ROLLOUT], [ROLLOUT]]
    assert engine.take_turn("policy").logprobs([])[0].tolist() == [-1.0, -2.0]
    for mini_batch, loss in {"first": 1.0, "second": 4.0}.items():
        assert values(engine.take_turn("policy").update(mini_batch, None)) == {"train/loss": loss}
    engine.publish(1)
    assert calls == [
        *("submit 2", "step", "step"),
        "sleep",
        "logprobs temperature=None",
        "update first",
        "update second",
        "wake_weights",
        "load_weights 1",
        "full_weights",
        "wake_cache",
    ]


@pytest.mark.parametrize("offload", ["none", "optimizer", "all"])
def test_cached_memory_is_given_back_before_each_wake(
    offload: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: calls.append("empty_cache"))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: 5 << 30)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (1 << 30, 3 << 30))
    metrics = values(hybrid(calls, check="none", offload=offload).publish(1))
    woken = [index for index, call in enumerate(calls) if call.startswith("wake")]
    assert [calls[index - 1 : index + 1] for index in woken] == [
        ["empty_cache", "wake_weights"],
        ["empty_cache", "wake_cache"],
    ]
    assert metrics["memory/sync_device_after_gib"] == 5, "by torch's count"
    assert metrics["memory/sync_device_used_after_gib"] == 2, "by the driver's"


EXPECT = "logprobs temperature=1.0"  # by the trainer, before anything is offloaded


@pytest.mark.parametrize(
    ("offload", "to_generate", "to_train"),
    [
        ("none", [], []),
        ("optimizer", ["offload_optimizer"], ["reload"]),
        ("all", ["offload_optimizer", "offload_weights"], ["reload"]),
    ],
)
def test_the_order_of_a_phase_change(
    offload: str, to_generate: list[str], to_train: list[str], calls: list[str]
) -> None:
    engine = hybrid(calls, offload=offload)
    calls.clear()
    engine.publish(1)
    first, second = to_generate[:1], to_generate[1:]
    assert calls == [
        *(EXPECT, *first, "wake_weights", "load_weights 1", "full_weights", *second),
        *("wake_cache", "score [7, 8, 9]"),
    ]
    calls.clear()
    engine.take_turn("policy")
    assert calls == ["sleep", *to_train]


@pytest.mark.parametrize("offload", ["none", "optimizer", "all"])
def test_weights_that_were_moved_away_come_back_to_be_saved(offload: str, calls: list[str]) -> None:
    engine = hybrid(calls, check="none", offload=offload)
    for _ in engine.each_on_device(["policy"]):
        assert calls == ["sleep"], "in the train phase they are there"
    assert calls == ["sleep"]
    engine.publish(3)
    published = calls[1:]
    calls.clear()
    for role, backend in engine.each_on_device(["policy"]):
        assert (role, backend) == ("policy", engine.models["policy"])
        assert calls == (["sleep", "reload"] if offload == "all" else [])
        calls.clear()
    assert calls == (published if offload == "all" else [])
    assert engine.phase == "generate"


def synced(version: int, first: list[str], second: list[str], role: str = "policy ") -> list[str]:
    """What a publication calls once the policy has its turn."""
    return [
        *(f"{role}logprobs temperature=1.0", *first, "wake_weights", f"load_weights {version}"),
        *(f"{role}full_weights", *second, "wake_cache", "score [7, 8, 9]"),
    ]


def away(role: str, offload: str) -> list[str]:
    """What moves a model to host memory."""
    moved = {"none": [], "optimizer": ["offload_optimizer"], "all": ["offload_optimizer", "offload_weights"]}
    return [f"{role} {call}" for call in moved[offload]]


@pytest.mark.parametrize("other", ["critic", "reference"])
@pytest.mark.parametrize("of_other", ["none", "optimizer", "all"])
@pytest.mark.parametrize("of_policy", ["none", "optimizer", "all"])
def test_models_make_room_for_each_other_and_for_generation(
    of_policy: str, of_other: str, other: str, calls: list[str]
) -> None:
    engine = of_several(calls, policy=of_policy, **{other: of_other})
    policy_goes, other_goes = away("policy", of_policy), away(other, of_other)
    policy_back, other_back = (
        [f"{role} reload"] if offload != "none" else []
        for role, offload in (("policy", of_policy), (other, of_other))
    )

    def done() -> list[str]:
        made = list(calls)
        calls.clear()
        return made

    engine.publish(1)
    assert done() == other_goes + synced(1, policy_goes[:1], policy_goes[1:])
    assert engine.take_turn(other) is engine.models[other]
    assert done() == ["sleep", *other_back], "the policy has made room already"
    engine.take_turn(other)
    assert done() == []
    assert engine.take_turn("policy") is engine.models["policy"]
    assert done() == other_goes + policy_back, "first the room, then what needs it"
    engine.take_turn(other)
    assert done() == policy_goes + other_back
    engine.publish(2)
    assert done() == other_goes + policy_back + synced(2, policy_goes[:1], policy_goes[1:])
    engine.take_turn("policy")
    assert done() == ["sleep", *policy_back]
    engine.publish(3)
    assert done() == synced(3, policy_goes[:1], policy_goes[1:]), "nothing else was on the device"


def test_a_model_has_an_offload_of_its_own(calls: list[str]) -> None:
    engine = of_several(calls, policy="none", reference="all", critic="optimizer")
    engine.take_turn("critic")
    assert calls == ["reference offload_optimizer", "reference offload_weights"], "the policy stays"
    calls.clear()
    engine.take_turn("reference")
    assert calls == ["critic offload_optimizer", "reference reload"]
    calls.clear()
    engine.take_turn("policy")
    assert calls == ["reference offload_optimizer", "reference offload_weights"]


def test_every_trained_model_is_written_and_weights_are_published_once_more(calls: list[str]) -> None:
    engine = of_several(calls, policy="all", critic="all", reference="all")
    engine.publish(3)
    calls.clear()
    seen = []
    for role, model in engine.each_on_device(["policy", "critic"]):
        assert model is engine.models[role]
        seen.append((role, list(calls)))
        calls.clear()
    assert seen == [
        ("policy", ["sleep", "policy reload"]),
        ("critic", ["policy offload_optimizer", "policy offload_weights", "critic reload"]),
    ], "the reference is not written, and does not move"
    back = ["critic offload_optimizer", "critic offload_weights", "policy reload"]
    assert calls == back + synced(3, ["policy offload_optimizer"], ["policy offload_weights"])
    assert engine.phase == "generate"


def test_in_the_train_phase_models_take_turns_to_be_written_and_nothing_is_published(
    calls: list[str],
) -> None:
    engine = of_several(calls, policy="all", critic="all")
    engine.take_turn("critic")
    calls.clear()
    assert [role for role, _ in engine.each_on_device(["policy", "critic"])] == ["policy", "critic"]
    to_policy = ["critic offload_optimizer", "critic offload_weights", "policy reload"]
    to_critic = ["policy offload_optimizer", "policy offload_weights", "critic reload"]
    assert calls == to_policy + to_critic
    assert engine.phase == "train"


def test_weights_that_stay_on_the_device_are_written_there(calls: list[str]) -> None:
    engine = of_several(calls, policy="optimizer", critic="optimizer")
    engine.publish(1)
    calls.clear()
    assert [role for role, _ in engine.each_on_device(["policy", "critic"])] == ["policy", "critic"]
    assert calls == []
    assert engine.phase == "generate"


def test_a_turn_while_responses_are_in_flight_raises_and_loses_nothing(calls: list[str]) -> None:
    engine = of_several(calls, policy="all", critic="all")
    engine.publish(1)
    engine.submit([REQUEST], SAMPLING)
    calls.clear()
    for role in ("policy", "critic"):
        with pytest.raises(RuntimeError, match="nothing in flight"):
            engine.take_turn(role)
    with pytest.raises(RuntimeError, match="nothing in flight"):
        engine.publish(2)
    assert calls == [], "no model moved"
    assert engine.phase == "generate"
    assert engine.step() == StepOutput([(0, [ROLLOUT])], 1), "the response still comes"
    calls.clear()
    engine.take_turn("critic")
    assert calls == ["sleep", "critic reload"]


def test_cancelling_makes_way_for_training(calls: list[str]) -> None:
    engine = hybrid(calls)
    engine.publish(1)
    engine.submit([REQUEST], SAMPLING)
    calls.clear()
    engine.cancel()
    engine.take_turn("policy")
    assert calls == ["cancel", "sleep"]


def test_a_role_that_the_run_has_not_is_named(calls: list[str]) -> None:
    engine = of_several(calls, policy="none", reference="none")
    with pytest.raises(RuntimeError, match=r"^this run has no critic; its models are policy, reference$"):
        engine.take_turn("critic")


def test_without_a_model_it_generates_for_good_and_without_a_rollout_engine_it_trains(
    calls: list[str],
) -> None:
    rollout: Any = FakeRollout(calls)
    evaluation = HybridEngine({}, rollout, None, {})
    assert evaluation.generate([REQUEST], SAMPLING) == [[ROLLOUT]]
    assert calls == ["submit 1", "step"], "it never sleeps"
    with pytest.raises(RuntimeError, match="this run has no policy; its models are none"):
        evaluation.take_turn("policy")
    backend: Any = FakeBackend(calls)
    training = HybridEngine({"policy": backend}, None, None, {"policy": "all"})
    calls.clear()
    assert training.take_turn("policy") is backend
    assert [model for _, model in training.each_on_device(["policy"])] == [backend]
    assert calls == []
    for call in (lambda: training.publish(1), training.cancel):
        with pytest.raises(RuntimeError, match="it has no rollout engine"):
            call()


def test_shared_storage_moves_nothing(calls: list[str]) -> None:
    backend: Any = FakeBackend(calls)
    rollout: Any = FakeRollout(calls)
    check = SyncCheck("logprobs", [7, 8, 9], 0.01)
    engine = HybridEngine({"policy": backend}, rollout, check, {"policy": "none"}, shared=True)
    calls.clear()
    metrics = values(engine.publish(4))
    assert calls == [EXPECT, "wake_weights", "use_shared_weights 4", "wake_cache", "score [7, 8, 9]"]
    assert metrics["sync/gib"] == 0


def test_what_a_phase_change_costs_is_measured(calls: list[str]) -> None:
    engine = hybrid(calls)
    first = values(engine.publish(1))
    assert first["sync/gib"] == 4 / 2**30, "one float32"
    assert first["sync/check_gap"] == 0
    assert first["memory/sync_host_before_gib"] > 0.01
    parts = sum(first[f"time/sync_{part}"] for part in ("check", "offload", "wake", "load"))
    assert 0 < parts <= first["time/sync"]
    assert "time/switch" not in first, "there was nothing to switch back from"
    engine.take_turn("policy")
    second = values(engine.publish(2))
    assert second["time/switch"] > 0
    assert second["sync/gib"] == first["sync/gib"], "measured anew"


@pytest.mark.parametrize("scores", [[-1.0, -2.1], [-1.0, float("nan")]])
@pytest.mark.parametrize(
    ("wrong", "reason"), [(["w"], "these tensors differ: w$"), ([], "no tensor differs, so the")]
)
def test_a_sync_that_went_wrong_stops_the_run(
    calls: list[str], scores: list[float], wrong: list[str], reason: str
) -> None:
    engine = hybrid(calls, offload="all")
    engine.rollout.scores, engine.rollout.wrong = scores, wrong
    with pytest.raises(WeightSyncError, match=rf"differ by .* nats on average.*{reason}"):
        engine.publish(1)
    assert calls[-3:] == ["reload", "differing_tensors", "full_weights"], (
        "the names need the trainer's weights back"
    )
    with pytest.raises(RuntimeError, match="generate phase"):
        engine.generate([REQUEST], SAMPLING)


def test_without_a_tolerance_the_first_sync_sets_it(calls: list[str]) -> None:
    engine = hybrid(calls)
    engine.check = SyncCheck("logprobs", [7, 8, 9], tolerance=None)
    engine.rollout.scores = [-1.0, -2.2]
    first = values(engine.publish(1))
    assert first["sync/check_gap"] == pytest.approx(0.1)
    assert first["sync/check_limit"] == pytest.approx(0.4)
    engine.rollout.scores = [-1.0, -2.7]
    assert values(engine.publish(2))["sync/check_limit"] == pytest.approx(0.4), "set once"
    engine.rollout.scores = [-1.0, -2.9]
    with pytest.raises(
        WeightSyncError, match=r"differ by 0\.45 nats .* at most 0\.4 is rounding \(4 times the 0\.1"
    ):
        engine.publish(3)


def test_without_a_tolerance_a_first_sync_can_still_be_wrong(calls: list[str]) -> None:
    engine = hybrid(calls)
    engine.check = SyncCheck("logprobs", [7, 8, 9], tolerance=None)
    engine.rollout.scores = [-1.0, -3.2]
    rule = r"at most 0\.5 is rounding \(the limit of a first sync; set rollout\.sync_tolerance for another limit\)"
    with pytest.raises(WeightSyncError, match=rule):
        engine.publish(1)
    close = hybrid(calls)
    close.check = SyncCheck("logprobs", [7, 8, 9], tolerance=None)
    assert values(close.publish(1))["sync/check_limit"] == 0.02, "where there is no gap at all"


def test_every_tensor_can_be_compared_instead(calls: list[str]) -> None:
    engine = hybrid(calls, check="tensors", offload="all")
    calls.clear()
    engine.publish(1)
    assert [call for call in calls if "score" in call or "logprobs" in call] == []
    assert calls.index("differing_tensors") < calls.index("offload_weights")
    engine.rollout.wrong = [f"layer.{n}" for n in range(12)]
    with pytest.raises(WeightSyncError, match=r"these tensors differ: layer\.0, .*layer\.9 and 2 more"):
        engine.publish(2)


def test_generating_before_anything_was_published_raises(engine: Any, calls: list[str]) -> None:
    with pytest.raises(RuntimeError, match=r"belongs to the generate phase.*in the train phase"):
        engine.generate([REQUEST], SAMPLING)
    engine.publish(1)
    engine.take_turn("policy")
    with pytest.raises(RuntimeError, match=r"belongs to the generate phase"):
        engine.generate([REQUEST], SAMPLING)
    assert not [call for call in calls if call.startswith("submit")]


def test_weights_that_do_not_load_leave_the_engine_unable_to_generate(engine: Any) -> None:
    def refuse(tensors: Any, version: int) -> None:
        raise ValueError("w is unknown")

    engine.publish(1)
    engine.rollout.load_weights = refuse
    with pytest.raises(ValueError, match="unknown"):
        engine.publish(2)
    with pytest.raises(RuntimeError, match="generate phase"):
        engine.generate([REQUEST], SAMPLING)


def test_every_rank_helps_to_find_out_what_differs(tmp_path: Path) -> None:
    """Finding the names is collective: a rank whose own copy is right must take part."""
    spawn(publish_on_one_of_two_ranks, (tmp_path,), nprocs=2)
    outcomes = [(tmp_path / f"rank_{rank}").read_text().splitlines() for rank in range(2)]
    assert outcomes[0] == ["published", "differing_tensors", "full_weights"]
    assert "these tensors differ: w" in outcomes[1][0]
    assert outcomes[1][1:] == ["differing_tensors", "full_weights"]


def publish_on_one_of_two_ranks(rank: int, folder: Path) -> None:
    with gloo_rank(rank, 2, folder):
        calls: list[str] = []
        engine = hybrid(calls)
        if rank == 1:
            engine.rollout.scores, engine.rollout.wrong = [-1.0, -5.0], ["w"]
        try:
            engine.publish(1)
            outcome = "published"
        except WeightSyncError as error:
            outcome = str(error)
        (folder / f"rank_{rank}").write_text("\n".join([outcome, *calls[-2:]]))
