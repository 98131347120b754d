"""`reasoner-rl drift`."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reasoner_rl.cli.common import Overrides, RecipeArgument, print_table, wrong_kind
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import DriftError

if TYPE_CHECKING:
    from reasoner_rl.commands.drift_report import DriftReport

SHOWN = 8  # rows of the table of responses


def drift(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to make.")] = 5,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to keep records; nothing is kept if unset.")
    ] = None,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Compare hidden states of engine and trainer on the response with the largest gap; for "
            "rollout.engine.kind=hf with training.backend.kind=fsdp.",
        ),
    ] = False,
) -> None:
    """Make steps with learning rate 0: accuracy, logprob gap and sync gap must stay flat, and the weights the same.

    Everything else is as in training. Gaps are shown by position in the response, by token and by response. The exit
    status is 1 if something has moved. docs/how_to/drift.md says how to read it.
    """
    config = load_recipe(recipe, overrides or [])
    if not isinstance(config, OnlineConfig):
        raise wrong_kind("drift", recipe, config, "online")
    from reasoner_rl.commands.drift import check_drift

    kept = nullcontext(str(out)) if out else tempfile.TemporaryDirectory(prefix="reasoner_rl_drift_")
    with kept as folder:
        report = check_drift(config, steps, Path(folder), layers=layers)
    _print_report(report)
    if report.problems:
        raise DriftError("not flat:\n" + "\n".join(f"  {problem}" for problem in report.problems))
    typer.echo(f"flat over {steps} steps; the weights are the same to the bit")


def _print_report(report: DriftReport) -> None:
    print_table(
        ["step", "accuracy", "95 % interval", "mean gap, nats", "largest", "gap after sync"],
        [
            [
                str(each.step),
                _number(each.accuracy, ".3f"),
                "-" if each.interval is None else f"{each.interval[0]:.3f} to {each.interval[1]:.3f}",
                *(_number(value, ".2e") for value in (each.gap_mean, each.gap_max, each.sync_gap)),
            ]
            for each in report.steps
        ],
    )
    print_table(
        ["position in the response", "tokens", "mean gap, nats", "largest"],
        [
            [f"{p.key} to {p.last}", f"{p.tokens:,}", f"{p.mean:.2e}", f"{p.largest:.2e}"]
            for p in report.positions
        ],
    )
    print_table(
        ["token", "text", "times", "mean gap, nats", "largest"],
        [
            [str(t.gaps.key), t.text, f"{t.gaps.tokens:,}", f"{t.gaps.mean:.2e}", f"{t.gaps.largest:.2e}"]
            for t in report.tokens
        ],
    )
    print_table(
        ["response", "step", "tokens", "mean gap, nats", "largest", "at token"],
        [
            [
                f"{r.uid}, {r.sample}",
                str(r.step),
                str(len(r.gaps)),
                f"{r.gaps.mean():.2e}",
                f"{r.gaps.max():.2e}",
                str(int(r.gaps.argmax())),
            ]
            for r in report.worst(SHOWN)
        ],
    )
    if report.parts:
        print_table(
            ["part of the decoder", "relative gap", "most at token", ""],
            [
                [part.name, f"{part.relative:.2e}", str(part.position), "parted" if part.parted else ""]
                for part in report.parts
            ],
        )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
