"""Training and evaluation files of arithmetic word problems, from ASDiv, MAWPS and SVAMP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from reasoner_rl.datasets.word_problems import (
    Row,
    checkable,
    count_near,
    split_by_wording,
    without_duplicates,
    worked_examples,
)
from reasoner_rl.datasets.wording import proper_names, template_of
from reasoner_rl.errors import DataError
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.summary import write_jsonl
from reasoner_rl.prompts.read import Place, rows_of_file


def prepare_word_problems(asdiv: Path, mawps: Path, svamp: Path, out: Path, heldout: int, seed: int) -> None:
    """Read the three files, write asdiv_sft, mawps_train, mawps_heldout and svamp into ``out``, print the report.

    Raises DataError naming the file, the row and the column, or if fewer than ``heldout`` problems can be held out;
    nothing is written then.
    """
    asdiv_rows = _read(asdiv, ["problem", "answer", "formula"])
    mawps_rows = _read(mawps, ["problem", "answer"])
    svamp_rows = _read(svamp, ["problem", "answer"])

    asdiv_dropped: Counter[str] = Counter()
    examples = worked_examples(without_duplicates(asdiv_rows, asdiv_dropped), asdiv_dropped)
    mawps_dropped: Counter[str] = Counter()
    problems = checkable(without_duplicates(mawps_rows, mawps_dropped), mawps_dropped)

    names = proper_names(row["problem"] for row in [*asdiv_rows, *mawps_rows, *svamp_rows])
    asdiv_templates = frozenset(template_of(row["problem"], names) for row in asdiv_rows)
    train, held = split_by_wording(problems, heldout, seed, names, asdiv_templates)
    trained_templates = asdiv_templates | {template_of(row["problem"], names) for row in train}
    svamp_seen = count_near([template_of(row["problem"], names) for row in svamp_rows], trained_templates)

    files = {"asdiv_sft": examples, "mawps_train": train, "mawps_heldout": held, "svamp": svamp_rows}
    for name, rows in files.items():
        write_jsonl(out / f"{name}.jsonl", rows)
    _report("asdiv", len(asdiv_rows), asdiv_dropped)
    _report("mawps", len(mawps_rows), mawps_dropped)
    say(f"svamp: {len(svamp_rows)} rows read, {svamp_seen} worded almost like asdiv or mawps_train (kept)")
    for name, rows in files.items():
        say(f"{out / name}.jsonl: {len(rows)} rows")


def _read(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a file. Raises DataError naming the row and the column that is missing or holds no text."""
    rows = []
    for number, row in rows_of_file(path):
        for column in columns:
            Place(path, path.stem, number).text(row, column)
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: the file holds no rows")
    return rows


def _report(name: str, read: int, dropped: Counter[str]) -> None:
    say(f"{name}: {read} rows read, {dropped.total()} dropped")
    for reason, count in dropped.most_common():
        say(f"  {count:5d}  {reason}")
