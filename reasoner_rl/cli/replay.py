"""`reasoner-rl replay`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reasoner_rl.cli.common import Overrides, print_table

if TYPE_CHECKING:
    from reasoner_rl.commands.replay import Changed, Compared, ReplayReport

_SHOWN_VERDICTS = 10
_NUMBER = "{:.9g}"


def replay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder: its run.output_dir.")],
    step: Annotated[int, typer.Argument(min=1, metavar="STEP", help="A step that the run has made.")],
    changes: Overrides = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="What counts as equal: differences up to this, relative ones above 1. Unset: 1e-6 in float32, 1e-2 in "
            "16 bits.",
        ),
    ] = None,
) -> None:
    """Make a recorded step again in one process, from the checkpoint before it and the recorded responses.

    Losses and gradient norms must be as logged: the exit status is 1 if they are not. With changed keys of algorithm or
    reward the step is made once more under them, and what they change is shown.
    """
    from reasoner_rl.commands.replay import replay_step

    report = replay_step(run, step, changes or [], tolerance)
    _show_metrics(report)
    if report.changed is not None:
        _show_changes(report.changed)
    if report.differ:
        for line in report.differ:
            sys.stdout.write(f"not as logged: {line}\n")
        raise typer.Exit(1)
    sys.stdout.write(f"losses and gradient norms are as logged, within {report.tolerance:g}\n")


def _show_metrics(report: ReplayReport) -> None:
    columns = ["metric", "logged", "again", "difference"]
    rows = [_row(row) for row in report.metrics]
    if any(row.changed is not None for row in report.metrics):
        columns.append("changed recipe")
    else:
        rows = [row[:4] for row in rows]
    print_table(columns, rows)
    for column, difference in report.largest.items():
        sys.stdout.write(f"{column}: the largest difference from the record is {difference:.3g}\n")


def _row(row: Compared) -> list[str]:
    numbers = [
        "" if number is None else _NUMBER.format(number) for number in (row.logged, row.again, row.changed)
    ]
    difference = "" if row.logged is None or row.again is None else f"{row.again - row.logged:.1e}"
    return [row.name, *numbers[:2], difference, numbers[2]]


def _show_changes(changed: Changed) -> None:
    write = sys.stdout.write
    if changed.responses:
        write(
            f"verdicts: {len(changed.verdicts)} of {changed.responses} responses have another score or accuracy\n"
        )
    for verdict in changed.verdicts[:_SHOWN_VERDICTS]:
        before, after = verdict.before, verdict.after
        write(
            f"  {verdict.uid}, response {verdict.response}: score {before.score:g} -> {after.score:g}, accuracy "
            f"{before.accuracy} -> {after.accuracy}, answer {before.extracted!r} -> {after.extracted!r}\n"
        )
    if changed.dropped:
        write(f"groups: the filter would not have kept {changed.dropped} of those that were trained on\n")
    if changed.tokens:
        write(
            f"advantages: {changed.other_sign} of {changed.tokens} tokens have another sign; the mean change is "
            f"{changed.mean_change:.4g}\n"
        )
