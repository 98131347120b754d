"""`reasoner-rl train` and `reasoner-rl sft`."""

from __future__ import annotations

from typing import Annotated

import typer

from reasoner_rl.cli.common import Overrides, RecipeArgument, wrong_kind
from reasoner_rl.cli.exits import INTERRUPTED, OFF_REFERENCE
from reasoner_rl.config.iterated import IteratedConfig
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig, SftConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.errors import ConfigError


def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    compare_to: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Follow the run along a reference (`reasoner-rl reference list`), and end with status 5 if a metric "
            "leaves its band.",
        ),
    ] = None,
) -> None:
    """Train with DAPO, PPO, DPO or another algorithm; resumes from the newest checkpoint of the output folder.

    Recipes of kind online learn from fresh responses, those of kind preference from judged answers, and those of kind
    iterated make judged answers and learn from them in rounds. Those of kind reward_model make a reward model of pairs.
    """
    config = load_recipe(recipe, overrides or [])
    if isinstance(config, IteratedConfig):
        if compare_to is not None:
            raise ConfigError("--compare-to follows one run; a recipe of kind iterated has one per round")
        from reasoner_rl.commands.train_iterated import train_iterated

        ended = train_iterated(config)
    elif isinstance(config, OnlineConfig | PreferenceConfig | RewardModelConfig):
        from reasoner_rl.trainer.reference import load_reference
        from reasoner_rl.trainer.train import Observers
        from reasoner_rl.trainer.train import train as run

        ended = run(
            config, Observers(compare_to=load_reference(compare_to) if compare_to is not None else None)
        )
    else:
        raise wrong_kind("train", recipe, config, "online, preference, reward_model or iterated")
    if ended is None:
        raise typer.Exit(INTERRUPTED)
    if compare_to is not None and ended["reference"]["left"]:
        raise typer.Exit(OFF_REFERENCE)


def sft(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Fine-tune on worked examples; resumes from the newest checkpoint of the output folder."""
    config = load_recipe(recipe, overrides or [])
    if not isinstance(config, SftConfig):
        raise wrong_kind("sft", recipe, config, "sft")
    from reasoner_rl.trainer.train import train as run

    if run(config) is None:
        raise typer.Exit(INTERRUPTED)
