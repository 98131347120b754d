"""`reasoner-rl data contamination`: which training problems are in evaluation sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from reasoner_rl.config.data import DatasetConfig
from reasoner_rl.datasets.card import ComparedWith, overlap_table
from reasoner_rl.datasets.columns import recognise
from reasoner_rl.datasets.contamination import KINDS, NEAR, NGRAM, Overlaps, find_overlaps
from reasoner_rl.datasets.near import require_datasketch
from reasoner_rl.datasets.wording import problem_text
from reasoner_rl.observability.messages import one_line, say
from reasoner_rl.observability.summary import write_json
from reasoner_rl.prompts.read import Problem, read_problems

SHOWN = 5  # pairs of each evaluation set
LONGEST = 160  # characters of a shown text


@dataclass(frozen=True, slots=True)
class Rules:
    """How problems are compared; see `reasoner_rl.datasets.contamination`."""

    ngram: int = NGRAM  # words
    near: float = NEAR  # Jaccard similarity


def compare_sets(
    train: Path, against: Sequence[Path], rules: Rules, out: Path | None = None
) -> tuple[list[str], list[list[str]]]:
    """Compare the problems of a file with those of others, print the first pairs, and write all of them to ``out``.

    Returns columns and rows of a table with a line for each of the others.
    """
    require_datasketch()
    problems = _read(train)
    compared, _ = compare(problems, against, rules)
    if out is not None:
        write_json(out, [asdict(one) for one in compared])
    return overlap_table(compared)


def compare(
    problems: Sequence[Problem], against: Sequence[Path], rules: Rules
) -> tuple[list[ComparedWith], set[int]]:
    """Overlaps of the problems with each file, and the numbers of problems that overlap in any way; prints pairs."""
    texts = [problem_text(problem) for problem in problems]
    compared, overlapping = [], set[int]()
    for path in against:
        others = _read(path)
        other_texts = [problem_text(problem) for problem in others]
        found = find_overlaps(texts, other_texts, ngram=rules.ngram, near=rules.near)
        compared.append(_described(path, found, problems, others))
        overlapping |= found.train()
        _tell(path, found, problems, others)
    return compared, overlapping


def _read(path: Path) -> list[Problem]:
    read = recognise(path, {})
    problems, report = read_problems(DatasetConfig(path=path, columns=read.columns))
    say(f"{path}: {read.said}; {report}")
    return problems


def _described(
    path: Path, found: Overlaps, problems: Sequence[Problem], others: Sequence[Problem]
) -> ComparedWith:
    pairs = [
        {
            "row": problems[pair.train].row,
            "evaluation_row": others[pair.evaluation].row,
            "kind": pair.kind,
            "similarity": pair.similarity,
        }
        for pair in found.pairs
    ]
    counts: dict[str, int] = {kind: found.count(kind) for kind in KINDS}
    return ComparedWith(
        str(path), found.evaluation, found.too_short, counts, found.affected, len(found.train()), tuple(pairs)
    )


def _tell(path: Path, found: Overlaps, problems: Sequence[Problem], others: Sequence[Problem]) -> None:
    strictest = sorted(found.pairs, key=lambda pair: (KINDS.index(pair.kind), -(pair.similarity or 0)))
    for pair in strictest[:SHOWN]:
        one, other = problems[pair.train], others[pair.evaluation]
        similarity = "" if pair.similarity is None else f" ({pair.similarity:.2f})"
        say(f"{pair.kind}{similarity}: row {one.row}: {one_line(problem_text(one), LONGEST)}")
        say(f"    row {other.row} of {path.name}: {one_line(problem_text(other), LONGEST)}")
    if len(found.pairs) > SHOWN:
        say(f"... and {len(found.pairs) - SHOWN:,} more pairs with {path.name}")
