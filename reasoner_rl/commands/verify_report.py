"""The report of `reasoner-rl verify`, as tables for people and as rows of JSONL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy

from reasoner_rl.commands.generations import PROBLEM_KEYS, Generation
from reasoner_rl.evaluation.verdicts import VERDICTS, Figures, figures, verdict
from reasoner_rl.observability.messages import one_line
from reasoner_rl.types import Reward

SHOWN = 20  # disagreements
LONGEST_CELL = 48  # characters

Table = tuple[list[str], list[list[str]]]  # columns and rows


@dataclass(frozen=True, slots=True)
class Scored:
    """The rewards of all responses by one verifier."""

    fn: str
    rewards: list[Reward]
    seconds: float  # from the first answer to the last, without starting the processes


@dataclass(frozen=True)
class Report:
    """Responses with their rewards by one or two verifiers."""

    generations: list[Generation]
    scored: list[Scored]  # by the verifier, and by the other one if there is one

    @cached_property
    def responses(self) -> list[tuple[Generation, int]]:
        """Each response in the order of the rewards: its row, and its number within the row, from 0."""
        return [(row, number) for row in self.generations for number in range(len(row.responses))]

    def figures(self, scored: Scored, numbers: Iterable[int] | None = None) -> Figures:
        """The figures of one verifier over all responses, or over those with these numbers."""
        chosen = range(len(self.responses)) if numbers is None else list(numbers)
        problems = [self.responses[number][0].identity() for number in chosen]
        return figures(problems, [scored.rewards[number] for number in chosen])

    def table(self) -> Table:
        """The figures of each verifier."""
        columns = [self._column(scored) for scored in self.scored]
        return ["", *(scored.fn for scored in self.scored)], [
            [name, *(column[name] for column in columns)] for name in columns[0]
        ]

    def _column(self, scored: Scored) -> dict[str, str]:
        found = self.figures(scored)
        each = [reward.seconds for reward in scored.rewards]
        p50, p99 = numpy.percentile(each, (50, 99))
        return {
            "responses": f"{found.responses:,}",
            "problems": f"{found.problems:,}",
            "accuracy": _share(found.accuracy),
            f"avg@k over problems, k = {found.samples}": _share(found.average),
            "95 % interval of avg@k": _interval(found),
            "mean score": f"{found.mean_score:.3f}",
            **{name: f"{found.verdicts[name]:,}" for name in VERDICTS},
            "answers/s": f"{len(each) / max(scored.seconds, 1e-9):,.0f}",
            "p50, s per answer": f"{p50:.2g}",
            "p99, s per answer": f"{p99:.2g}",
        }

    def file_table(self) -> Table:
        """The main figures of each file by each verifier, one per row."""
        columns = ["file", "verifier", "responses", "problems", "avg@k", "95 % interval", "mean score"]
        columns += ["unparsed", "timeout, crash"]
        by_file: dict[Path, list[int]] = {}
        for number, (row, _) in enumerate(self.responses):
            by_file.setdefault(row.path, []).append(number)
        cells = []
        for path, numbers in by_file.items():
            for scored in self.scored:
                found, said = self.figures(scored, numbers), [str(path), scored.fn]
                said += [f"{found.responses:,}", f"{found.problems:,}"]
                said += [_share(found.average), _interval(found), f"{found.mean_score:.3f}"]
                failed = found.verdicts["timeout"] + found.verdicts["crash"]
                cells.append([*said, f"{found.verdicts['unparsed']:,}", f"{failed:,}"])
        return columns, cells

    def notes(self) -> list[str]:
        """Remarks on how the figures are computed."""
        unnamed = sum(not row.problem for row in self.generations)
        if not unnamed:
            return []
        return [
            f"{unnamed:,} of {len(self.generations):,} rows do not name their problem (by {', '.join(PROBLEM_KEYS)}): "
            "each counts as a problem of its own"
        ]

    def disagreements(self) -> list[int]:
        """Which responses one of two verifiers finds correct, and the other does not; none without a second."""
        if len(self.scored) < 2:
            return []
        pairs = zip(self.scored[0].rewards, self.scored[1].rewards, strict=True)
        verdicts = [{verdict(reward) for reward in pair} for pair in pairs]
        return [
            number
            for number, said in enumerate(verdicts)
            if len(said) == 2 and "correct" in said and "unknown" not in said
        ]

    def disagreement_table(self) -> Table:
        """The first `SHOWN` disagreements, with what each verifier found."""
        several = len({row.path for row in self.generations}) > 1
        cells = []
        for number in self.disagreements()[:SHOWN]:
            row, sample = self.responses[number]
            place = f"{row.path}:{row.row}" if several else str(row.row)
            place += f", sample {sample + 1}" if row.listed else ""
            said = [
                text
                for scored in self.scored
                for text in (verdict(scored.rewards[number]), _short(scored.rewards[number].extracted))
            ]
            cells.append([place, _short(row.data_source), _short(row.ground_truth), *said])
        names = [name for scored in self.scored for name in (scored.fn, "its answer")]
        return ["row", "data source", "ground truth", *names], cells

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows, with the verdicts added as "verified" and "against": a list where the row lists responses."""
        rewards = [iter(scored.rewards) for scored in self.scored]
        for row in self.generations:
            added: dict[str, Any] = {}
            for key, scored, said in zip(("verified", "against"), self.scored, rewards, strict=False):
                place = {"fn": scored.fn, "file": str(row.path), "row": row.row}
                verdicts = [place | _said(next(said)) for _ in row.responses]
                added[key] = verdicts if row.listed else verdicts[0]
            yield {**row.content, **added}


def _said(reward: Reward) -> dict[str, Any]:
    return {
        "verdict": verdict(reward),
        "score": reward.score,
        "accuracy": reward.accuracy,
        "extracted": reward.extracted,
        "components": dict(reward.components),
        "seconds": reward.seconds,
    }


def _share(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.2%}"


def _interval(found: Figures) -> str:
    return "unknown" if found.interval is None else " to ".join(map(_share, found.interval))


def _short(value: object) -> str:
    """A value on one line, for a cell."""
    return "" if value is None else one_line(str(value), LONGEST_CELL)
