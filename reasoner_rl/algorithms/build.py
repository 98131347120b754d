"""From a recipe to its algorithm, in the driver and in every worker."""

from __future__ import annotations

from reasoner_rl.algorithms.base import Algorithm
from reasoner_rl.algorithms.group import GroupPolicyGradient
from reasoner_rl.algorithms.sft import SupervisedFineTuning
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.recipes import OnlineConfig, TrainConfig


def build_algorithm(config: TrainConfig) -> Algorithm:
    """The algorithm that the recipe names."""
    if isinstance(config, OnlineConfig):
        return GroupPolicyGradient(config.algorithm, step_arithmetic(config).updates_per_step)
    return SupervisedFineTuning()
