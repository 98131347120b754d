"""All that a page needs to know before any response is looked at, kept up to date while runs write."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reasoner_rl.observability.glossary import meaning_of
from reasoner_rl.report.configuration import between_runs, nearest_shipped
from reasoner_rl.report.pages import PageSummary, Put, pages_of, write_page
from reasoner_rl.report.pieces import find_pieces
from reasoner_rl.report.responses import compact_json
from reasoner_rl.report.run_files import RecordFiles, Run, read_run, short_names, steps_to_show

Signature = tuple[tuple[str, int, int], ...]  # path, time of the last change and size of every file of a page


class Overview:
    """Reads runs again and again, and the responses only of what is new.

    Args:
        folders: of the runs.
        every: responses of each so many-th recorded step of a set, and of the last, are shown.
        put: takes the chunks of responses.
    """

    def __init__(self, folders: Sequence[Path], every: int, put: Put) -> None:
        self._folders = folders
        self._names = short_names(folders)
        self._every = every
        self._put = put
        # Page by the state of its files, with the notes that reading it made.
        self._pages: dict[Signature, tuple[PageSummary | None, list[str]]] = {}
        self._pieces: dict[int, list[str]] = {}  # run -> the notes of looking for its tokenizer; found: none

    def read(self, advance: Callable[[int], None] = lambda amount: None) -> bytes:
        """Read what changed and return the overview as gzip of JSON. ``advance`` is called after each page."""
        runs = [read_run(folder, name) for folder, name in zip(self._folders, self._names, strict=True)]
        data = {
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "runs": [self._run(number, run, advance) for number, run in enumerate(runs)],
            "meanings": {
                name: f"{doc.unit}, {doc.reduced}. {doc.meaning}"
                for name in sorted({name for run in runs for name in run.history})
                if (doc := meaning_of(name)) is not None
            },
            "between": between_runs([run.recipe for run in runs]) if len(runs) > 1 else [],
        }
        return gzip.compress(compact_json(data), mtime=0)

    def page_count(self) -> int:
        """How many pages there are to read."""
        runs = [read_run(folder, name) for folder, name in zip(self._folders, self._names, strict=True)]
        return sum(len(list(pages_of(steps_to_show(run.records, self._every)))) for run in runs)

    def _run(self, number: int, run: Run, advance: Callable[[int], None]) -> dict[str, Any]:
        notes, pages = list(run.notes), []
        shown = steps_to_show(run.records, self._every)
        for records in pages_of(shown):
            summary, said = self._page(number, records)
            notes += said
            pages += [summary.to_json()] if summary else []
            advance(1)
        if left_out := len({(r.set, r.step) for r in run.records}) - len({(r.set, r.step) for r in shown}):
            notes.append(
                f"responses of {left_out} recorded steps are not in this page (--every {self._every})"
            )
        if pages:
            notes += self._find_pieces(number, run)
        shipped = nearest_shipped(run.recipe) if run.recipe else None
        return {
            "key": f"r{number}",
            "name": run.name,
            "folder": str(run.folder),
            "history": {name: [series.steps, series.numbers] for name, series in run.history.items()},
            "recipe": run.recipe,
            "shipped": shipped
            and {"name": shipped[0], "differences": [asdict(difference) for difference in shipped[1]]},
            "versions": run.versions,
            "events": [asdict(event) for event in run.events],
            "reports": run.reports,
            "pages": pages,
            "pieces": pages != [] and self._pieces.get(number) == [],
            "notes": notes,
        }

    def _page(self, number: int, records: list[RecordFiles]) -> tuple[PageSummary | None, list[str]]:
        signature = _signature(records)
        if signature not in self._pages:
            notes: list[str] = []
            key = f"r{number}.p{len(self._pages)}"  # never used again, so that a browser may keep a chunk
            self._pages[signature] = (write_page(key, records, self._put, notes), notes)
        return self._pages[signature]

    def _find_pieces(self, number: int, run: Run) -> list[str]:
        """Hand out the tokenizer's pieces once; a run that has none yet is searched again."""
        if self._pieces.get(number) != []:
            notes: list[str] = []
            pieces = find_pieces(run.folder, run.recipe, notes)
            if pieces is not None:
                self._put(f"r{number}.pieces", gzip.compress(compact_json(pieces), mtime=0))
                notes = []
            self._pieces[number] = notes
        return self._pieces[number]


def _signature(records: Sequence[RecordFiles]) -> Signature:
    paths = [path for files in records for path in (files.parquet, files.jsonl) if path is not None]
    signature = []
    for path in paths:
        try:
            stat = path.stat()
        except FileNotFoundError:  # a resumed run removes the records of steps that it makes again
            continue
        signature.append((str(path), stat.st_mtime_ns, stat.st_size))
    return tuple(signature)
