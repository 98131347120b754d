"""Starting a run's workers, in this process or on a cluster, as the recipe says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from reasoner_rl.algorithms.base import Algorithm
from reasoner_rl.batching.plan import BatchLimits
from reasoner_rl.config.cluster import RayClusterConfig
from reasoner_rl.config.judging import JudgingConfig, Launched
from reasoner_rl.config.recipes import EvalConfig, TrainConfig
from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.distributed.building import build_worker
from reasoner_rl.distributed.local import LocalTransport
from reasoner_rl.distributed.models import RewardModelGroup, UpdatePlan
from reasoner_rl.distributed.pool import GenerationPool
from reasoner_rl.distributed.transport import Transport
from reasoner_rl.distributed.workers import Workers
from reasoner_rl.errors import require_package
from reasoner_rl.rewards.base import Rewards
from reasoner_rl.rewards.runner import RewardRunner


@contextmanager
def launch_workers(
    config: TrainConfig, algorithm: Algorithm, tell: Callable[[str], None], restarts: int = 0
) -> Iterator[Workers]:
    """Start the workers of a recipe that trains, and stop them after the block; see `_launch`."""
    with _launch(config, tell, restarts) as transport:
        yield Workers(config, algorithm, transport)


@contextmanager
def launch_models(config: TrainConfig, algorithm: Algorithm) -> Iterator[Workers]:
    """The models of a recipe that trains, in this process, without what generates; ``cluster`` has no effect."""
    yield Workers(config, algorithm, LocalTransport(build_worker(config, "models")))


@contextmanager
def launch_pool(
    config: EvalConfig, tell: Callable[[str], None], restarts: int = 0
) -> Iterator[GenerationPool]:
    """Start what generates in an evaluation by itself, and stop it after the block; see `_launch`."""
    with _launch(config, tell, restarts) as transport:
        yield GenerationPool(config.rollout.engine, transport)


@contextmanager
def launch_judge(
    config: JudgingConfig, tell: Callable[[str], None], restarts: int = 0
) -> Iterator[RewardModelGroup]:
    """Start a reward model that judges by itself, and stop it after the block; see `_launch`."""
    limits = BatchLimits(config.micro_batch_tokens, config.max_response_tokens)
    never_updated = UpdatePlan(samples_per_update=1, epochs=1, limits=limits)
    with _launch(config, tell, restarts) as transport:
        yield RewardModelGroup(transport, config.training.backend, never_updated, lambda: None)


@contextmanager
def launch_rewards(config: RewardConfig, max_response_tokens: int) -> Iterator[Rewards]:
    """Start verifier processes, and end them after the block: here, or with ``spread`` on all machines of Ray.

    Then the workers must have been started. Raises ConfigError if a function cannot be loaded.
    """
    if not config.spread:
        with RewardRunner(config, max_response_tokens) as rewards:
            yield rewards
        return
    from reasoner_rl.distributed.ray.verifiers import SpreadRewards

    with closing(SpreadRewards(config, max_response_tokens)) as spread:
        yield spread


@contextmanager
def _launch(config: Launched, tell: Callable[[str], None], restarts: int = 0) -> Iterator[Transport]:
    """Start workers. ``tell`` is called with a message about what is awaited.

    restarts: how many times that was done before in this command. After the first, cluster.min_nodes are enough.

    Raises MissingExtraError if Ray or verl are not installed and needed, and UserError if the cluster is too small.
    """
    if not isinstance(config.cluster, RayClusterConfig):
        yield LocalTransport(build_worker(config))
        return
    for package in ("ray", "verl"):
        require_package(package, package, "cluster", "cluster.kind=ray")
    logging.disable(logging.WARNING)  # that this machine has no GPU, and other things that a recipe decides
    from reasoner_rl.distributed.ray.group import RayTransport

    transport = RayTransport(config, config.cluster, tell, restarts)
    try:
        transport.start()
        logging.disable(logging.NOTSET)
        yield transport
    finally:
        logging.disable(logging.NOTSET)
        transport.stop()
