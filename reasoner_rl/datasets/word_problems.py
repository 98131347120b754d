"""Word problems of ASDiv, MAWPS and SVAMP: worked examples, answers that can be checked, a split by wording."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reasoner_rl.datasets.formulas import MAX_DECIMALS, NUMBER, FormulaError, solution_of
from reasoner_rl.datasets.wording import choose_families, families, near_pairs, template_of
from reasoner_rl.errors import DataError

Row = Mapping[str, Any]  # `problem` and `answer` are texts, of ASDiv `formula` too

PLAIN_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")


def count_near(templates: Sequence[str], seen: frozenset[str]) -> int:
    """How many of ``templates`` are in ``seen`` or near one that is."""
    near = set(seen)
    for left, right in near_pairs(sorted(seen.union(templates))):
        if left in seen or right in seen:
            near |= {left, right}
    return sum(template in near for template in templates)


def without_duplicates(rows: Sequence[Row], dropped: Counter[str]) -> list[Row]:
    """Rows with distinct words and numbers, whatever the case, spacing and punctuation.

    Where the answers of duplicates differ, none is trusted.
    """
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(_plain(row["problem"]), set()).add(row["answer"])
    kept, seen = [], set()
    for row in rows:
        problem = _plain(row["problem"])
        if len(answers[problem]) > 1:
            dropped["answers differ between duplicates"] += 1
        elif problem in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(problem)
            kept.append(row)
    return kept


def _plain(problem: str) -> str:
    """What two copies have in common; the point in 1.5 stays, for 15 is another number."""
    return " ".join(PLAIN_WORD.findall(problem.casefold().replace(",", "")))


def worked_examples(rows: Sequence[Row], dropped: Counter[str]) -> list[Row]:
    """Rows of ASDiv with a worked solution; those whose formula gives none are dropped and counted by reason."""
    examples: list[Row] = []
    for row in rows:
        try:
            solution, answer = solution_of(row["formula"], row["answer"])
        except FormulaError as reason:
            dropped[str(reason)] += 1
            continue
        examples.append(
            {
                "problem": row["problem"],
                "answer": answer,
                "source": row.get("source", "asdiv"),
                "solution": solution,
            }
        )
    return examples


def checkable(rows: Sequence[Row], dropped: Counter[str]) -> list[Row]:
    """Rows whose answer is an exact short decimal; 0.6666666667 stands for a fraction that was rounded."""
    kept: list[Row] = []
    for row in rows:
        if NUMBER.fullmatch(row["answer"]) and len(row["answer"].partition(".")[2]) <= MAX_DECIMALS:
            kept.append(
                {"problem": row["problem"], "answer": row["answer"], "source": row.get("source", "mawps")}
            )
        else:
            dropped["answer is not an exact short decimal"] += 1
    return kept


def split_by_wording(
    rows: Sequence[Row], heldout: int, seed: int, names: frozenset[str], seen_templates: frozenset[str]
) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows, the latter exactly ``heldout`` many; the same seed gives the same split.

    All rows of a family of templates go to one side, and to training if the family has one of ``seen_templates``.
    Raises DataError if there are too few rows that may be held out.
    """
    if heldout < 1:
        raise DataError(f"--heldout {heldout}: must be at least 1")
    templates = [template_of(row["problem"], names) for row in rows]
    family_of = families([*templates, *seen_templates])
    sizes = Counter(family_of[template] for template in templates)
    candidates = sizes.keys() - {family_of[template] for template in seen_templates}
    chosen, missing = choose_families(sizes, candidates, heldout, seed)
    if missing:
        raise DataError(
            f"--heldout {heldout}: only {heldout - missing} problems can be held out without one that is "
            "worded almost like a training problem"
        )
    train: list[Row] = []
    held: list[Row] = []
    for row, template in zip(rows, templates, strict=True):
        (held if family_of[template] in chosen else train).append(row)
    return train, held
