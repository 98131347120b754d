"""`reasoner-rl config`: recipes and their keys."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from reasoner_rl.cli.common import CommandGroup, Overrides, RecipeArgument, print_table
from reasoner_rl.config.arithmetic import arithmetic_lines
from reasoner_rl.config.keys import list_keys
from reasoner_rl.config.kinds import RECIPE_KINDS
from reasoner_rl.config.load import dump_recipe, load_recipe, shipped_recipes
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import ConfigError, did_you_mean


class _ConfigCommands(CommandGroup):
    remedy = " To see a recipe, every key resolved: `reasoner-rl config show RECIPE`"


group = typer.Typer(
    cls=_ConfigCommands,
    help="List recipes and keys, and show a recipe as it is resolved. Without a command: list.",
    invoke_without_command=True,
)


@group.callback()
def main(
    ctx: typer.Context,
    keys: Annotated[str | None, typer.Option("--keys", hidden=True)] = None,
) -> None:
    """List recipes and keys, and show a recipe as it is resolved. Without a command: list."""
    if keys is not None:
        raise ConfigError(f"`reasoner-rl config --keys {keys}` is `reasoner-rl config keys {keys}` now")
    if ctx.invoked_subcommand is None:
        list_recipes()


@group.command("list")
def list_recipes() -> None:
    """List the shipped recipes."""
    sys.stdout.writelines(f"{name}\n" for name in shipped_recipes())


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
) -> None:
    """List every key of a kind of recipe, with its meaning."""
    if kind not in RECIPE_KINDS:
        raise ConfigError(
            f"KIND {kind!r}: must be one of {', '.join(RECIPE_KINDS)}.{did_you_mean(kind, RECIPE_KINDS)}"
        )
    rows = [[doc.path, doc.type, doc.default, doc.description] for doc in list_keys(kind)]
    print_table(["key", "type", "default", "meaning"], rows)
