"""`reasoner-rl report` and `reasoner-rl inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from reasoner_rl.errors import ConfigError

Every = Annotated[
    int, typer.Option(min=1, help="Show the responses of each so many-th recorded step, and of the last.")
]


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs or evaluations: their run.output_dir."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page; report.html in the first run's folder if unset."),
    ] = None,
    every: Every = 1,
    page_limit: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="MIB",
            help="Responses above this size go into a folder beside the page, FILE_data.",
        ),
    ] = 64.0,
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Serve the page on a local port and follow the runs; Ctrl-C ends it."),
    ] = False,
    host: Annotated[
        str | None, typer.Option(help="Of --serve; 127.0.0.1 if unset, which only this machine reaches.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Of --serve; 8787 if unset, 0: a free one.")
    ] = None,
) -> None:
    """Make a page of HTML of one or several runs: curves, configuration, events, evaluations and every response.

    The page needs no network: it has everything in it, or beside it.
    """
    from reasoner_rl.commands.report import report as write
    from reasoner_rl.commands.report import serve as run_server

    if serve:
        if out is not None:
            raise ConfigError("--out and --serve: a page is either written or served; leave one out")
        run_server(runs, every, host or "127.0.0.1", 8787 if port is None else port)
    elif host is not None or port is not None:
        raise ConfigError("--host and --port are of --serve, which is not given")
    else:
        write(runs, out, every, page_limit)


def inspect(
    place: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|FILE", help="A run's folder, or a file of its rollouts/ or evaluations/."
        ),
    ],
    of: Annotated[
        str | None,
        typer.Option(
            "--set", metavar="NAME", help="training, or a held-out dataset; training if there is any."
        ),
    ] = None,
    step: Annotated[int | None, typer.Option(min=0, help="The last step if unset.")] = None,
    verdict: Annotated[
        Literal["right", "wrong", "unknown"] | None, typer.Option(help="Only responses of this verdict.")
    ] = None,
    truncated: Annotated[
        bool, typer.Option("--truncated", help="Only responses cut off at the limit.")
    ] = False,
    dropped: Annotated[bool, typer.Option("--dropped", help="Only responses of dropped groups.")] = False,
    status: Annotated[
        str | None, typer.Option(help="Only this status of the verifier, such as timeout.")
    ] = None,
    search: Annotated[
        str | None, typer.Option(help="A regular expression, in response, prompt or the problem's name.")
    ] = None,
    group: Annotated[
        int | None, typer.Option(min=0, help="Only the group with this number in the step.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many responses.")] = 5,
    colour: Annotated[
        Literal["logprob", "entropy", "advantage", "gap"] | None,
        typer.Option(help="Colour each token by its logprob, entropy, advantage, or train/rollout gap."),
    ] = None,
) -> None:
    """Show responses in the terminal: prompts, answers, verdicts, and tokens by colour."""
    from reasoner_rl.commands.report import inspect as show
    from reasoner_rl.report.terminal import Choice

    show(place, of, step, Choice(verdict, truncated, dropped, status, search, group, limit), colour)
