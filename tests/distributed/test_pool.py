"""How a group hands out work and puts answers together; the workers are played by a recorder."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from reasoner_rl.distributed.group import WorkerGroup

from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.metrics import maximum, mean, total, values
from reasoner_rl.rollout.engine import GenerationRequest, StepOutput
from reasoner_rl.types import Rollout, TrainSample

SAMPLING = SamplingConfig(max_response_tokens=4)


def rollout(token: int) -> Rollout:
    return Rollout((token,), (-0.5,), "stop", 1, "x")


class FakeTransport:
    """Every turn finishes the replica's oldest request; the replica to answer next is chosen by ``order``."""

    def __init__(self, ranks: int, order: Sequence[int] = ()) -> None:
        self.ranks = ranks
        self.order = list(order)  # first ranks of the replicas, in the order in which they answer
        self.calls: list[tuple[str, str, Any]] = []
        self.works: dict[int, list[GenerationRequest]] = {}
        self.running: dict[Hashable, int] = {}
        self.most_in_flight = 0
        self.tickets = 0
        self.partial: dict[
            int, int
        ] = {}  # first rank -> responses that its next turn finishes, and no request

    def call(self, phase: str, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        assert len(arguments) == self.ranks
        self.calls.append((phase, method, arguments))
        if method == "logprobs":
            return [self._logprobs(*given) for given in arguments]
        if method in ("update", "publish_weights"):
            return [{"a": mean(rank, 1), "b": total(1), "c": maximum(rank)} for rank in range(self.ranks)]
        return [None] * self.ranks

    def _logprobs(self, batch: Any, reference: bool) -> dict[int, torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        for micro_batch in batch.micro_batches:
            found.update(micro_batch.split_responses(micro_batch.targets.float() + 100 * reference))
        return found

    def begin(self, phase: str, method: str, ranks: Sequence[int], arguments: tuple[Any, ...]) -> Hashable:
        requests, sampling = arguments
        assert (phase, method, sampling) == ("generate", "turn", SAMPLING)
        self.calls.append((phase, method, (tuple(ranks), [request.number for request in requests])))
        assert ranks[0] not in self.running.values(), "one turn at a time"
        self.works.setdefault(ranks[0], []).extend(requests)
        assert self.works[ranks[0]], "a turn with nothing to do"
        in_flight = sum(request.samples for request in self.works[ranks[0]])
        self.most_in_flight = max(self.most_in_flight, in_flight)
        self.tickets += 1
        self.running[self.tickets] = ranks[0]
        return self.tickets

    def wait(self, tickets: Sequence[Hashable]) -> list[tuple[Hashable, Any]]:
        wanted = self.order.pop(0) if self.order else self.running[tickets[0]]
        ticket = next(ticket for ticket in tickets if self.running[ticket] == wanted)
        if responses := self.partial.pop(wanted, 0):
            del self.running[ticket]
            return [(ticket, StepOutput([], responses))]
        request = self.works[self.running.pop(ticket)].pop(0)
        return [
            (
                ticket,
                StepOutput([(request.number, [rollout(request.number)] * request.samples)], request.samples),
            )
        ]


def make(
    ranks: int,
    *,
    tensor_parallel: int = 1,
    capacity: int = 4,
    order: Sequence[int] = (),
    backend: dict[str, Any] | None = None,
) -> tuple[Any, FakeTransport]:
    config = OnlineConfig.model_validate(
        {
            "run": {"output_dir": Path("unused")},
            "model": {"path": "unused"},
            "data": {"train": {"path": "unused.jsonl"}},
            "cluster": {"kind": "ray", "workers_per_node": ranks},
            "rollout": {
                "engine": {
                    "kind": "vllm",
                    "tensor_parallel": tensor_parallel,
                    "max_batch_sequences": capacity,
                }
            },
            "batch": {"micro_batch_tokens": 8},
            "training": {"backend": backend or {"kind": "fsdp"}},
        }
    )
    transport = FakeTransport(ranks, order)
    return WorkerGroup(config, transport), transport  # type: ignore[arg-type]


def requests(count: int, samples: int = 1) -> list[GenerationRequest]:
    return [GenerationRequest((1,), samples, seed=0, number=number) for number in range(count)]


def handed_out(transport: FakeTransport) -> list[tuple[tuple[int, ...], list[int]]]:
    return [what for _, method, what in transport.calls if method == "turn"]


def test_requests_are_spread_and_come_back_in_order() -> None:
    group, transport = make(2)
    found = group.generate(requests(4), SAMPLING)
    assert [answer[0].token_ids for answer in found] == [(0,), (1,), (2,), (3,)]
    assert handed_out(transport)[:2] == [((0,), [0, 2]), ((1,), [1, 3])]


def test_a_replica_is_all_ranks_that_share_a_copy_of_the_model() -> None:
    group, transport = make(4, tensor_parallel=2)
    group.generate(requests(2), SAMPLING)
    assert handed_out(transport) == [((0, 1), [0]), ((2, 3), [1])]


def test_a_slow_replica_does_not_hold_up_the_queue() -> None:
    """Replica 0 answers only when there is nothing else left; replica 1 has done all the rest by then."""
    group, transport = make(2, capacity=2, order=[1] * 8)
    found = group.generate(requests(10), SAMPLING)
    assert len(found) == 10
    assert transport.most_in_flight == 2, "no more in flight than can be drawn side by side"
    by_rank = {
        rank: sum(len(new) for ranks, new in handed_out(transport) if ranks == (rank,)) for rank in (0, 1)
    }
    assert by_rank == {0: 2, 1: 8}


def test_a_group_is_not_begun_where_it_does_not_fit() -> None:
    group, transport = make(2, capacity=5)
    group.generate(requests(6, samples=4), SAMPLING)
    assert transport.most_in_flight == 4


def test_a_group_larger_than_the_capacity_is_drawn_by_one_replica() -> None:
    group, transport = make(2, capacity=4)
    assert [len(answer) for answer in group.generate(requests(3, samples=6), SAMPLING)] == [6, 6, 6]
    assert transport.most_in_flight == 6


def test_a_replica_goes_on_while_the_caller_looks_at_what_is_finished() -> None:
    group, transport = make(1, capacity=8)
    group.submit(requests(2), SAMPLING)
    turn = group.step()
    assert [number for number, _ in turn.finished] == [0]
    assert list(transport.running.values()) == [0], "the next turn has begun"
    group.submit([GenerationRequest((1,), 1, 0, number=7)], SAMPLING)
    numbers = [number for _ in range(2) for number, _ in group.step().finished]
    assert numbers == [1, 7]
    assert group.step() == StepOutput(), "nothing is left to do"


def test_a_response_that_is_finished_makes_room_though_its_group_is_not() -> None:
    """A group ends with its longest response; the places of the others must not stay empty until then."""
    group, transport = make(2, capacity=4)
    group.submit([GenerationRequest((1,), 4, seed=0, number=number) for number in range(4)], SAMPLING)
    group.step()  # begins both replicas' turns
    [ticket, *_] = list(transport.running)
    busy = transport.running[ticket]
    transport.partial[busy] = 4  # four responses of the replica's groups, no group complete
    transport.order = [busy]
    before = sum(len(new) for ranks, new in handed_out(transport) if ranks == (busy,))
    group.step()
    after = sum(len(new) for ranks, new in handed_out(transport) if ranks == (busy,))
    assert after == before + 1


def test_an_error_aborts_everywhere_and_ctrl_c_does_not_wait_for_that() -> None:
    group, transport = make(2)

    def fail(error: BaseException) -> Any:
        def progress(finished: int) -> None:
            raise error

        return progress

    with pytest.raises(KeyboardInterrupt):
        group.generate(requests(6), SAMPLING, fail(KeyboardInterrupt()))
    assert [method for _, method, _ in transport.calls if method == "abort"] == []
    group, transport = make(2)
    with pytest.raises(ZeroDivisionError):
        group.generate(requests(6), SAMPLING, fail(ZeroDivisionError()))
    assert transport.calls[-1] == ("generate", "abort", [(), ()])
    transport.works.clear()
    transport.running.clear()
    assert [answer[0].token_ids for answer in group.generate(requests(2), SAMPLING)] == [(0,), (1,)]


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_logprobs_come_back_in_the_order_of_the_samples(ranks: int) -> None:
    group, _ = make(ranks)
    samples = [
        TrainSample(
            prompt_ids=torch.tensor([9]),
            response_ids=torch.full((length,), index),
            loss_mask=torch.ones(length, dtype=torch.bool),
            advantages=torch.zeros(length),
            rollout_logprobs=torch.zeros(length),
        )
        for index, length in enumerate([3, 1, 6, 2])
    ]
    found = group.logprobs(samples)
    assert [values.tolist() for values in found] == [[0.0] * 3, [1.0], [2.0] * 6, [3.0] * 2]
    assert group.logprobs(samples, reference=True)[3].tolist() == [103.0] * 2


def test_metrics_of_the_ranks_are_reduced_and_not_averaged_again() -> None:
    group, transport = make(3)
    assert values(group.update([["x"], ["y"], ["z"]])) == {"a": 1.0, "b": 3.0, "c": 2.0}
    assert transport.calls == [("train", "update", [(["x"],), (["y"],), (["z"],)])]
    group.publish_weights(5)
    assert transport.calls[-1] == ("sync", "publish_weights", [(5,)] * 3)
    for method in ("save", "load", "export"):
        getattr(group, method)(Path("folder"))
        assert transport.calls[-1] == ("checkpoint", method, [(Path("folder"),)] * 3)


def test_ranks_of_a_model_parallel_replica_train_on_the_same_share() -> None:
    """Megatron counts tensor-parallel ranks first, then context ranks, then replicas, then pipeline stages."""
    megatron = {"kind": "megatron", "tensor_parallel": 2, "pipeline_parallel": 2}
    group, transport = make(8, backend=megatron)
    assert group.shards == 2
    group.update([["first"], ["second"]])
    [(_, _, arguments)] = transport.calls
    shares = [updates[0] for (updates,) in arguments]
    assert shares == ["first", "first", "second", "second", "first", "first", "second", "second"]
    group, transport = make(8, backend={"kind": "megatron", "context_parallel": 4})
    group.update([["first"], ["second"]])
    [(_, _, arguments)] = transport.calls
    assert [updates[0] for (updates,) in arguments] == ["first"] * 4 + ["second"] * 4
