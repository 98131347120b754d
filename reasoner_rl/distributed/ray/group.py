"""Workers in processes of their own, on one machine or many, through Ray and verl's single controller.

The only module that imports verl, and with its neighbours the only one that imports ray. verl places one actor per
worker (RayResourcePool, RayWorkerGroup), tells it its rank and where rank 0 listens, and dispatches calls. Every call
has a deadline: a rank that has not answered by then writes its stack to ``output_dir/stacks``, and the run ends. So it
does when a worker raises or dies.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar, TypeVarTuple

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from verl.single_controller.base import Worker as VerlWorker
from verl.single_controller.base.decorator import Dispatch, register
from verl.single_controller.ray import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup

from reasoner_rl.config.cluster import RayClusterConfig
from reasoner_rl.config.judging import Launched
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.recipes import EvalConfig
from reasoner_rl.config.rules import usable_nodes
from reasoner_rl.distributed.building import Part, build_worker
from reasoner_rl.distributed.fate import SharedFate
from reasoner_rl.distributed.hub import (
    download,
    first_on_each_machine,
    hub_names,
    models_of,
    with_cached_models,
)
from reasoner_rl.distributed.interfaces import interfaces_here, network_of, user_settings
from reasoner_rl.distributed.ray.answers import Answer, Failure, Location, as_worker_error
from reasoner_rl.distributed.ray.resources import (
    check_reserved_gpus,
    init_ray,
    reserve,
    wants_gpus,
    worker_environment,
)
from reasoner_rl.distributed.serialization import REDUCERS, rebuild
from reasoner_rl.distributed.stacks import Place, place_of, read_stacks, seen_from_outside, tell_hang
from reasoner_rl.distributed.transport import Phase, Ticket, require_none_begun
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.errors import UserError, WorkerError
from reasoner_rl.hybrid.streaming import Bucket, ReceivedWeights, SentWeights
from reasoner_rl.metrics import Metrics, merge
from reasoner_rl.training.megatron.connections import device_connections

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")

# Of RayWorker; others are the worker's.
_OWN_METHODS = ("locate", "download", "build", "send_weights", "load_weights")
_DUMP_SECONDS = 10.0  # that a rank has to take up a call, and to write its stack after its deadline
_GRACE_SECONDS = 5.0  # that is waited, after a worker has failed, for the one whose failure made it fail


@dataclass(slots=True)
class _Call:
    """A call that has not ended at all its ranks."""

    phase: Phase
    method: str
    ranks: frozenset[int]
    pending: dict[Any, int]  # reference to the answer to come -> rank
    deadline: float  # on the monotonic clock
    answers: dict[int, Any] = field(default_factory=dict)


class RayWorker(VerlWorker):
    """An actor that holds a Worker. It starts empty, so that what goes wrong in the making is an answer like others."""

    def __init__(self) -> None:
        super().__init__()
        _register_reducers()
        self._worker: Worker | None = None
        self._stacks: TextIO | None = None

    @register(dispatch_mode=Dispatch.ALL_TO_ALL, blocking=False)
    def call(self, method: str, arguments: tuple[Any, ...], seconds: float, wanted: bool) -> Answer:
        """Call a method of the worker, or one of those below; the stack is written if it takes ``seconds``."""
        if self._stacks is not None:
            faulthandler.dump_traceback_later(seconds, file=self._stacks)
        try:
            value = getattr(self if method in _OWN_METHODS else self._worker, method)(*arguments)
            self._forget_stacks()
            return Answer(value if wanted else None)
        except UserError as error:
            return Answer(failure=Failure("user", str(error)))
        except FloatingPointError as error:
            return Answer(failure=Failure("diverged", str(error)))
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            return Answer(failure=Failure("error", message, traceback.format_exc()))
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _forget_stacks(self) -> None:
        """Empty the file of a call that was late, and has ended all the same."""
        if self._stacks is not None and os.lseek(self._stacks.fileno(), 0, os.SEEK_CUR):
            os.lseek(self._stacks.fileno(), 0, os.SEEK_SET)
            os.ftruncate(self._stacks.fileno(), 0)

    def locate(self, folder: Path, stacks: Path, number: int) -> Location:
        """Go to the driver's ``folder``, since paths in a recipe may be relative, and choose a network interface.

        Raises UserError if the file system is not the driver's, who has made the folder ``stacks``, if this process
        has no GPU of its own where Ray reserved one for it, or if GLOO_SOCKET_IFNAME names no interface that it has.
        """
        machine = socket.gethostname()
        check_reserved_gpus(ray.get_gpu_ids(), torch.cuda.device_count(), os.environ, machine)
        if not stacks.is_dir():
            raise UserError(
                f"machine {machine} has no folder {stacks}: all machines must share the file system"
            )
        os.chdir(folder)
        with contextlib.suppress(OSError):  # the run can do without
            self._stacks = (stacks / f"rank_{number:04d}.txt").open("w")
        address = ray.util.get_node_ip_address()
        network = network_of(address, interfaces_here(), user_settings(os.environ))
        os.environ.update(network.variables())
        return Location(machine, os.getpid(), network)

    def download(self, model: ModelConfig, section: str) -> None:
        """Fetch the model that a section names into this machine's cache; see `hub.download`."""
        download(model, section)

    def build(self, config: Launched, part: Part) -> None:
        """Join the process group of those that do the same part, and make the worker.

        What the recipe names on the hub is in this machine's cache.
        """
        assert isinstance(config.cluster, RayClusterConfig)
        torch.set_num_threads(config.cluster.cpus_per_worker)
        longest = max(config.cluster.deadlines.model_dump().values())
        # On a GPU the CPU side serves checkpoints and vLLM's exchange of Python objects.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=longest))
        self._worker = build_worker(with_cached_models(config), part)

    def send_weights(self, version: int) -> tuple[SentWeights | None, Metrics]:
        """See `Worker.send_weights`. Buckets are in Ray's store of objects, on the machine of rank 0."""
        assert self._worker is not None
        return self._worker.send_weights(version, _stored)

    def load_weights(self, weights: SentWeights) -> Metrics:
        """See `Worker.load_weights`."""
        assert self._worker is not None
        return self._worker.load_weights(ReceivedWeights(weights, ray.get))


