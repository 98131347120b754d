"""`reasoner-rl data inspect`: all that a run would check of its recipe and its data before it loads weights."""

from __future__ import annotations

from reasoner_rl.commands.train_iterated import load_iterated
from reasoner_rl.config.iterated import IteratedConfig
from reasoner_rl.config.kinds import AnyRecipe
from reasoner_rl.config.recipes import EvalConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.export_checkpoint import with_exported_models
from reasoner_rl.trainer.loading import (
    check_generation,
    check_rewards,
    held_out_key,
    load_prompts,
    tell_evaluation_parameters,
    tell_rules,
)
from reasoner_rl.trainer.run_data import check_run, tell_recipe


def inspect_data(config: AnyRecipe) -> None:
    """Read every file the recipe names, and print the step's arithmetic, counts, lengths and what was dropped.

    Raises ConfigError or DataError where a run of the recipe would, as for prompts beyond the model's context.
    """
    config = with_exported_models(config)
    if isinstance(config, EvalConfig):
        _inspect_evaluation(config)
    elif isinstance(config, IteratedConfig):
        tell_recipe(config)
        load_iterated(config)
    else:
        check_run(config)


def _inspect_evaluation(config: EvalConfig) -> None:
    tokenizer, prompts = load_tokenizer(config.model), []
    for number, dataset in enumerate(config.evaluation.datasets):
        prompts += load_prompts(
            dataset, config.data.prompts, tokenizer, key=held_out_key(number), show_first=True
        )
    if not prompts:
        raise ConfigError("evaluation.datasets is empty: nothing would be evaluated")
    check_generation(config, prompts, tokenizer)
    check_rewards(config.reward, prompts[0])
    tell_rules(config.reward.for_evaluation(), prompts)
    tell_evaluation_parameters(config.reward)
