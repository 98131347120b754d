"""How the pool hands out requests and puts answers together; the workers are played by a recorder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from reasoner_rl.config.rollout import HfEngineConfig, SamplingConfig, VllmEngineConfig
from reasoner_rl.distributed.local import LocalTransport
from reasoner_rl.distributed.pool import GenerationPool
from reasoner_rl.distributed.transport import Ticket
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.metrics import maximum
from reasoner_rl.rollout.engine import GenerationRequest, StepOutput
from reasoner_rl.types import Rollout

SAMPLING = SamplingConfig(max_response_tokens=4)


def rollout(token: int) -> Rollout:
    return Rollout((token,), (-0.5,), "stop", 1, "x")


class FakeTransport:
    """Every step finishes the replica's oldest request; the replica to answer next is chosen by ``order``."""

    def __init__(self, ranks: int, order: Sequence[int] = ()) -> None:
        self.ranks, self.generators = ranks, range(ranks)
        self.order = list(order)  # first ranks of the replicas, in the order in which they answer
        self.calls: list[tuple[str, str, Any]] = []
        self.in_flight: dict[int, list[GenerationRequest]] = {}
        self.running: dict[Ticket[StepOutput], int] = {}
        self.most_in_flight = 0
        self.tickets = 0
        self.told: dict[Ticket[Any], tuple[Any, int]] = {}  # what was begun besides steps
        # First rank -> responses that its next step finishes, and no request.
        self.partial: dict[int, int] = {}

    def begin(
        self, phase: str, method: Any, ranks: Sequence[int], arguments: tuple[Any, ...]
    ) -> Ticket[StepOutput]:
        self.tickets += 1
        if method in (Worker.cancel, Worker.interrupt):
            assert (phase, arguments) == ("generate", ())
            assert ranks[0] not in self.running.values(), "a call while a step is running"
            self.calls.append((phase, method.__name__, tuple(ranks)))
            self.told[Ticket(self.tickets)] = (method, ranks[0])
            return Ticket(self.tickets)
        requests, sampling = arguments
        assert (phase, method, sampling) == ("generate", Worker.generate, SAMPLING)
        self.calls.append((phase, "generate", (tuple(ranks), [request.number for request in requests])))
        assert ranks[0] not in self.running.values(), "one step at a time"
        self.in_flight.setdefault(ranks[0], []).extend(requests)
        assert self.in_flight[ranks[0]], "a step with nothing to do"
        in_flight = sum(request.samples for request in self.in_flight[ranks[0]])
        self.most_in_flight = max(self.most_in_flight, in_flight)
        self.running[Ticket(self.tickets)] = ranks[0]
        return Ticket(self.tickets)

    def wait(self, tickets: Sequence[Ticket[StepOutput]]) -> list[tuple[Ticket[StepOutput], StepOutput]]:
        loaded = [ticket for ticket in tickets if self.told.get(ticket, ("",))[0] == "load"]
        if loaded:
            del self.told[loaded[0]]
            return [(loaded[0], {"sync/gib": maximum(1.0)})]  # type: ignore[list-item]
        if tickets[0] in self.told:
            assert set(tickets) == self.told.keys(), "all are told before one is waited for"
            method, rank = self.told.pop(tickets[0])
            left = self.in_flight.pop(rank, [])
            if method is Worker.cancel:
                return [(tickets[0], None)]  # type: ignore[list-item]
            begun = [(request.number, [rollout(request.number)] * request.samples) for request in left]
            return [(tickets[0], StepOutput(interrupted=begun))]
        wanted = self.order.pop(0) if self.order else self.running[tickets[0]]
        ticket = next(ticket for ticket in tickets if self.running[ticket] == wanted)
        if responses := self.partial.pop(wanted, 0):
            del self.running[ticket]
            return [(ticket, StepOutput([], responses))]
        request = self.in_flight[self.running.pop(ticket)].pop(0)
        answer = [rollout(request.number)] * request.samples
        return [(ticket, StepOutput([(request.number, answer)], request.samples))]

    def begin_loading(self, ranks: Sequence[int], weights: Any) -> Ticket[Any]:
        assert ranks[0] not in self.running.values(), "weights change while a step is running"
        assert not self.in_flight.get(ranks[0]), "weights change while responses are in flight"
        self.calls.append(("sync", f"load {weights}", tuple(ranks)))
        self.tickets += 1
        self.told[Ticket(self.tickets)] = ("load", ranks[0])
        return Ticket(self.tickets)

    def drop(self, tickets: Sequence[Ticket[StepOutput]]) -> None:
        self.calls.append(("generate", "drop", sorted(self.running.pop(ticket) for ticket in tickets)))


def make(
    ranks: int, *, tensor_parallel: int = 1, capacity: int = 4, order: Sequence[int] = ()
) -> tuple[GenerationPool, FakeTransport]:
    engine = VllmEngineConfig(kind="vllm", tensor_parallel=tensor_parallel, max_batch_sequences=capacity)
    transport = FakeTransport(ranks, order)
    return GenerationPool(engine, transport), transport  # type: ignore[arg-type]


