"""All kinds of recipe, by the name that `recipe:` gives them."""

from __future__ import annotations

from reasoner_rl.config.iterated import IteratedConfig
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig, PreferenceConfig, Recipe, SftConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig

AnyRecipe = Recipe | IteratedConfig
RECIPE_KINDS: dict[str, type[AnyRecipe]] = {
    "online": OnlineConfig,
    "sft": SftConfig,
    "preference": PreferenceConfig,
    "reward_model": RewardModelConfig,
    "iterated": IteratedConfig,
    "eval": EvalConfig,
}
