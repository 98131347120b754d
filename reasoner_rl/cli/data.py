"""`reasoner-rl data`: look at data, and make data to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from reasoner_rl.cli import generate
from reasoner_rl.cli.common import CommandGroup, Overrides, RecipeArgument, wrong_kind
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import ConfigError


class _DataCommands(CommandGroup):
    remedy = " To see the data of a recipe: `reasoner-rl data inspect RECIPE`"


group = typer.Typer(
    cls=_DataCommands, help="Look at data, and make data to learn from.", no_args_is_help=True
)

group.add_typer(generate.group, name="generate")

OutFolder = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="For answers and files; resumes what is begun there.")
]


@group.command()
def inspect(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Read and render a recipe's data without training: counts, duplicates, lengths and the first prompt."""
    from reasoner_rl.commands.inspect_data import inspect_data

    inspect_data(load_recipe(recipe, overrides or []))


@group.command("make-preferences")
def make_preferences(
    recipe: RecipeArgument,
    out: OutFolder,
    overrides: Overrides = None,
    pairs: Annotated[
        Literal["best_worst", "all"],
        typer.Option(help="Pairs per prompt: the best with the worst answer, or all."),
    ] = "best_worst",
    margin: Annotated[float, typer.Option(min=0, help="Scores of a pair differ by more than this.")] = 0.0,
) -> None:
    """Sample answers to the training problems of an online recipe, score them, and write pairs, labels and scores.

    rollout.responses_per_prompt answers by model.path, sampled and scored as in training: by reward.functions and, if
    the recipe has one, by reward_model.
    """
    from reasoner_rl.commands.make_data import make_preferences as make

    make(_online("data make-preferences", recipe, overrides), out, pairs, margin)


@group.command("make-sft")
def make_sft(
    recipe: RecipeArgument,
    out: OutFolder,
    overrides: Overrides = None,
    count: Annotated[int, typer.Option(min=1, help="Most examples per prompt.")] = 1,
    choose: Annotated[
        Literal["first", "shortest", "diverse"],
        typer.Option(help="Which: the first, the shortest, or at random."),
    ] = "first",
    agreement: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Take the most frequent answer if this share of responses has it, right or not.",
        ),
    ] = None,
) -> None:
    """Sample answers to the training problems of an online recipe, and write the right ones as worked examples."""
    from reasoner_rl.commands.make_data import make_sft as make

    make(_online("data make-sft", recipe, overrides), out, count, choose, agreement)


@group.command("difficulty")
def difficulty(
    recipe: RecipeArgument,
    out: OutFolder,
    overrides: Overrides = None,
    samples: Annotated[
        int | None,
        typer.Option(min=2, help="Answers per problem; rollout.responses_per_prompt if unset."),
    ] = None,
    min_pass: Annotated[float, typer.Option(min=0, max=1, help="Smallest pass rate that is kept.")] = 0.0,
    max_pass: Annotated[float, typer.Option(min=0, max=1, help="Largest pass rate that is kept.")] = 1.0,
    order: Annotated[
        Literal["none", "easy-first"],
        typer.Option(help="As in the file, or a curriculum: the highest pass rate first."),
    ] = "none",
) -> None:
    """Measure how often a recipe's model answers its training problems rightly, then choose and order them by that."""
    from reasoner_rl.commands.measure_difficulty import Choice, measure_difficulty

    more = [] if samples is None else [f"rollout.responses_per_prompt={samples}"]
    config = _online("data difficulty", recipe, [*(overrides or []), *more])
    measure_difficulty(config, out, Choice(min_pass, max_pass, order))


@group.command("rank")
def rank(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="JSONL or parquet with `prompt`, and `answers` and `ranks`, or `chosen`, `rejected` and if wanted "
            "`tie`.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="For pairs, scores and the report.")],
    method: Annotated[
        Literal["pairs", "bradley-terry", "elo"],
        typer.Option(help="Pairs of the comparisons themselves, or of scores, which are written too."),
    ] = "pairs",
    pairs: Annotated[
        Literal["best_worst", "all"],
        typer.Option(help="Pairs per prompt: all, or of scored answers the best with the worst."),
    ] = "all",
    normalize: Annotated[
        Literal["min_max", "win_rate"] | None,
        typer.Option(
            help="Scores in [0, 1]: linear from the worst to the best answer, or the mean probability of winning; "
            "min_max if unset.",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Of bradley-terry: further wins in each direction for each two answers that were compared; "
            "0.1 if unset.",
        ),
    ] = None,
) -> None:
    """Make pairs and scores of rankings of several answers per prompt, or of comparisons by several judges."""
    from reasoner_rl.commands.rank_data import ALPHA, RankOptions
    from reasoner_rl.commands.rank_data import rank as run

    if normalize is not None and method == "pairs":
        raise ConfigError(f"--normalize {normalize} has no effect with --method pairs, which makes no scores")
    if alpha is not None and (method != "bradley-terry" or not alpha < float("inf")):
        raise ConfigError(
            f"--alpha {alpha:g}: must be a finite number of at least 0, with --method bradley-terry; it is {method}"
        )
    run(file, out, RankOptions(method, pairs, normalize or "min_max", ALPHA if alpha is None else alpha))


def _online(command: str, recipe: str, overrides: list[str] | None) -> OnlineConfig:
    config = load_recipe(recipe, overrides or [])
    if not isinstance(config, OnlineConfig):
        raise wrong_kind(command, recipe, config, "online")
    return config
