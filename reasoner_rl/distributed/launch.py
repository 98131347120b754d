"""Starting a run's workers, in this process or on a cluster, as the recipe says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reasoner_rl.config.cluster import RayClusterConfig
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig
from reasoner_rl.distributed.group import WorkerGroup
from reasoner_rl.distributed.local import LocalTransport
from reasoner_rl.distributed.worker import build_worker
from reasoner_rl.errors import require_package


@contextmanager
def launch_workers(config: OnlineConfig | EvalConfig, tell: Callable[[str], None]) -> Iterator[WorkerGroup]:
    """Start the workers of a recipe, and stop them after the block. ``tell`` is told what is waited for.

    Raises MissingExtraError if Ray or verl are not installed and needed, and UserError if the cluster is too small.
    """
    if not isinstance(config.cluster, RayClusterConfig):
        yield WorkerGroup(config, LocalTransport(build_worker(config)))
        return
    for package in ("ray", "verl"):
        require_package(package, package, "cluster", "cluster.kind=ray")
    logging.disable(logging.WARNING)  # that this machine has no GPU, and other things that a recipe decides
    from reasoner_rl.distributed.ray_group import RayTransport

    transport = RayTransport(config, config.cluster, tell)
    try:
        transport.start()
        logging.disable(logging.NOTSET)
        yield WorkerGroup(config, transport)
    finally:
        logging.disable(logging.NOTSET)
        transport.stop()
