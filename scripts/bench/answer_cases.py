"""The labelled cases in tests/reward_fns/cases: for the test of the verifier, and for verifiers.py.

One JSON object per line: `category`; `answer`, the content of the box, or `solution`, a whole response; `truth`;
`correct`, the label; and where they are needed `options` for the verifier and a `note` that says why.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CASES = Path(__file__).resolve().parents[2] / "tests" / "reward_fns" / "cases"


@dataclass(frozen=True)
class Case:
    """An answer (or a whole response), the truth, and whether the first is right."""

    group: str
    category: str
    answer: str | None
    solution: str | None
    truth: str
    correct: bool
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def response(self, *, boxed: bool = True) -> str:
        """What a verifier is given: the response as it is, or the answer in the form that prompts ask for."""
        if self.solution is not None:
            return self.solution
        if boxed:
            return f"Therefore the final result is \\boxed{{{self.answer}}}"
        return f"This gives the final result.\nAnswer: {self.answer}"

    def short(self) -> str:
        shown = ascii(self.solution if self.answer is None else self.answer)
        return f"{shown[:80]}{'...' if len(shown) > 80 else ''} for {self.truth!a}"


def expand(text: Any) -> str:
    """The text of a field: a string, {"repeat": string, "times": number}, or a list of these one after the other."""
    if isinstance(text, str):
        return text
    if isinstance(text, dict):
        return str(text["repeat"]) * int(text["times"])
    return "".join(expand(part) for part in text)


def load_cases(folder: Path = CASES, groups: Iterable[str] | None = None) -> list[Case]:
    """The cases of every file of `folder` (or of the named ones), in order."""
    cases = []
    for path in sorted(folder.glob("*.jsonl")):
        if groups is not None and path.stem not in groups:
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for key in ("answer", "solution"):
                row[key] = expand(row[key]) if key in row else None
            cases.append(Case(group=path.stem, **row))
    return cases