def requests(count: int, samples: int = 1) -> list[GenerationRequest]:
    return [GenerationRequest((1,), samples, seed=0, number=number) for number in range(count)]


def handed_out(transport: FakeTransport) -> list[tuple[tuple[int, ...], list[int]]]:
    return [what for _, method, what in transport.calls if method == "generate"]


def test_requests_are_spread_and_come_back_in_order() -> None:
    pool, transport = make(2)
    found = pool.generate(requests(4), SAMPLING)
    assert [tuple(answer[0].token_ids) for answer in found] == [(0,), (1,), (2,), (3,)]
    assert handed_out(transport)[:2] == [((0,), [0, 2]), ((1,), [1, 3])]


def test_a_replica_is_all_ranks_that_share_a_copy_of_the_model() -> None:
    pool, transport = make(4, tensor_parallel=2)
    pool.generate(requests(2), SAMPLING)
    assert handed_out(transport) == [((0, 1), [0]), ((2, 3), [1])]


def test_a_slow_replica_does_not_hold_up_the_queue() -> None:
    """Replica 0 answers only when there is nothing else left; replica 1 has done all the rest by then."""
    pool, transport = make(2, capacity=2, order=[1] * 8)
    found = pool.generate(requests(10), SAMPLING)
    assert len(found) == 10
    assert transport.most_in_flight == 2, "no more in flight than can be drawn side by side"
    by_rank = {
        rank: sum(len(new) for ranks, new in handed_out(transport) if ranks == (rank,)) for rank in (0, 1)
    }
    assert by_rank == {0: 2, 1: 8}


def test_a_group_is_not_begun_where_it_does_not_fit() -> None:
    pool, transport = make(2, capacity=5)
    pool.generate(requests(6, samples=4), SAMPLING)
    assert transport.most_in_flight == 4


def test_a_group_larger_than_the_capacity_is_drawn_by_one_replica() -> None:
    pool, transport = make(2, capacity=4)
    assert [len(answer) for answer in pool.generate(requests(3, samples=6), SAMPLING)] == [6, 6, 6]
    assert transport.most_in_flight == 6


def test_a_replica_continues_while_the_caller_looks_at_what_is_finished() -> None:
    pool, transport = make(1, capacity=8)
    pool.submit(requests(2), SAMPLING)
    output = pool.step()
    assert [number for number, _ in output.finished] == [0]
    assert list(transport.running.values()) == [0], "the next step has begun"
    pool.submit([GenerationRequest((1,), 1, 0, number=7)], SAMPLING)
    numbers = [number for _ in range(2) for number, _ in pool.step().finished]
    assert numbers == [1, 7]
    assert pool.step() == StepOutput(), "nothing is left to do"


def test_a_response_that_is_finished_makes_room_though_its_group_is_not() -> None:
    """A group ends with its longest response; the places of the others must not stay empty until then."""
    pool, transport = make(2, capacity=4)
    pool.submit([GenerationRequest((1,), 4, seed=0, number=number) for number in range(4)], SAMPLING)
    pool.step()  # begins both replicas' steps
    [ticket, *_] = list(transport.running)
    busy = transport.running[ticket]
    transport.partial[busy] = 4  # four responses of the replica's groups, no group complete
    transport.order = [busy]
    before = sum(len(new) for ranks, new in handed_out(transport) if ranks == (busy,))
    pool.step()
    after = sum(len(new) for ranks, new in handed_out(transport) if ranks == (busy,))
    assert after == before + 1


def test_an_error_cancels_everywhere_and_ctrl_c_does_not_wait_for_that() -> None:
    pool, transport = make(2)

    def fail(error: BaseException) -> Any:
        def progress(finished: int, tokens: int) -> None:
            raise error

        return progress

    with pytest.raises(KeyboardInterrupt):
        pool.generate(requests(6), SAMPLING, fail(KeyboardInterrupt()))
    assert [method for _, method, _ in transport.calls if method in ("cancel", "drop")] == []
    pool, transport = make(2)
    with pytest.raises(ZeroDivisionError):
        pool.generate(requests(6), SAMPLING, fail(ZeroDivisionError()))
    assert transport.calls[-2:] == [("generate", "cancel", (0,)), ("generate", "cancel", (1,))]
    assert [tuple(answer[0].token_ids) for answer in pool.generate(requests(2), SAMPLING)] == [(0,), (1,)]