class RayTransport:
    """Implements `Transport` with one actor per rank."""

    def __init__(
        self, config: Launched, cluster: RayClusterConfig, tell: Callable[[str], None], restarts: int = 0
    ) -> None:
        self.meanwhile: Callable[[], object] | None = None
        self._config, self._cluster, self._tell, self._restarts = config, cluster, tell, restarts
        self._number_ranks(cluster.ranks)
        # The stacks of a worker that hung before are kept.
        stacks = f"stacks_{restarts}" if restarts else "stacks"
        self._stacks = config.run.output_dir.absolute() / stacks
        self._logs = "/tmp/ray/session_latest/logs"
        self._calls: dict[Ticket[Any], _Call] = {}
        self._tickets = 0
        self._reserved: list[PlacementGroup] = []
        self._groups: list[RayWorkerGroup] = []
        self._actors: list[Any] = []
        self._ended: Exception | None = None  # why no more calls can be made
        # Of what Ray started on this machine, if it was started for this run.
        self._fate: SharedFate | None = None

    def _number_ranks(self, ranks: int) -> None:
        """Those that hold the models first, then those that only generate."""
        apart = self._cluster.generation
        self.ranks, self._all = ranks, range(ranks + (apart.ranks if apart else 0))
        self.generators: Sequence[int] = self._all[ranks:] if apart else self._all
        self._locations = [Location("a machine that has not answered yet")] * len(self._all)

    def start(self) -> None:
        """Start or join Ray, wait for its machines, start the workers."""
        with as_worker_error("while the workers were started"):
            self._start()

    def _start(self) -> None:
        cluster = self._cluster
        self._stacks.mkdir(parents=True, exist_ok=True)
        init_ray(cluster)
        _register_reducers()
        if cluster.address is None:
            self._fate = SharedFate()
            self._fate.include_ray()
        context = ray.get_runtime_context()
        self._logs = f"{context.get_temp_dir()}/{context.get_session_name()}/logs"
        self._start_actors(wants_gpus(cluster))
        self._tell(f"starting {len(self._all)} worker{'s' * (len(self._all) > 1)}")
        here = (Path.cwd(), self._stacks)
        self._locations = self._call_all("start", "locate", [(*here, number) for number in self._all])
        if self._fate is not None:
            self._fate.include_ray()  # what has been started since: workers, and agents that were slow to start
        machines = [f"{place.machine} ({place.network})" for place in self._locations]
        self._tell("workers: " + ", ".join(f"{machines.count(m)} on {m}" for m in dict.fromkeys(machines)))
        self._download(first_on_each_machine(machines))
        self._call_all("start", "build", [(self._config, self._part(rank)) for rank in self._all])

    def _start_actors(self, use_gpu: bool) -> None:
        """Reserve machines and start a group of workers for the models, and one for generation if it is apart."""
        cluster, apart, pools = self._cluster, self._cluster.generation, []
        if apart is not None:  # reserved first, because only training can go on with fewer
            shape = (apart.nodes, apart.workers_per_node, "cluster.generation", use_gpu)
            pools.append((apart.workers_per_node, reserve(cluster, *shape, self._tell)))
            self._reserved += pools[0][1]
        shape = (cluster.nodes, cluster.workers_per_node, "cluster", use_gpu)
        machines = reserve(cluster, *shape, self._tell, self._usable)
        self._reserved += machines
        if len(machines) < cluster.nodes:
            self._number_ranks(len(machines) * cluster.workers_per_node)
            self._tell(
                f"going on with {len(machines)} of {cluster.nodes} machines (workers for the models: {self.ranks})"
            )
        pools.insert(0, (cluster.workers_per_node, machines))
        self._groups = [self._group(per_node, machines, use_gpu) for per_node, machines in pools]
        self._actors = [actor for group in self._groups for actor in group.workers]

    def _usable(self, there: int) -> int | None:
        """How many of the machines that are there will do in place of cluster.nodes; None if too few are there."""
        if self._restarts == 0 or self._cluster.min_nodes is None:
            return None
        if isinstance(self._config, EvalConfig):
            return there if there >= self._cluster.min_nodes else None
        return usable_nodes(self._config.training.backend, self._config.model, self._cluster, there)

    def _group(self, per_node: int, machines: list[PlacementGroup], use_gpu: bool) -> RayWorkerGroup:
        """Start workers that have a process group to themselves."""
        pool = RayResourcePool([per_node] * len(machines), use_gpu=use_gpu, max_colocate_count=1)
        pool.pgs = machines
        return RayWorkerGroup(
            pool,
            RayClassWithInitArgs(ray.remote(RayWorker)),
            device_name="cuda" if use_gpu else "cpu",
            worker_env=worker_environment(self._cluster, use_gpu)
            | device_connections(self._config, use_gpu, os.environ),
        )

    def _part(self, rank: int) -> Part:
        if self._cluster.generation is None:
            return "all"
        return "models" if rank < self.ranks else "generation"

    def _download(self, ranks: Sequence[int]) -> None:
        for section, model in models_of(self._config).items():
            if names := hub_names(model):
                self._tell(f"fetching {' and '.join(names)} from the hub, once per machine")
                self.wait([self._begin("start", "download", ranks, (model, section))])

    def stop(self) -> None:
        """Stop the workers, and Ray if it was started here."""
        if self._ended is None:
            self._ended = WorkerError("the workers were stopped")
            with contextlib.suppress(RayError):  # the cluster may be what has failed
                for actor in self._actors:
                    ray.kill(actor)
                for machine in self._reserved:
                    remove_placement_group(machine)
            self._calls.clear()
            ray.shutdown()
            if self._fate is not None:
                self._fate.close()

    def call(
        self, phase: Phase, method: Callable[[Worker, *Arguments], R], arguments: Sequence[tuple[*Arguments]]
    ) -> list[R]:
        """See `Transport.call`."""
        mine = frozenset(range(self.ranks))
        require_none_begun([call for call in self._calls.values() if call.ranks & mine])
        return self._call_all(phase, method.__name__, arguments)

    def send_weights(self, version: int) -> tuple[SentWeights, Metrics]:
        """See `Transport.send_weights`."""
        answers = self._call_all("sync", "send_weights", [(version,)] * self.ranks)
        return answers[0][0], merge(measured for _, measured in answers)

    def begin_loading(self, ranks: Sequence[int], weights: SentWeights) -> Ticket[Metrics]:
        """See `Transport.begin_loading`."""
        return self._begin("sync", "load_weights", ranks, (weights,))

    def _call_all(self, phase: Phase, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of the first workers, or of `RayWorker`; what several ranks are given is stored once."""
        self._check_running()
        seconds, n = getattr(self._cluster.deadlines, phase), len(arguments)
        stored = {key: ray.put(each) for key, each in {id(each): each for each in arguments}.items()}
        references: list[Any] = []
        first = 0
        for group in self._groups:
            messages = [stored[id(each)] for each in arguments[first : first + group.world_size]]
            count, first = len(messages), first + group.world_size
            references += (
                group.call([method] * count, messages, [seconds] * count, [True] * count) if count else []
            )
        pending = dict(zip(references, range(n), strict=True))
        call = _Call(phase, method, frozenset(range(n)), pending, time.monotonic() + seconds)
        while call.pending:
            self._await_with_others(call)
        return [call.answers[rank] for rank in range(n)]

    def _await_with_others(self, call: _Call) -> None:
        """Wait for one more answer to a call, or to those that were begun, of which `meanwhile` hears when one ends."""
        others = [other for other in self._calls.values() if other.pending] if self.meanwhile else []
        self._await([call, *others])
        if self.meanwhile is not None and any(not other.pending for other in others):
            self.meanwhile()

    def begin(
        self,
        phase: Phase,
        method: Callable[[Worker, *Arguments], R],
        ranks: Sequence[int],
        arguments: tuple[*Arguments],
    ) -> Ticket[R]:
        """See `Transport.begin`."""
        return self._begin(phase, method.__name__, ranks, arguments)

    def _begin(
        self, phase: Phase, method: str, ranks: Sequence[int], arguments: tuple[Any, ...]
    ) -> Ticket[Any]:
        self._check_running()
        seconds, message = getattr(self._cluster.deadlines, phase), ray.put(arguments)
        pending = {
            self._actors[rank].call.remote(method, message, seconds, rank == ranks[0]): rank for rank in ranks
        }
        self._tickets += 1
        ticket: Ticket[Any] = Ticket(self._tickets)
        deadline = time.monotonic() + seconds
        self._calls[ticket] = _Call(phase, method, frozenset(ranks), pending, deadline)
        return ticket

    def wait(self, tickets: Sequence[Ticket[R]]) -> list[tuple[Ticket[R], R]]:
        """See `Transport.wait`."""
        self._check_running()
        while True:
            ended = [
                (ticket, self._calls.pop(ticket)) for ticket in tickets if not self._calls[ticket].pending
            ]
            if ended:
                return [(ticket, call.answers[min(call.answers)]) for ticket, call in ended]
            self._await([self._calls[ticket] for ticket in tickets])

    def drop(self, tickets: Sequence[Ticket[Any]]) -> None:
        """See `Transport.drop`."""
        left = list(tickets)
        while left:
            for ticket, _ in self.wait(left):
                left.remove(ticket)

    def _check_running(self) -> None:
        if self._ended is not None:
            raise self._ended

    def _await(self, calls: Sequence[_Call]) -> None:
        """Wait for at least one more answer. Raises what `_fail` raises if it is a failure, or if it does not come."""
        by_reference = {reference: call for call in calls for reference in call.pending}
        left = min(call.deadline for call in calls) + _DUMP_SECONDS - time.monotonic()
        ready, waiting = ray.wait(list(by_reference), timeout=max(left, 0.0))
        if not ready:
            self._hung(min(calls, key=lambda call: call.deadline))
        if waiting:  # one is there; whatever else is there comes with it, and not by 1,023 further calls
            ready += ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        for reference in ready:
            call = by_reference[reference]
            rank = call.pending.pop(reference)
            answer = _get(reference)
            if answer.failure:
                self._fail(call, rank, answer.failure)
            call.answers[rank] = answer.value

    def _fail(self, call: _Call, rank: int, failure: Failure) -> NoReturn:
        """End the run with the first cause: where a worker dies, those that talk to it fail too."""
        failures = {rank: failure}
        if failure.kind != "died" and call.pending:
            ready, _ = ray.wait(list(call.pending), num_returns=len(call.pending), timeout=_GRACE_SECONDS)
            for reference in ready:
                if other := _get(reference).failure:
                    failures[call.pending[reference]] = other
        first = next((r for r, f in failures.items() if f.kind == "died"), rank)
        self._end(call, first, failures[first])

    def _end(self, call: _Call, rank: int, failure: Failure) -> NoReturn:
        if failure.kind == "diverged":
            self._stop_with(FloatingPointError(failure.message))
        if failure.kind == "user" and call.phase in ("start", "checkpoint"):
            self._stop_with(UserError(failure.message))
        where = f"worker {rank} of {len(self._all)}, on {self._locations[rank]},"
        if failure.kind == "died":
            logs = f"What it said last is in {self._logs} on that machine, in worker-*-PROCESS.err"
            self._stop_with(WorkerError(f"{where} died in {call.method}: {failure.message}\n{logs}"))
        stack = f"\n{failure.stack}" if failure.stack else ""
        self._stop_with(WorkerError(f"{where} failed in {call.method}: {failure.message}{stack}"))

    def _hung(self, call: _Call) -> NoReturn:
        seconds, late = getattr(self._cluster.deadlines, call.phase), sorted(call.pending.values())
        places = {rank: self._place(rank) if rank in late else "has answered" for rank in sorted(call.ranks)}
        waited = ", ".join(f"{rank} on {self._locations[rank]}" for rank in late)
        self._stop_with(
            WorkerError(
                f"no answer to {call.method} within {seconds:g} s (cluster.deadlines.{call.phase}) from "
                f"{len(late)} of {len(places)} workers: {tell_hang(places)}\n"
                f"They are {waited}; what they were doing is in {self._stacks}"
            )
        )

    def _place(self, rank: int) -> Place | str:
        """Where a rank is that has not answered, by its own stack, or if it wrote none, as seen from this machine."""
        file, location = self._stacks / f"rank_{rank:04d}.txt", self._locations[rank]
        place = place_of(read_stacks(file.read_text(errors="replace"))) if file.exists() else None
        if place is None and location.process and location.machine == socket.gethostname():
            return seen_from_outside(location.process)
        return place or "has written no stack"

    def _stop_with(self, error: Exception) -> NoReturn:
        """Whoever cleans up after the error and calls the workers once more gets the same error, and not another."""
        self.stop()
        self._ended = error
        raise error


def _get(reference: Any) -> Answer:
    try:
        answer: Answer = ray.get(reference)
        return answer
    except RayActorError as error:
        return Answer(failure=Failure("died", " ".join(str(error).split())))
    except Exception as error:  # an answer that cannot be carried over, for one
        return Answer(failure=Failure("error", f"{type(error).__name__}: {error}"))


def _register_reducers() -> None:
    """Let this process serialise what it sends as `serialization` says."""
    for kind, reducer in REDUCERS.items():
        ray.util.register_serializer(kind, serializer=reducer, deserializer=rebuild)


def _stored(bucket: Bucket) -> Any:
    """A reference to the bucket in Ray's store of objects, in host memory."""
    return ray.put([(name, tensor.detach().cpu()) for name, tensor in bucket])
