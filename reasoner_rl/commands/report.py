"""`reasoner-rl report` and `reasoner-rl inspect`: look at what runs did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from reasoner_rl.errors import ConfigError, DataError, did_you_mean
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.progress import progress_bar
from reasoner_rl.report.page import MEBI, write_report
from reasoner_rl.report.pieces import find_pieces
from reasoner_rl.report.responses import joined, read_responses
from reasoner_rl.report.run_files import RecordFiles, check_is_run, find_records, read_recipe, record_of_file
from reasoner_rl.report.serve import ReportServer
from reasoner_rl.report.terminal import Choice, TokenColour, show_responses

REPORT = "report.html"


def report(runs: Sequence[Path], out: Path | None, every: int, limit_mib: float) -> Path:
    """Write the page of runs and return it; by default report.html in the first run's folder."""
    check_all(runs)
    page = out or runs[0] / REPORT
    if page.is_dir() or page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {page}: must be a file that ends in .html")
    with ExitStack() as stack:

        def bar(total: int) -> Callable[[int], None]:
            return stack.enter_context(progress_bar("auto", "reading responses", total))

        beside = write_report(runs, page, every, limit_mib, bar)
    more = f", with the responses in {beside}, which must stay beside it" if beside else ""
    say(f"report: {page} ({page.stat().st_size / MEBI:.1f} MiB){more}")
    return page


def serve(runs: Sequence[Path], every: int, host: str, port: int) -> None:
    """Serve the page of runs that may still be writing, until Ctrl-C."""
    check_all(runs)
    with ReportServer(runs, every, host, port) as server:
        with progress_bar("auto", "reading responses", server.page_count()) as advance:
            server.read(advance)
        say(f"report: {server.url} follows {', '.join(map(str, runs))}; Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("the report is no longer served; the runs continue")


def check_all(runs: Sequence[Path]) -> None:
    """Raise DataError unless every folder is that of a run."""
    for folder in runs:
        check_is_run(folder)


def inspect(
    place: Path, of: str | None, step: int | None, choice: Choice, colour: TokenColour | None
) -> None:
    """Show responses of a run's folder, or of one file of records, in the terminal."""
    if place.is_file():
        records, folder = [record_of_file(place)], place.parent.parent
        if of is not None or step is not None:
            raise ConfigError(f"--set and --step choose among a run's files, and {place} is one file")
    else:
        check_is_run(place)
        records, folder = _chosen(place, of, step), place
    responses = joined([read_responses(files) for files in records])
    pieces, notes = None, [responses.note] if responses.note else []
    if colour is not None and responses.tokens is not None:
        pieces = find_pieces(folder, read_recipe(folder, notes), notes)
    for note in notes:
        say(f"note: {note}")
    show_responses(records[0], responses, choice, colour, pieces)


def _chosen(folder: Path, of: str | None, step: int | None) -> list[RecordFiles]:
    """The files of one set and step: by default of training, or the first set there is, and the last step."""
    notes: list[str] = []
    records = find_records(folder, notes)
    sets = list(dict.fromkeys(record.set for record in records))
    if not records:
        raise DataError(f"{folder} has no records of responses in rollouts/ or evaluations/")
    by_name = {**{name.split(": ")[-1]: name for name in sets}, **{name: name for name in sets}}
    if of is not None and of not in by_name:
        raise ConfigError(f"--set {of}: must be one of {', '.join(sets)}.{did_you_mean(of, by_name)}")
    chosen = by_name[of] if of is not None else sets[0]
    steps = sorted({record.step for record in records if record.set == chosen})
    if step is not None and step not in steps:
        near = min(steps, key=lambda other: abs(other - step))
        raise ConfigError(
            f"--step {step}: {folder} has no responses of that step; it has {len(steps)} from {steps[0]} to "
            f"{steps[-1]}, and the nearest is {near}"
        )
    wanted = steps[-1] if step is None else step
    return [record for record in records if record.set == chosen and record.step == wanted]
