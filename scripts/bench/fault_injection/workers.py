"""Workers and machines of Ray die: with cluster.restarts the run goes on by itself, else the next command does."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from fault_injection.bench import RAY_SECONDS, Bench, Outcome, Trial, require_readable, sleep_until
from fault_injection.processes import ROOT, Command, Ended, TrialFailed

DEATHS_PER_TRIAL = 3
WORKERS_FAILED = 3
_WORKER = "ray::RayWorker"
_RANKS = 2
_GONE_SECONDS = 30.0
_BEFORE_THE_LAST_STEP = 0.8  # of the rows of metrics
_START_SECONDS = 300.0  # for the workers to be there
_REPAIR_SECONDS = 10.0  # at most, until another machine takes the place of a dead one
WITHOUT_RESTARTS_EVERY = 4  # trials
FEWER_MACHINES = 2  # of every four trials, 0 to 3, the one in which a dead machine is not replaced


def restarts_of(trial: Trial) -> int:
    """How often a trial's command may start its workers anew: in every fourth trial not at all."""
    return DEATHS_PER_TRIAL if trial.number % WITHOUT_RESTARTS_EVERY else 0


def worker_deaths(bench: Bench, trial: Trial) -> Outcome:
    """SIGKILL a worker of a run at random moments, as often as the run may restart; once if it may not."""
    place, choose, restarts = bench.place(trial), bench.random(trial), restarts_of(trial)
    reference, deaths, seen = bench.reference(trial.run), 0, list[psutil.Process]()
    command = _start(bench, trial, place, restarts)
    for share in _shares(choose, restarts or 1):
        workers = _next_workers(command, lambda: [command.pid], seen)
        sleep_until(command, place / "run", reference, choose, share)
        if not workers or command.status is not None:
            break
        deaths += _kill(choose.choice(workers))
    ended = command.ended(RAY_SECONDS)
    _require_gone(seen)
    return _went_on_or_resumes(bench, trial, place, ended, deaths, f"{deaths} workers killed")


def machine_deaths(bench: Bench, trial: Trial) -> Outcome:
    """SIGKILL one of two raylets and all below it, then start another, as often as the run may restart; or once.

    In every fourth trial no other machine takes its place, and the run continues with one.
    """
    place, choose, restarts = bench.place(trial), bench.random(trial), restarts_of(trial)
    reference, deaths, seen = bench.reference(trial.run), 0, list[psutil.Process]()
    fewer = trial.number % WITHOUT_RESTARTS_EVERY == FEWER_MACHINES
    with _two_machines() as cluster:
        layout = ["cluster.nodes=2", "cluster.workers_per_node=1", f"cluster.address={cluster.address}"]
        layout += ["cluster.min_nodes=1", "cluster.replacement_seconds=1"] if fewer else []
        command = _start(bench, trial, place, restarts, *layout)
        for share in _shares(choose, 1 if fewer else restarts or 1):
            workers = _next_workers(command, lambda: _raylets(cluster), seen)
            sleep_until(command, place / "run", reference, choose, share)
            if not workers or command.status is not None:
                break
            _kill_machine(cluster)
            deaths += 1
            if not fewer:
                command.sleep(choose.random() * _REPAIR_SECONDS)
                cluster.add_node(num_cpus=1)
        ended = command.ended(RAY_SECONDS)
    what = f"{deaths} machines died" + (", and none took their place" if fewer else "")
    return _went_on_or_resumes(bench, trial, place, ended, deaths, what)


def _shares(choose: random.Random, deaths: int) -> list[float]:
    """How much of the run is done at each death, one in each of as many equal parts; all before the last step."""
    return [_BEFORE_THE_LAST_STEP * (part + choose.random()) / deaths for part in range(deaths)]


def _start(bench: Bench, trial: Trial, place: Path, restarts: int, *layout: str) -> Command:
    words = bench.words(bench.runs[trial.run], place / "run")
    words += [*layout, *([f"cluster.restarts={restarts}"] if restarts else [])]
    return Command(words, place / "log.txt", cold=True)


def _went_on_or_resumes(
    bench: Bench, trial: Trial, place: Path, ended: Ended, deaths: int, what: str
) -> Outcome:
    """The command ended well by itself if it may restart workers; otherwise with an error, and the next one resumes."""
    run = bench.runs[trial.run]
    require_readable(place / "run")
    if ended.status == 0:
        bench.compare(run, place / "run")
        restarted = json.loads((place / "run" / "summary.json").read_text(encoding="utf-8"))["restarts"]
        # A death after the last step is noticed by nobody, and counts for nothing.
        return Outcome(restarted, f"{what}: the same command went on to the end, with {restarted} restarts")
    if "Traceback" in ended.output or ended.status != WORKERS_FAILED or restarts_of(trial):
        raise TrialFailed(f"{what}: the command ended with status {ended.status}: {ended.tail()}")
    if "The same command resumes from the newest checkpoint" not in ended.output:
        raise TrialFailed(f"{what}: no word on how to go on: {ended.tail()}")
    bench.finish(run, place / "run")
    return Outcome(deaths, f"{what}: an error, and the next command resumed")


def _next_workers(
    command: Command, parents: Callable[[], Sequence[int]], seen: list[psutil.Process]
) -> list[psutil.Process]:
    """Wait for a full set of workers below ``parents`` that are not ``seen``, and add them there.

    None if the command ends before.
    """
    found: dict[int, psutil.Process] = {}

    def there() -> bool:
        found.clear()
        found.update({worker.pid: worker for worker in _workers_below(parents()) if worker not in seen})
        return len(found) == _RANKS

    if not command.wait_until(there, _START_SECONDS):
        return []
    seen += found.values()
    return sorted(found.values(), key=lambda worker: int(worker.pid))


def _workers_below(parents: Sequence[int]) -> Iterator[psutil.Process]:
    for parent in parents:
        with suppress(psutil.Error):
            for child in psutil.Process(parent).children(recursive=True):
                with suppress(psutil.Error):
                    if _WORKER in " ".join(child.cmdline()):
                        yield child


def _kill(worker: psutil.Process) -> int:
    """SIGKILL. Returns how many died of it, 0 or 1."""
    with suppress(psutil.Error):
        worker.kill()
        return 1
    return 0


def _kill_machine(cluster: Any) -> None:
    """SIGKILL the raylet of the machine beside the head and all below it, as when the power fails.

    Workers would notice the death of their raylet too, but only after the few seconds that such a run takes.
    """
    node = next(iter(cluster.worker_nodes))
    below: list[psutil.Process] = []
    for raylet in node.all_processes["raylet"]:
        below += psutil.Process(raylet.process.pid).children(recursive=True)
    cluster.remove_node(node, allow_graceful=False)
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _require_gone(workers: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(workers, timeout=_GONE_SECONDS)
    if alive:
        for worker in alive:
            worker.kill()
        raise TrialFailed(f"{len(alive)} workers outlive the command")


@contextmanager
def _two_machines() -> Iterator[Any]:
    """A Ray cluster of two raylets on this machine, each with the CPU of one worker."""
    os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def _raylets(cluster: Any) -> list[int]:
    nodes = [cluster.head_node, *cluster.worker_nodes]
    return [each.process.pid for node in nodes for each in node.all_processes.get("raylet", [])]
