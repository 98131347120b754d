"""Ray itself: starting or joining it, and reserving what a run's workers need.

With its neighbours, the only module that imports ray.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import psutil  # type: ignore[import-untyped]
import ray
import torch
from ray.exceptions import RayError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from reasoner_rl.config.cluster import RayClusterConfig
from reasoner_rl.errors import UserError, WorkerError
from reasoner_rl.training.device import unused_gpus_here

# Of the driver's environment, what begins so is passed on to workers on other machines.
_PASSED_ON = ("HF_", "NCCL_", "GLOO_", "VLLM_", "TORCH_", "PYTORCH_", "GOMP_", "OMP_WAIT_POLICY")
_NOT_PASSED_ON = "VLLM_HOST_IP"  # each machine has its own
# Set, they keep Ray from giving every worker a GPU of its own: all would use the first of the machine.
_ALL_GPUS_FOR_ALL = tuple(
    f"RAY_EXPERIMENTAL_NOSET_{kind}_VISIBLE_DEVICES" for kind in ("CUDA", "ROCR", "HIP")
)
_CONNECT_SECONDS = 10.0  # for the head of a Ray cluster to answer
_PLACING_SECONDS = 1.0  # for Ray to reserve what is free on a machine


def init_ray(cluster: RayClusterConfig) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handler, children = signal.getsignal(signal.SIGTERM), set(psutil.Process().children())
    try:
        if cluster.address is None:
            apart = cluster.generation.workers_per_node if cluster.generation else 0
            cpus = max(os.cpu_count() or 1, cluster.workers_per_node + apart)
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
        _kill_half_started(children)
        raise WorkerError(f"Ray could not be started: {type(error).__name__}: {error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own would leave at once, in the middle of a step


def _kill_half_started(children: Collection[psutil.Process]) -> None:
    """Kill what Ray has begun to start and would leave until this process ends. children: that were there before."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child not in children and child.name() in ("gcs_server", "raylet"):
                for each in (*child.children(recursive=True), child):
                    each.kill()


def wants_gpus(cluster: RayClusterConfig) -> bool:
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


def reserve(
    cluster: RayClusterConfig,
    nodes: int,
    per_node: int,
    section: str,
    use_gpu: bool,
    tell: Callable[[str], None],
    usable: Callable[[int], int | None] = lambda there: None,
) -> list[PlacementGroup]:
    """Reserve one GPU (or CPU) per worker, a placement group on each of ``nodes`` machines; print what is there.

    section: of the recipe, that says how many machines and workers.
    usable: how many of the machines that are there will do after cluster.replacement_seconds; None: too few are there.
    Raises UserError if the machines are not there within the deadline, or at once if Ray was started for this run.
    """
    kind, told = "GPU" if use_gpu else "CPU", ""
    taken = sum(node["Resources"].get(kind, 0) for node in ray.nodes()) - ray.available_resources().get(
        kind, 0
    )
    bundles = [{"CPU": 1, "GPU": 1} if use_gpu else {"CPU": 1}] * per_node
    groups = [placement_group(bundles, strategy="STRICT_PACK") for _ in range(nodes)]
    began = time.monotonic()
    while True:
        alive = {node["NodeID"]: node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]}
        large = [machine for machine, amount in alive.items() if amount >= per_node]
        missing = _move_apart(groups, large, bundles)
        if not missing:
            return groups
        waited, there = time.monotonic() - began, nodes - len(missing)
        if waited < _PLACING_SECONDS:
            time.sleep(0.05)
            continue
        if waited > cluster.replacement_seconds and (enough := usable(there)):
            return _without_others(groups, missing, enough)
        status = (
            f"Ray has {len(large)} of {nodes} machines with {per_node} {kind}s each, and reserved them for this "
            f"run on {there}; {ray.available_resources().get(kind, 0):g} {kind}s are free in all"
        )
        if status != told:
            tell(status)
            told = status
        # A Ray that was started for this run has one machine, and no other run.
        room = sum(alive.values()) - taken
        never = cluster.address is None and (len(large) < nodes or room < nodes * per_node)
        if waited > cluster.deadlines.start or never:
            raise UserError(
                f"{status}: check {section}.nodes and {section}.workers_per_node, start more machines, or wait for "
                "others' runs to end"
            )
        time.sleep(1.0)


def _move_apart(
    groups: list[PlacementGroup], machines: Sequence[str], bundles: list[dict[str, int]]
) -> list[PlacementGroup]:
    """Give groups that share a machine with an earlier one a machine of their own; those that have none yet.

    Ray places several groups on one machine where that has room for them. machines: ids of those that are large enough.
    """
    waiting, shared, taken = [], [], set[str]()
    for number, group in enumerate(groups):
        machine = _machine_of(group)
        if machine is None:
            waiting.append(group)
        elif machine in taken:
            shared.append(number)
        else:
            taken.add(machine)
    if not shared:
        return waiting
    tried = [
        placement_group(
            bundles,
            strategy="STRICT_PACK",
            bundle_label_selector=[{"ray.io/node-id": machine}] * len(bundles),
        )
        for machine in machines
        if machine not in taken
    ]
    ends = time.monotonic() + _PLACING_SECONDS
    for group in tried:
        group.wait(max(0.0, ends - time.monotonic()))
    placed = [group for group in tried if _machine_of(group) is not None]
    moved = dict(zip(shared, placed, strict=False))
    for group in [groups[number] for number in moved] + [
        group for group in tried if group not in moved.values()
    ]:
        remove_placement_group(group)
    for number, group in moved.items():
        groups[number] = group
    return waiting + [groups[number] for number in shared if number not in moved]


def _machine_of(group: PlacementGroup) -> str | None:
    """The id of the machine on which a group is reserved, or None while it is not."""
    table = placement_group_table(group)
    return table["bundles_to_node_id"][0] if table["state"] == "CREATED" else None


def _without_others(
    groups: Sequence[PlacementGroup], waiting: Sequence[PlacementGroup], enough: int
) -> list[PlacementGroup]:
    """So many of the groups that are there; the others are given up."""
    kept = [group for group in groups if group not in waiting][:enough]
    for group in groups:
        if group not in kept:
            remove_placement_group(group)
    return kept


def worker_environment(cluster: RayClusterConfig, use_gpu: bool) -> dict[str, str]:
    # No secrets: Ray shows the environment to all who can log in.
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PASSED_ON) and not name.endswith(("_TOKEN", "_KEY")) and name != _NOT_PASSED_ON
    }
    # Ray itself hides no GPU from who asked for none.
    hidden = {} if use_gpu else {"CUDA_VISIBLE_DEVICES": ""}
    return passed | hidden | {"OMP_NUM_THREADS": str(cluster.cpus_per_worker)}
