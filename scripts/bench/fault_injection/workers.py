"""Workers and machines of Ray die: with cluster.restarts the run goes on by itself, without it resumes; both to the bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from fault_injection.bench import RAY_SECONDS, Bench, Outcome, Trial, require_readable
from fault_injection.processes import ROOT, Command, Ended, TrialFailed

DEATHS_PER_TRIAL = 3
WORKERS_FAILED = 3
_WORKER = "ray::RayWorker"
_RANKS = 2
_GONE_SECONDS = 30.0


def restarts_exist() -> bool:
    """Whether this version of reasoner_rl can start workers anew."""
    from reasoner_rl.config.cluster import RayClusterConfig

    return "restarts" in RayClusterConfig.model_fields


def worker_deaths(bench: Bench, trial: Trial) -> Outcome:
    """SIGKILL workers of a run at random moments, three times with restarts, once without."""
    run, place, choose = bench.runs[trial.run], bench.place(trial), bench.random(trial)
    seconds, deaths = bench.reference(trial.run).seconds, 0
    restarts = DEATHS_PER_TRIAL if restarts_exist() else 0
    words = bench.words(run, place / "run") + ([f"cluster.restarts={restarts}"] if restarts else [])
    command = Command(words, place / "log.txt", cold=True)
    workers: list[psutil.Process] = []
    for _ in range(restarts or 1):
        known = {worker.pid for worker in workers}
        if not command.wait_until(
            lambda known=known: len(_new_workers([command.pid], known)) == _RANKS, 180.0
        ):
            break
        workers += _new_workers([command.pid], known)
        command.sleep(choose.random() * seconds * 0.6)
        deaths += _kill(choose.choice(workers[-_RANKS:])) if command.status is None else 0
    ended = command.ended(RAY_SECONDS)
    _require_gone(workers)
    return _went_on_or_resumes(bench, trial, place, ended, deaths, f"{deaths} workers killed")


def machine_deaths(bench: Bench, trial: Trial) -> Outcome:
    """SIGKILL one of two raylets with its workers, and start another; once without restarts."""
    run, place, choose = bench.runs[trial.run], bench.place(trial), bench.random(trial)
    seconds, deaths = bench.reference(trial.run).seconds, 0
    restarts = DEATHS_PER_TRIAL if restarts_exist() else 0
    with _two_machines() as cluster:
        layout = ["cluster.nodes=2", "cluster.workers_per_node=1", f"cluster.address={cluster.address}"]
        layout += [f"cluster.restarts={restarts}"] if restarts else []
        words = bench.words(run, place / "run") + layout
        command = Command(words, place / "log.txt", cold=True)
        known: set[int] = set()
        for _ in range(restarts or 1):
            if not command.wait_until(lambda: len(_new_workers(_raylets(cluster), known)) == _RANKS, 180.0):
                break
            known |= {worker.pid for worker in _new_workers(_raylets(cluster), known)}
            command.sleep(choose.random() * seconds * 0.6)
            if command.status is None:
                cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
                deaths += 1
                command.sleep(choose.random() * 10.0)
                cluster.add_node(num_cpus=1)
        ended = command.ended(RAY_SECONDS)
    return _went_on_or_resumes(bench, trial, place, ended, deaths, f"{deaths} machines died")


def _went_on_or_resumes(
    bench: Bench, trial: Trial, place: Path, ended: Ended, deaths: int, what: str
) -> Outcome:
    """The command ended well by itself if it may restart workers; otherwise with an error, and the next one resumes."""
    run, restarts = bench.runs[trial.run], restarts_exist()
    require_readable(place / "run")
    if ended.status == 0:
        bench.compare(run, place)
        return Outcome(deaths, f"{what}: the same command went on to the end")
    if "Traceback" in ended.output or ended.status != WORKERS_FAILED or restarts:
        raise TrialFailed(f"{what}: the command ended with status {ended.status}: {ended.tail()}")
    if "The same command resumes from the newest checkpoint" not in ended.output:
        raise TrialFailed(f"{what}: no word on how to go on: {ended.tail()}")
    bench.finish(run, place)
    return Outcome(deaths, f"{what}: an error, and the next command resumed")


def _new_workers(parents: list[int], known: set[int]) -> list[psutil.Process]:
    """Workers below these processes that are not known."""
    found = {}
    for parent in parents:
        with suppress(psutil.Error):
            for child in psutil.Process(parent).children(recursive=True):
                with suppress(psutil.Error):
                    if child.pid not in known and _WORKER in " ".join(child.cmdline()):
                        found[child.pid] = child
    return sorted(found.values(), key=lambda worker: worker.pid)


def _kill(worker: psutil.Process) -> int:
    """SIGKILL. Returns how many died of it, 0 or 1."""
    with suppress(psutil.Error):
        worker.kill()
        return 1
    return 0


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
