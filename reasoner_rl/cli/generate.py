"""`reasoner-rl data generate`: one command per generator, whose flags are the fields of its record of options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from reasoner_rl.cli.common import CommandGroup
from reasoner_rl.datasets.generated.generators import GENERATORS, Generator
from reasoner_rl.datasets.generated.options import options_of

group = typer.Typer(
    cls=CommandGroup,
    help="Generate problems with exact answers. The same flags and seed give the same files; `reasoner-rl data "
    "generate NAME --help` lists the flags of a generator.",
    no_args_is_help=True,
)

_SHARED = {
    "out": Annotated[Path, typer.Option("--out", metavar="FOLDER", help="For a file per split.")],
    "seed": Annotated[int, typer.Option(min=0, help="Decides every problem.")],
    "format": Annotated[
        Literal["jsonl", "verl"],
        typer.Option(help="jsonl: flat rows. verl: parquet in verl's schema, with whole prompts."),
    ],
    "prompt_template": Annotated[
        str | None,
        typer.Option(
            help="Of --format verl: a text with {problem}, or 'dapo' for the prompt of DAPO-Math-17K."
        ),
    ],
    "overwrite": Annotated[bool, typer.Option("--overwrite", help="Replace files that differ.")],
}
_DEFAULTS = {
    "out": inspect.Parameter.empty,
    "seed": 0,
    "format": "jsonl",
    "prompt_template": None,
    "overwrite": False,
}


def _command(generator: Generator) -> Callable[..., None]:
    """The command of a generator: typer reads its flags off the signature that it is given here."""

    def run(**given: Any) -> None:
        from reasoner_rl.commands.generate_data import FileForm, generate_data

        options = generator.options(
            **{entry.name: given[entry.name] for entry in options_of(generator.options)}
        )
        form = FileForm(given["format"], given["prompt_template"])
        generate_data(generator, options, given["seed"], given["out"], form, given["overwrite"])

    shared = [_parameter(name, kind, _DEFAULTS[name]) for name, kind in _SHARED.items()]
    own = [
        _parameter(
            entry.name,
            Annotated[type(entry.default), typer.Option(help=_sentence(entry.meaning))],
            entry.default,
        )
        for entry in options_of(generator.options)
    ]
    run.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
    run.__doc__ = generator.summary
    return run


def _sentence(meaning: str) -> str:
    return f"{meaning[0].upper()}{meaning[1:]}."


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


for _generator in GENERATORS.values():
    group.command(_generator.name)(_command(_generator))
