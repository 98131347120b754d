"""The commands of `reasoner-rl`, and how each of them ends."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import reasoner_rl
from reasoner_rl.cli import config, data, evaluate, look, reference
from reasoner_rl.cli.common import COMMAND, print_table
from reasoner_rl.cli.drift import drift
from reasoner_rl.cli.exits import CHECKPOINT, exit_statuses
from reasoner_rl.cli.export import export
from reasoner_rl.cli.plan import plan
from reasoner_rl.cli.replay import replay
from reasoner_rl.cli.train import sft, train

# What the same command resumes from when it has ended early; commands that are not here start anew.
_RESUMES_FROM = {
    "train": CHECKPOINT,
    "sft": CHECKPOINT,
    "eval run": "the parts of responses that are finished, if there are any",
    **dict.fromkeys(
        ("data make-preferences", "data make-sft", "data difficulty"),
        "the parts of answers that are finished, if there are any",
    ),
}


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        # Around the commands and not around typer, which makes a silent exit of Ctrl-C.
        with exit_statuses(lambda: _RESUMES_FROM.get(ctx.meta.get(COMMAND, ctx.invoked_subcommand))):
            return super().invoke(ctx)


app = typer.Typer(
    name="reasoner-rl",
    cls=_Commands,
    help="Reinforcement learning for reasoning models.\n\n"
    "Most commands take a RECIPE, the name of a shipped one or a YAML file, and any number of key.path=value "
    "overrides. `reasoner-rl config` lists recipes and keys.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reasoner-rl {reasoner_rl.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Take the options that stand before the command."""


def doctor() -> None:
    """Show versions, devices, memory and ports, what was tested together, and what to install for which feature.

    The exit status is 1 if something is wrong; a package that is merely missing is not.
    """
    from reasoner_rl.doctor import examine

    findings = examine()
    print_table(
        ["", "found", "verdict", "advice"], [[f.name, f.value, f.verdict, f.advice] for f in findings]
    )
    if any(finding.verdict == "problem" for finding in findings):
        raise typer.Exit(1)


app.command()(train)
app.command()(sft)
app.command()(export)
app.add_typer(evaluate.group, name="eval")
app.command()(evaluate.verify)
app.add_typer(data.group, name="data")
app.add_typer(config.group, name="config")
app.add_typer(reference.group, name="reference")
app.command()(plan)
app.command()(drift)
app.command()(look.report)
app.command()(look.inspect)
app.command()(replay)
app.command()(doctor)


def main(*words: str) -> None:
    """Entry point. words: of a script that is short for a command, such as data, prepare, gsm8k."""
    sys.argv[1:1] = words  # and not an argument of app(), for the cards of data sets name the whole command
    app()
