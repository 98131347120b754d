"""`reasoner-rl reference`: runs to compare others with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from reasoner_rl.cli.common import CommandGroup
from reasoner_rl.cli.exits import OFF_REFERENCE

group = typer.Typer(
    cls=CommandGroup,
    help="Curves of runs that went well, to see whether another one learns as they did.",
    no_args_is_help=True,
)


@group.command("list")
def list_references() -> None:
    """List the references that come with the package: name, recipe, seeds, metrics and date."""
    from reasoner_rl.trainer.reference import load_reference, shipped_references

    for name in shipped_references():
        made = load_reference(name)
        sys.stdout.write(
            f"{name}: {made.recipe}, {len(made.seeds)} seeds, {len(made.metrics)} metrics, made {made.made}\n"
        )


@group.command()
def make(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Output folders of at least 3 runs of one recipe.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="JSON file to write.")],
) -> None:
    """Make a reference of finished runs that differ in their seed alone."""
    from reasoner_rl.commands.reference import make as run

    run(runs, out)


@group.command()
def check(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a run.")],
    against: Annotated[str, typer.Option("--against", metavar="NAME|FILE", help="A reference.")],
) -> None:
    """Say where a run that was made left the bands of a reference; status 5 if it did."""
    from reasoner_rl.commands.reference import check as compare

    if compare(run, against):
        raise typer.Exit(OFF_REFERENCE)
