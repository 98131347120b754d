"""Workers in processes of their own, on one machine or many, through Ray and verl's single controller.

The only module that imports ray and verl. verl places one actor per worker (RayResourcePool, RayWorkerGroup), tells it
its rank and where rank 0 listens, and dispatches calls. Every call has a deadline: a rank that has not answered by
then writes its stack to ``output_dir/stacks``, and the run ends. So it does when a worker raises or dies.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar, TypeVarTuple

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import placement_group
from verl.single_controller.base import Worker as VerlWorker
from verl.single_controller.base.decorator import Dispatch, register
from verl.single_controller.ray import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup

from reasoner_rl.config.cluster import RayClusterConfig
from reasoner_rl.config.judging import Launched
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.distributed.building import build_worker
from reasoner_rl.distributed.fate import SharedFate
from reasoner_rl.distributed.hub import (
    download,
    first_on_each_machine,
    hub_names,
    models_of,
    with_cached_models,
)
from reasoner_rl.distributed.interfaces import Network, interfaces_here, network_of, user_settings
from reasoner_rl.distributed.serialization import REDUCERS, rebuild
from reasoner_rl.distributed.transport import Phase, Ticket, require_none_begun
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.errors import UserError, WorkerError
from reasoner_rl.training.device import unused_gpus_here

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")

# Of the driver's environment, what begins so is passed on to workers on other machines.
_PASSED_ON = ("HF_", "NCCL_", "GLOO_", "VLLM_", "TORCH_", "PYTORCH_", "GOMP_", "OMP_WAIT_POLICY")
_NOT_PASSED_ON = "VLLM_HOST_IP"  # each machine has its own
_OWN_METHODS = ("locate", "download", "build")  # of RayWorker; others are the worker's
# Set, they keep Ray from giving every worker a GPU of its own: all would use the first of the machine.
_ALL_GPUS_FOR_ALL = tuple(
    f"RAY_EXPERIMENTAL_NOSET_{kind}_VISIBLE_DEVICES" for kind in ("CUDA", "ROCR", "HIP")
)
_DUMP_SECONDS = 10.0  # that a rank has to take up a call, and to write its stack after its deadline
_CONNECT_SECONDS = 10.0  # for the head of a Ray cluster to answer
_GRACE_SECONDS = 5.0  # that is waited, after a worker has failed, for the one whose failure made it fail


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in a worker."""

    kind: str  # "died", "user", "diverged" or "error"
    message: str
    stack: str = ""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a worker is."""

    machine: str  # its host name
    process: int
    network: Network

    def __str__(self) -> str:
        return f"{self.machine} (process {self.process})"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker's method returned, or why it did not."""

    value: Any = None
    failure: Failure | None = None


@dataclass(slots=True)
class _Call:
    """A call that has not ended at all its ranks."""

    phase: Phase
    method: str
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

    def locate(self, folder: Path, stacks: Path) -> Location:
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
            self._stacks = (stacks / f"rank_{self.rank:04d}.txt").open("w")
        address = ray.util.get_node_ip_address()
        network = network_of(address, interfaces_here(), user_settings(os.environ))
        os.environ.update(network.variables())
        return Location(machine, os.getpid(), network)

    def download(self, model: ModelConfig, section: str) -> None:
        """Fetch the model that a section names into this machine's cache; see `hub.download`."""
        download(model, section)

    def build(self, config: Launched) -> None:
        """Join the process group and make the worker. What the recipe names on the hub is in this machine's cache."""
        assert isinstance(config.cluster, RayClusterConfig)
        torch.set_num_threads(config.cluster.cpus_per_worker)
        longest = max(config.cluster.deadlines.model_dump().values())
        # On a GPU the CPU side serves checkpoints and vLLM's exchange of Python objects.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=longest))
        self._worker = build_worker(with_cached_models(config))


