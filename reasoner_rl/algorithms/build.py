"""From a recipe to its algorithm, in the driver and in every worker."""

from __future__ import annotations

from reasoner_rl.algorithms.base import Algorithm, Examples
from reasoner_rl.algorithms.custom import build_custom
from reasoner_rl.algorithms.distillation import Distillation
from reasoner_rl.algorithms.dpo import Dpo
from reasoner_rl.algorithms.dry_run import check_algorithm
from reasoner_rl.algorithms.group import GroupPolicyGradient
from reasoner_rl.algorithms.kto import Kto
from reasoner_rl.algorithms.orpo import Orpo
from reasoner_rl.algorithms.ppo import Ppo
from reasoner_rl.algorithms.reinforce import Reinforce
from reasoner_rl.algorithms.reward_model import PairwiseReward, PointwiseReward
from reasoner_rl.algorithms.score_weighted_sft import ScoreWeightedSft
from reasoner_rl.algorithms.sft import SupervisedFineTuning
from reasoner_rl.algorithms.simpo import Simpo
from reasoner_rl.config.algorithm import CustomConfig, DistillationConfig, PpoConfig, ReinforceConfig
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.preference import (
    DpoConfig,
    KtoConfig,
    OrpoConfig,
    PreferenceAlgorithmConfig,
    SimpoConfig,
)
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig, SftConfig, TrainConfig
from reasoner_rl.config.reward_model import PairwiseConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.errors import ConfigError


def build_algorithm(config: TrainConfig, examples: Examples | None = None) -> Algorithm:
    """The algorithm that the recipe names. Raises ConfigError if the user's own is wrong or does not fit.

    examples: those of algorithm.ptx, in the driver of a run that has it.
    """
    if isinstance(config, PreferenceConfig):
        return _build_preference(config.algorithm)
    if isinstance(config, RewardModelConfig):
        if isinstance(config.algorithm, PairwiseConfig):
            return PairwiseReward(config.run.seed)
        return PointwiseReward(config.algorithm, with_margins=config.data.train.columns.margin is not None)
    if isinstance(config, SftConfig):
        return SupervisedFineTuning()
    algorithm, updates_per_step = config.algorithm, step_arithmetic(config).updates_per_step
    if isinstance(algorithm, PpoConfig):
        return Ppo(algorithm, updates_per_step, examples)
    if isinstance(algorithm, CustomConfig):
        built = build_custom(algorithm, updates_per_step)
        for section, given in (("critic", config.critic), ("teacher", config.teacher)):
            if given is not None and section not in built.roles:
                raise ConfigError(
                    f"the section {section} is set, and algorithm {algorithm.fn!r} asks for no {section}: its roles "
                    f"are {', '.join(built.roles)}"
                )
        if "teacher" in built.roles and config.teacher is None:
            raise ConfigError(f"algorithm {algorithm.fn!r} asks for a teacher: set teacher.path")
        return built
    if isinstance(algorithm, ReinforceConfig):
        return Reinforce(algorithm, updates_per_step, examples)
    if isinstance(algorithm, DistillationConfig):
        return Distillation(algorithm, updates_per_step, examples)
    return GroupPolicyGradient(algorithm, updates_per_step, examples)


def _build_preference(config: PreferenceAlgorithmConfig) -> Algorithm:
    if isinstance(config, DpoConfig):
        return Dpo(config)
    if isinstance(config, KtoConfig):
        return Kto(config)
    if isinstance(config, OrpoConfig):
        return Orpo(config)
    if isinstance(config, SimpoConfig):
        return Simpo(config)
    return ScoreWeightedSft(config)


def check_custom_parts(config: TrainConfig) -> None:
    """Try out what the recipe takes from the user's own files. Raises ConfigError naming the function.

    The algorithm that is tried out is made for this alone, because trying it out may change its state.
    """
    if own := own_functions(config):
        check_algorithm(build_algorithm(config), own)


def own_functions(config: TrainConfig) -> str:
    """The functions that the algorithm takes from the user's own files, for messages; "" if there are none."""
    if not isinstance(config, OnlineConfig):
        return ""
    section = config.algorithm
    named = {
        "algorithm": getattr(section, "fn", None),
        "advantage": advantage if ":" in (advantage := getattr(section, "advantage", "")) else None,
        "loss": section.loss.fn,
        "token mask": section.token_mask.fn,
    }
    return " with ".join(f"{what} {fn!r}" for what, fn in named.items() if fn is not None)
