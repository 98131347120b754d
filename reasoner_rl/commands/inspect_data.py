"""`reasoner-rl data inspect`: what a recipe's files hold once they are read, rendered and filtered."""

from __future__ import annotations

from reasoner_rl.config.iterated import IteratedConfig
from reasoner_rl.config.kinds import AnyRecipe
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig, PreferenceConfig, SftConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.loading import (
    held_out_key,
    load_examples,
    load_judged,
    load_mixed_in,
    load_prompts,
)
from reasoner_rl.trainer.reward_models import load_pairs


def inspect_data(config: AnyRecipe) -> None:
    """Read every file the recipe names, and print counts, lengths and what was dropped."""
    tokenizer = load_tokenizer(config.model)
    rendering = config.data.prompts
    if isinstance(config, SftConfig):
        load_examples(config.data, tokenizer)
    elif isinstance(config, RewardModelConfig):
        for file in (config.data.train, *config.evaluation.datasets):
            load_pairs(config, file, tokenizer)
        return
    elif isinstance(config, PreferenceConfig):
        load_judged(config, tokenizer)
    elif isinstance(config, OnlineConfig | IteratedConfig):
        load_prompts(config.data.train, rendering, tokenizer, show_first=True)
    if isinstance(config, OnlineConfig) and config.algorithm.ptx is not None:
        load_mixed_in(config.algorithm.ptx, config.model, tokenizer)
    for number, dataset in enumerate(config.evaluation.datasets):
        first = isinstance(config, EvalConfig)
        load_prompts(dataset, rendering, tokenizer, key=held_out_key(number), show_first=first)