class RayTransport:
    """Implements `Transport` with one actor per rank."""

    def __init__(self, config: Launched, cluster: RayClusterConfig, tell: Callable[[str], None]) -> None:
        self.ranks = cluster.ranks
        self._config, self._cluster, self._tell = config, cluster, tell
        self._stacks = config.run.output_dir.absolute() / "stacks"
        self._locations = ["a machine that has not answered yet"] * self.ranks
        self._calls: dict[Ticket[Any], _Call] = {}
        self._tickets = 0
        self._actors: list[Any] = []
        self._ended: Exception | None = None  # why no more calls can be made
        # Of what Ray started on this machine, if it was started for this run.
        self._fate: SharedFate | None = None

    def start(self) -> None:
        """Start or join Ray, wait for its machines, start the workers."""
        cluster = self._cluster
        self._stacks.mkdir(parents=True, exist_ok=True)
        _init_ray(cluster)
        _register_reducers()
        if cluster.address is None:
            self._fate = SharedFate()
            self._fate.include_ray()
        use_gpu = _wants_gpus(cluster)
        pool = RayResourcePool(
            [cluster.workers_per_node] * cluster.nodes, use_gpu=use_gpu, max_colocate_count=1
        )
        pool.pgs = _reserve(cluster, use_gpu, self._tell)
        self._group = RayWorkerGroup(
            pool,
            RayClassWithInitArgs(ray.remote(RayWorker)),
            device_name="cuda" if use_gpu else "cpu",
            worker_env=_worker_environment(cluster, use_gpu),
        )
        self._actors = list(self._group.workers)
        self._tell(f"starting {self.ranks} workers")
        places: list[Location] = self._call_all("start", "locate", [(Path.cwd(), self._stacks)] * self.ranks)
        self._locations = [str(place) for place in places]
        if self._fate is not None:
            self._fate.include_ray()  # what has been started since: workers, and agents that were slow to start
        machines = [f"{place.machine} ({place.network})" for place in places]
        self._tell("workers: " + ", ".join(f"{machines.count(m)} on {m}" for m in dict.fromkeys(machines)))
        self._download(first_on_each_machine(machines))
        self._call_all("start", "build", [(self._config,)] * self.ranks)

    def _download(self, ranks: Sequence[int]) -> None:
        for section, model in models_of(self._config).items():
            if names := hub_names(model):
                self._tell(f"fetching {' and '.join(names)} from the hub, once per machine")
                self.wait([self._begin("start", "download", ranks, (model, section))])

    def stop(self) -> None:
        """Stop the workers, and Ray if it was started here."""
        if self._ended is None:
            self._ended = WorkerError("the workers were stopped")
            for actor in self._actors:
                ray.kill(actor)
            ray.shutdown()
            if self._fate is not None:
                self._fate.close()

    def call(
        self, phase: Phase, method: Callable[[Worker, *Arguments], R], arguments: Sequence[tuple[*Arguments]]
    ) -> list[R]:
        """See `Transport.call`."""
        require_none_begun(self._calls)
        return self._call_all(phase, method.__name__, arguments)

    def _call_all(self, phase: Phase, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of every worker, or of `RayWorker`; what several ranks are given is stored once."""
        self._check_running()
        seconds, n = getattr(self._cluster.deadlines, phase), self.ranks
        stored = {key: ray.put(each) for key, each in {id(each): each for each in arguments}.items()}
        messages = [stored[id(each)] for each in arguments]
        references = self._group.call([method] * n, messages, [seconds] * n, [True] * n)
        call = _Call(phase, method, dict(zip(references, range(n), strict=True)), time.monotonic() + seconds)
        while call.pending:
            self._await([call])
        return [call.answers[rank] for rank in range(n)]

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
        self._calls[ticket] = _Call(phase, method, pending, time.monotonic() + seconds)
        return ticket

    def wait(self, tickets: Sequence[Ticket[R]]) -> list[tuple[Ticket[R], R]]:
        """See `Transport.wait`."""
        self._check_running()
        while True:
            self._await([self._calls[ticket] for ticket in tickets])
            ended = [
                (ticket, self._calls.pop(ticket)) for ticket in tickets if not self._calls[ticket].pending
            ]
            if ended:
                return [(ticket, call.answers[min(call.answers)]) for ticket, call in ended]

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
        ready, _ = ray.wait(list(by_reference), timeout=max(left, 0.0))
        if not ready:
            self._hung(min(calls, key=lambda call: call.deadline))
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
        where = f"worker {rank} of {self.ranks}, on {self._locations[rank]},"
        if failure.kind == "died":
            logs = "What it said last is in /tmp/ray/session_latest/logs on that machine, in worker-*-PROCESS.err"
            self._stop_with(WorkerError(f"{where} died in {call.method}: {failure.message}\n{logs}"))
        stack = f"\n{failure.stack}" if failure.stack else ""
        self._stop_with(WorkerError(f"{where} failed in {call.method}: {failure.message}{stack}"))

    def _hung(self, call: _Call) -> NoReturn:
        seconds = getattr(self._cluster.deadlines, call.phase)
        waited = ", ".join(f"{rank} on {self._locations[rank]}" for rank in sorted(call.pending.values()))
        self._stop_with(
            WorkerError(
                f"no answer to {call.method} within {seconds:g} s (cluster.deadlines.{call.phase}) from workers "
                f"{waited}; what they were doing is in {self._stacks}"
            )
        )

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


def _init_ray(cluster: RayClusterConfig) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if cluster.address is None:
            cpus = max(os.cpu_count() or 1, cluster.workers_per_node)
            # "local": not one that runs here already.
            ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
            return
        if cluster.address != "auto":  # Ray itself would try for minutes
            host, _, port = cluster.address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        ray.init(address=cluster.address, **quiet)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise UserError(
            f"cluster.address={cluster.address!r}: no Ray cluster answers, or it asks for another token than "
            f"RAY_AUTH_MODE and RAY_AUTH_TOKEN say: {error}"
        ) from error
    except Exception as error:  # Ray raises a bare one where a machine is too slow to start it
        raise WorkerError(f"Ray could not be started: {type(error).__name__}: {error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own would leave at once, in the middle of a step


def _register_reducers() -> None:
    """Let this process serialise what it sends as `serialization` says."""
    for kind, reducer in REDUCERS.items():
        ray.util.register_serializer(kind, serializer=reducer, deserializer=rebuild)


def _wants_gpus(cluster: RayClusterConfig) -> bool:
    """Whether workers get a GPU each. Raises UserError if this machine has some that they could not use."""
    if cluster.device == "cpu":
        return False
    if (problem := unused_gpus_here()) is not None:
        raise UserError(problem)
    in_cluster = any(node["Resources"].get("GPU") for node in ray.nodes())
    use_gpu = cluster.device == "gpu" or torch.cuda.is_available() or in_cluster
    if use_gpu:
        refuse_all_gpus_for_all(os.environ, "the environment of this command")
    return use_gpu


def refuse_all_gpus_for_all(environment: Mapping[str, str], place: str) -> None:
    """Raise UserError if a variable is set that lets every worker of a machine see, and use, its first GPU."""
    for name in _ALL_GPUS_FOR_ALL:
        if environment.get(name, "").lower() not in ("", "0", "false"):
            raise UserError(
                f"{name}={environment[name]} is set in {place}: Ray then shows all GPUs of a machine to each worker, "
                "and all workers would use the first. Unset it, also where `ray start` is run"
            )


def check_reserved_gpus(
    reserved: Sequence[Any], seen: int, environment: Mapping[str, str], machine: str
) -> None:
    """Raise UserError unless a worker sees the GPUs that Ray reserved for it, and no others.

    reserved: Ray's ids of them, empty for a worker on a CPU. seen: how many torch sees in the worker.
    """
    if not reserved:
        return
    refuse_all_gpus_for_all(environment, f"the environment of Ray on {machine}")
    if seen != len(reserved):
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        reason = unused_gpus_here() if seen == 0 else None
        raise UserError(
            f"Ray reserved GPU {', '.join(map(str, reserved))} for a worker on {machine}, where torch "
            f"{torch.__version__} sees {seen} GPUs (CUDA_VISIBLE_DEVICES={visible}): "
            + (reason or "check its driver with nvidia-smi, and that its torch is built for CUDA")
        )


def _reserve(cluster: RayClusterConfig, use_gpu: bool, tell: Callable[[str], None]) -> list[Any]:
    """Reserve one GPU (or CPU) per worker, one placement group per machine; print what there is and what is needed.

    Raises UserError if the machines are not there within the deadline, or at once if Ray was started for this run.
    """
    kind, per_node, told = "GPU" if use_gpu else "CPU", cluster.workers_per_node, ""
    bundle = {"CPU": 1, "GPU": 1} if use_gpu else {"CPU": 1}
    groups = [placement_group([bundle] * per_node, strategy="STRICT_PACK") for _ in range(cluster.nodes)]
    waiting = [group.ready() for group in groups]
    ends = time.monotonic() + cluster.deadlines.start
    while True:
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1.0)
        if not waiting:
            return groups
        amounts = [node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]]
        machines = sum(amount >= per_node for amount in amounts)
        status = (
            f"Ray has {machines} of {cluster.nodes} machines with {per_node} {kind}s each, and reserved them for this "
            f"run on {cluster.nodes - len(waiting)}; {ray.available_resources().get(kind, 0):g} {kind}s are free in all"
        )
        if status != told:
            tell(status)
            told = status
        if time.monotonic() > ends or (cluster.address is None and machines < cluster.nodes):
            raise UserError(
                f"{status}: check cluster.nodes and cluster.workers_per_node, start more machines, or wait for others' "
                "runs to end"
            )


def _worker_environment(cluster: RayClusterConfig, use_gpu: bool) -> dict[str, str]:
    # No secrets: Ray shows the environment to all who can log in.
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PASSED_ON) and not name.endswith(("_TOKEN", "_KEY")) and name != _NOT_PASSED_ON
    }
    # Ray itself hides no GPU from who asked for none.
    hidden = {} if use_gpu else {"CUDA_VISIBLE_DEVICES": ""}
    return passed | hidden | {"OMP_NUM_THREADS": str(cluster.cpus_per_worker)}
