"""From a recipe to its algorithm, in the driver and in every worker."""

from __future__ import annotations

from reasoner_rl.algorithms.base import Algorithm
from reasoner_rl.algorithms.group import GroupPolicyGradient
from reasoner_rl.algorithms.ppo import Ppo
from reasoner_rl.algorithms.reinforce import Reinforce
from reasoner_rl.algorithms.sft import SupervisedFineTuning
from reasoner_rl.config.algorithm import PpoConfig, ReinforceConfig
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.recipes import OnlineConfig, TrainConfig


def build_algorithm(config: TrainConfig) -> Algorithm:
    """The algorithm that the recipe names."""
    if not isinstance(config, OnlineConfig):
        return SupervisedFineTuning()
    algorithm, updates_per_step = config.algorithm, step_arithmetic(config).updates_per_step
    if isinstance(algorithm, PpoConfig):
        return Ppo(algorithm, updates_per_step)
    if isinstance(algorithm, ReinforceConfig):
        return Reinforce(algorithm, updates_per_step)
    return GroupPolicyGradient(algorithm, updates_per_step)
