"""What commands share: their arguments, groups of commands, and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from typer.core import TyperGroup

from reasoner_rl.config.kinds import AnyRecipe
from reasoner_rl.errors import ConfigError, did_you_mean

WIDTH_OF_FILES = 200  # of tables that are not printed on a terminal, in characters

COMMAND = (
    "reasoner_rl.command"  # the key, in a context's shared data, of the command of a group that was called
)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or a YAML file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY.PATH=VALUE]...",
        help="Keys to change, such as run.seed=1 or model.path=Qwen/Qwen2.5-0.5B.",
    ),
]


class CommandGroup(TyperGroup):
    """A group of commands, such as `reasoner-rl data`: an unknown one is an error that names the nearest.

    Subclasses set what is said besides.
    """

    remedy = ""  # what `reasoner-rl GROUP RECIPE`, the form of a group's main command, is called here

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names. Raises ConfigError if it names none."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            near = did_you_mean(args[0], self.commands)
            known = ", ".join(self.commands)
            raise ConfigError(f"`{_typed(ctx)} {args[0]}`: must be one of {known}.{near}{self.remedy}")
        name, command, rest = super().resolve_command(ctx, args)
        ctx.meta[COMMAND] = f"{ctx.info_name} {name}"
        return name, command, rest


def _typed(ctx: Any) -> str:
    """What leads to a group of commands, such as `reasoner-rl data`."""
    return "reasoner-rl" if ctx.parent is None else f"{_typed(ctx.parent)} {ctx.info_name}"


class DefaultGroup(TyperGroup):
    """A group with a main command, `run`, whose name may be left out: `reasoner-rl eval RECIPE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names, or the main command, whose first argument it is."""
        named = not args or args[0] in self.commands
        name, command, rest = super().resolve_command(ctx, args if named else ["run", *args])
        ctx.meta[COMMAND] = f"{ctx.info_name} {name}"
        return name, command, rest


def wrong_kind(command: str, recipe: str, config: AnyRecipe, wanted: str) -> ConfigError:
    """The error of a recipe that is of another kind than the command needs."""
    return ConfigError(
        f"`reasoner-rl {command}` needs a recipe of kind {wanted}; {recipe} is of kind {config.recipe!r}"
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as wide as the terminal, or `WIDTH_OF_FILES`."""
    first, *others = columns
    table = Table(Column(first, no_wrap=True), *others, show_lines=False)
    for row in rows:
        table.add_row(*map(escape, row))  # [dev] in a text is no markup
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_FILES)
    console.print(table)
