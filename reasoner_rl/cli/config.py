"""`reasoner-rl config`: recipes, their keys and metrics, and recipes of settings that other frameworks read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from reasoner_rl.cli.common import CommandGroup, Overrides, RecipeArgument
from reasoner_rl.config.arithmetic import arithmetic_lines
from reasoner_rl.config.key_list import cut, key_lines, list_keys
from reasoner_rl.config.kinds import RECIPE_KINDS
from reasoner_rl.config.load import describe_recipes, dump_recipe, load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import ConfigError, did_you_mean

WIDTH_OF_FILES = 100  # of lines that are not printed on a terminal, in characters


class _ConfigCommands(CommandGroup):
    remedy = " To see a recipe, every key resolved: `reasoner-rl config show RECIPE`"


group = typer.Typer(
    cls=_ConfigCommands,
    help="List recipes, keys and metrics, show a recipe as it is resolved, make one of settings of verl or TRL. "
    "Without a command: list.",
    invoke_without_command=True,
)

Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="A new file for the recipe; standard output if left out."),
]
Rows = Annotated[
    int | None,
    typer.Option(
        "--rows",
        min=1,
        help="Rows of the training data, repetitions included, to turn epochs into steps.",
    ),
]


def _say_that_keys_moved(kind: str | None) -> None:
    if kind is not None:
        raise ConfigError(f"`reasoner-rl config --keys {kind}` is `reasoner-rl config keys {kind}` now")


@group.callback()
def main(
    ctx: typer.Context,
    keys: Annotated[str | None, typer.Option("--keys", hidden=True, callback=_say_that_keys_moved)] = None,
) -> None:
    """List recipes, keys and metrics, show a recipe as it is resolved, make one of settings of verl or TRL."""
    if ctx.invoked_subcommand is None:
        list_recipes()


@group.command("list")
def list_recipes() -> None:
    """List the shipped recipes: name, kind, and what each is."""
    recipes = describe_recipes()
    name, kind = (max(len(getattr(recipe, column)) for recipe in recipes) for column in ("name", "kind"))
    console = Console()
    for recipe in recipes:
        line = f"{recipe.name:<{name}}  {recipe.kind:<{kind}}  {recipe.description}"
        sys.stdout.write(f"{cut(line, console.width) if console.is_terminal else line}\n")


@group.command()
def show(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Print a recipe with every key resolved, and what it comes to per step as comments at its end."""
    config = load_recipe(recipe, overrides or [])
    sys.stdout.write(dump_recipe(config))
    if isinstance(config, OnlineConfig):
        sys.stdout.writelines(f"# {line.strip()}\n" for line in arithmetic_lines(config))


@group.command()
def keys(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help=f"A kind of recipe: {', '.join(RECIPE_KINDS)}.")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORD]...", help="Only keys with all of these in their name, type or meaning."
        ),
    ] = None,
    long: Annotated[bool, typer.Option("--long", help="Print types, defaults and meanings in full.")] = False,
) -> None:
    """List the keys of a kind of recipe, one per line: name and default, type, kinds that alone have it, meaning."""
    if kind not in RECIPE_KINDS:
        raise ConfigError(
            f"KIND {kind!r}: must be one of {', '.join(RECIPE_KINDS)}.{did_you_mean(kind, RECIPE_KINDS)}"
        )
    found = list_keys(kind, words or [])
    if not found:
        raise ConfigError(
            f"no key of kind {kind} has {' and '.join(map(repr, words or []))} in name, type or meaning"
        )
    sys.stdout.writelines(f"{line}\n" for line in key_lines(found, _width(), long))


@group.command()
def metrics(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", help="Only metrics with all of these in name, unit or meaning."),
    ] = None,
    long: Annotated[
        bool, typer.Option("--long", help="Print meanings in full, reductions and groups.")
    ] = False,
) -> None:
    """List the metrics that runs log, one per line: name, unit, meaning."""
    from reasoner_rl.commands.metric_list import metric_lines

    sys.stdout.writelines(f"{line}\n" for line in metric_lines(words or [], _width(), long))


@group.command("from-verl")
def from_verl(
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE_OR_OVERRIDE...",
            help="A configuration (YAML), a launch script, or overrides such as data.train_batch_size=512; "
            "the last counts.",
        ),
    ],
    out: Out = None,
    rows: Rows = None,
) -> None:
    """Make a recipe of verl's settings, with the arithmetic in words and a list of what has no counterpart."""
    from reasoner_rl.commands.translate import from_verl as translate

    translate(settings, out, rows)


@group.command("from-trl")
def from_trl(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Arguments as YAML or JSON, or a script with `--flag value`."),
    ],
    out: Out = None,
    method: Annotated[
        str | None,
        typer.Option(help="The trainer: grpo, dpo, kto or sft; if left out, as the arguments tell."),
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Processes that train; as the script says, or 1, if left out.")
    ] = None,
    rows: Rows = None,
) -> None:
    """Make a recipe of TRL's arguments, with the arithmetic in words and a list of what has no counterpart."""
    from reasoner_rl.commands.translate import from_trl as translate

    translate(file, out, method, devices, rows)


def _width() -> int:
    console = Console()
    return console.width if console.is_terminal else WIDTH_OF_FILES
