"""Calls to workers: which message each gets, and what may not be called while something is in flight."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reasoner_rl.config.cluster import RayClusterConfig
from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.distributed.local import LocalTransport
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.rollout.engine import StepOutput

STEP: tuple[Any, Any] = ([], SamplingConfig())
REPLICAS = ([0, 1], [2, 3])


class FakeEngine:
    """What a worker in this process speaks to."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def step(self) -> StepOutput:
        self.calls.append("step")
        return StepOutput([], 3)

    def publish(self, version: int) -> dict[str, Any]:
        self.calls.append(f"publish {version}")
        return {}


@pytest.fixture
def engine() -> Any:
    return FakeEngine()


@pytest.fixture
def here(engine: Any) -> LocalTransport:
    return LocalTransport(Worker(engine, None, {}))  # type: ignore[arg-type]


def test_a_call_here_while_one_is_in_flight_raises_and_loses_nothing(
    here: LocalTransport, engine: Any
) -> None:
    ticket = here.begin("generate", Worker.generate, [0], STEP)
    with pytest.raises(RuntimeError, match=r"^1 calls to workers are in flight; wait for them first$"):
        here.call("sync", Worker.publish, [(4,)])
    assert engine.calls == []
    assert here.wait([ticket]) == [(ticket, StepOutput([], 3))]
    assert here.call("sync", Worker.publish, [(4,)]) == [{}]
    assert engine.calls == ["step", "publish 4"]


def test_what_is_dropped_here_was_never_called(here: LocalTransport, engine: Any) -> None:
    here.drop([here.begin("generate", Worker.generate, [0], STEP) for _ in range(2)])
    here.call("sync", Worker.publish, [(1,)])
    assert engine.calls == ["publish 1"]


class FakeRay:
    """Answers with the name of the method, and what it was given. One answer comes per wait, and `more` with it."""

    def __init__(self, answer: type) -> None:
        self.answer = answer
        self.more = 0
        self.stored: list[Any] = []
        self.sent: list[tuple[str, int]] = []  # method and number of the message of each call
        self.heard: list[int] = []  # calls that were answered

    def put(self, message: Any) -> int:
        self.stored.append(message)
        return len(self.stored) - 1

    def send(self, method: str, message: int, seconds: float, wanted: bool) -> int:
        assert seconds > 0
        self.sent.append((method, message))
        return len(self.sent) - 1

    def send_all(self, *columns: list[Any]) -> list[int]:
        return [self.send(*given) for given in zip(*columns, strict=True)]

    def wait(
        self, references: list[int], *, num_returns: int = 1, timeout: float
    ) -> tuple[list[int], list[int]]:
        there = min(num_returns, 1 if timeout else self.more)
        return references[:there], references[there:]

    def get(self, reference: int) -> Any:
        self.heard.append(reference)
        method, message = self.sent[reference]
        return self.answer((method, self.stored[message]))


@pytest.fixture
def on_ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A transport to four workers, and the Ray that it speaks to."""
    pytest.importorskip("ray")
    pytest.importorskip("verl")
    from reasoner_rl.distributed.ray import group as ray_group

    ray = FakeRay(ray_group.Answer)
    monkeypatch.setattr(ray_group, "ray", ray)
    config: Any = SimpleNamespace(run=SimpleNamespace(output_dir=Path("unused")))
    transport: Any = ray_group.RayTransport(config, RayClusterConfig(kind="ray", workers_per_node=4), print)
    transport._groups = [SimpleNamespace(call=ray.send_all, world_size=4)]
    transport._actors = [SimpleNamespace(call=SimpleNamespace(remote=ray.send)) for _ in range(4)]
    return transport, ray


def test_ranks_that_are_given_the_same_tuple_share_one_message(on_ray: Any) -> None:
    """A share of a batch may be large, and all ranks of a model-parallel replica train on the same one."""
    transport, ray = on_ray
    first, second = ("policy", "first", 1), ("policy", "second", 1)
    answers = transport.call("train", Worker.update, [first, second, first, second])
    assert ray.stored == [first, second], "each is stored once"
    assert ray.sent == [("update", 0), ("update", 1), ("update", 0), ("update", 1)]
    assert answers == [("update", first), ("update", second)] * 2, "by rank"
    transport.call("sync", Worker.publish, [(5,)] * 4)
    assert ray.stored[2:] == [(5,)]


def test_a_call_over_ray_while_one_is_in_flight_raises_and_loses_nothing(on_ray: Any) -> None:
    transport, ray = on_ray
    tickets = [transport.begin("generate", Worker.generate, ranks, STEP) for ranks in REPLICAS]
    assert len(ray.stored) == 2, "one message for all ranks of a replica"
    with pytest.raises(RuntimeError, match=r"^2 calls to workers are in flight; wait for them first$"):
        transport.call("sync", Worker.publish, [(4,)] * 4)
    assert [method for method, _ in ray.sent] == ["generate"] * 4
    ended = transport.wait(tickets) + transport.wait(tickets[1:])
    assert ended == [(ticket, ("generate", STEP)) for ticket in tickets]
    assert transport.call("sync", Worker.publish, [(4,)] * 4) == [("publish", (4,))] * 4


def test_dropping_over_ray_waits_until_every_rank_has_ended(on_ray: Any) -> None:
    transport, ray = on_ray
    transport.drop([transport.begin("generate", Worker.generate, ranks, STEP) for ranks in REPLICAS])
    assert sorted(ray.heard) == [0, 1, 2, 3]
    transport.call("sync", Worker.publish, [(4,)] * 4)


def test_answers_that_came_together_are_taken_together(on_ray: Any) -> None:
    transport, ray = on_ray
    tickets = [transport.begin("generate", Worker.generate, ranks, STEP) for ranks in REPLICAS]
    ray.more = 3
    assert [ticket for ticket, _ in transport.wait(tickets)] == tickets