def test_cancelling_waits_for_the_steps_that_are_running() -> None:
    """They are in the workers' hands: what comes after them must not be taken for their answer."""
    pool, transport = make(2)
    pool.submit(requests(6), SAMPLING)
    pool.step()
    assert sorted(transport.running.values()) == [0, 1]
    assert pool.in_flight == 5
    pool.cancel()
    cancelled = [("generate", "cancel", (0,)), ("generate", "cancel", (1,))]
    assert transport.calls[-3:] == [("generate", "drop", [0, 1]), *cancelled]
    assert pool.in_flight == 0
    assert pool.step() == StepOutput(), "nothing comes of what was cancelled"


def test_what_is_in_flight_counts_until_it_is_returned_and_training_waits_for_it() -> None:
    pool, _ = make(2, capacity=4)
    pool.require_idle()
    pool.submit(requests(3, samples=4), SAMPLING)
    assert pool.in_flight == 12, "also what no replica has room for yet"
    pool.step()
    with pytest.raises(
        RuntimeError, match=r"^8 responses are in flight; wait for them, or cancel them, first$"
    ):
        pool.require_idle()
    numbers = [number for _ in range(2) for number, _ in pool.step().finished]
    assert len(numbers) == 2, "nothing was lost by asking"
    pool.require_idle()


class FakeEngine:
    """What a worker in this process speaks to; records what it is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.error: Exception | None = None

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        self.calls.append([request.number for request in requests])
        if self.error is not None:
            raise self.error
        self.requests = requests

    def step(self) -> StepOutput:
        finished = [(request.number, [rollout(request.number)]) for request in self.requests]
        return StepOutput(finished, len(finished))

    def cancel(self) -> None:
        self.calls.append("cancel")


@pytest.fixture
def engine() -> Any:
    return FakeEngine()


@pytest.fixture
def here(engine: Any) -> GenerationPool:
    """A pool whose one worker is in this process."""
    return GenerationPool(HfEngineConfig(), LocalTransport(Worker(engine, None, {})))  # type: ignore[arg-type]


def test_an_error_of_the_worker_here_is_the_one_that_is_raised(here: GenerationPool, engine: Any) -> None:
    engine.error = ValueError("request 0 has an empty prompt")
    with pytest.raises(ValueError, match="request 0 has an empty prompt"):
        here.generate(requests(2), SAMPLING)
    assert engine.calls == [[0, 1], "cancel"]
    engine.error = None
    assert [tuple(answer[0].token_ids) for answer in here.generate(requests(2), SAMPLING)] == [(0,), (1,)]


def test_a_step_here_that_is_cancelled_is_not_made(here: GenerationPool, engine: Any) -> None:
    """Here a step is made when it is waited for, so there is nothing to wait for before."""
    engine.step = lambda: StepOutput([], 1)  # one response of two
    here.submit(requests(1, samples=2), SAMPLING)
    here.step()  # and begins the next
    del engine.step
    engine.calls.clear()
    here.cancel()
    assert engine.calls == ["cancel"]
    here.require_idle()
    assert [tuple(answer[0].token_ids) for answer in here.generate(requests(1), SAMPLING)] == [(0,)]


def test_what_is_interrupted_comes_back_with_what_was_finished_meanwhile() -> None:
    pool, transport = make(3, capacity=2)
    pool.submit(requests(8), SAMPLING)
    pool.step()
    assert sorted(transport.running.values()) == [0, 1, 2]
    output = pool.interrupt()
    finished = {number for number, _ in output.finished}
    assert len(finished) == 3, "the steps that were running end first"
    begun = {number for number, _ in output.interrupted}
    assert finished.isdisjoint(begun)
    assert [method for _, method, _ in transport.calls[-3:]] == ["interrupt"] * 3
    assert pool.in_flight == 0
    assert pool.step() == StepOutput()
    assert len(pool.generate(requests(2), SAMPLING)) == 2


def test_a_replica_loads_weights_when_it_has_finished_what_it_has() -> None:
    """Until then it gets no new requests; they wait for replicas that have the weights."""
    pool, transport = make(2, capacity=2)
    pool.submit(requests(4), SAMPLING)
    found = [number for number, _ in pool.step().finished]
    pool.renew("v1")  # type: ignore[arg-type]
    pool.submit([GenerationRequest((1,), 1, 0, number=10 + number) for number in range(2)], SAMPLING)
    assert not [call for call in transport.calls if call[0] == "sync"], "both have responses in flight"
    while pool.in_flight:
        found += [number for number, _ in pool.step().finished]
    assert sorted(found) == [0, 1, 2, 3, 10, 11]
    loads = [place for place, call in enumerate(transport.calls) if call[0] == "sync"]
    assert sorted(transport.calls[place] for place in loads) == [
        ("sync", "load v1", (rank,)) for rank in (0, 1)
    ]
    for place, (_, method, what) in enumerate(transport.calls):
        if method == "generate" and {10, 11} & set(what[1]):
            assert ("sync", "load v1", what[0]) in transport.calls[:place]
    assert pool._weights is None, "the copy that was sent is not kept"
    assert pool.loaded()["sync/gib"].value() == 1.0
    assert pool.loaded() == {}
