"""What workers are launched for: a recipe, or a reward model alone that judges answers sampled before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reasoner_rl.config.cluster import ClusterConfig, without_generation
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.recipes import Recipe
from reasoner_rl.config.run import RunConfig
from reasoner_rl.config.training import TrainingConfig
from reasoner_rl.config.training_recipe import SamplingRecipe


@dataclass(frozen=True, slots=True)
class JudgingConfig:
    """A reward model that judges by itself. It is no recipe of its own: `of` makes it of one.

    model: the reward model's checkpoint. max_response_tokens: the longest response that it scores.
    """

    run: RunConfig
    model: ModelConfig
    kind: Literal["pointwise", "pairwise"]
    training: TrainingConfig
    cluster: ClusterConfig
    micro_batch_tokens: int
    max_response_tokens: int

    @classmethod
    def of(cls, config: SamplingRecipe, folder: Path) -> JudgingConfig:
        """The reward model of a recipe that has one, on the recipe's cluster; ``folder`` is for what workers write."""
        assert config.reward_model is not None
        assert config.reward_model_checkpoint is not None
        return cls(
            run=config.run.model_copy(update={"output_dir": folder}),
            model=config.reward_model_checkpoint,
            kind=config.reward_model.kind,
            training=config.training,
            cluster=without_generation(config.cluster),
            micro_batch_tokens=config.batch.micro_batch_tokens,
            max_response_tokens=config.rollout.sampling.max_response_tokens,
        )


Launched = Recipe | JudgingConfig
