"""How long responses are: distributions with their sources, fixed in lengths.json before the first simulation.

A prompt has a length of its own, which its responses share in part: the standard normal score of a response is
``sqrt(r) * prompt + sqrt(1 - r) * response`` with two independent standard normal numbers, and its length is the
distribution's quantile at that score (a Gaussian copula). Whether the responses to a prompt are all right, all wrong or
mixed is independent of their lengths.

    python -m simulation.lengths runs/reference_word_problems/as_it_is   # quantiles of recorded responses, as JSON
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy

FILE = Path(__file__).with_suffix(".json")
KNOTS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0)
Outcome = Literal["right", "wrong", "mixed"]


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of response lengths in tokens."""

    name: str
    source: str
    limit: int  # tokens at which a response is cut off
    correlation: float  # within a prompt, of normal scores
    knots: tuple[
        tuple[float, float], ...
    ]  # (share of responses, tokens), rising; logarithms are linear in between

    def of_scores(self, scores: numpy.ndarray) -> numpy.ndarray:
        """Lengths in tokens, from 1 to the limit, of standard normal scores."""
        shares, tokens = zip(*self.knots, strict=True)
        below = [0.5 * math.erfc(-score / math.sqrt(2)) for score in scores.tolist()]
        found = numpy.exp(numpy.interp(below, shares, numpy.log(tokens)))
        return numpy.clip(numpy.rint(found), 1, self.limit).astype(int)

    def of_group(self, seed: int, prompt: str, responses: int) -> list[int]:
        """The lengths of the first responses to a prompt; a request's ``seed`` and the prompt's uid fix them."""
        shared = numpy.random.default_rng([_number(prompt), 1]).standard_normal()
        own = numpy.random.default_rng([seed % 2**63, 2]).standard_normal(responses)
        scores = self.correlation**0.5 * shared + (1 - self.correlation) ** 0.5 * own
        return [int(tokens) for tokens in self.of_scores(scores)]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Shares of prompts of which all responses are right, all are wrong, or some are right."""

    right: float
    wrong: float

    def of_prompt(self, prompt: str) -> Outcome:
        """What becomes of a prompt's group; it depends on the uid alone."""
        drawn = zlib.crc32(prompt.encode()) / 2**32
        if drawn < self.right:
            return "right"
        return "wrong" if drawn < self.right + self.wrong else "mixed"


def _number(prompt: str) -> int:
    return int.from_bytes(prompt.encode(), "big")


def load(name: str) -> Lengths:
    """A distribution of lengths.json. Raises KeyError if it has none of this name."""
    given = json.loads(FILE.read_text())["distributions"][name]
    knots = tuple((share, tokens) for share, tokens in given["knots"])
    return Lengths(name, given["source"], given["limit"], given["correlation"], knots)


def names() -> list[str]:
    """The distributions of lengths.json."""
    return list(json.loads(FILE.read_text())["distributions"])


def outcomes() -> Outcomes:
    """How many prompts are all right and all wrong, of lengths.json."""
    given = json.loads(FILE.read_text())["groups"]
    return Outcomes(given["right"], given["wrong"])


def measure(folders: Sequence[Path]) -> dict[str, Any]:
    """Quantiles of the response lengths in the rollout records below some folders, and their correlation in a group.

    The correlation is the share of the variance of log-lengths that lies between groups (intraclass correlation).
    """
    import pyarrow.parquet

    groups: dict[tuple[str, int], list[int]] = {}
    for path in sorted(path for folder in folders for path in folder.rglob("rollouts/*.parquet")):
        table = pyarrow.parquet.read_table(path, columns=["group", "tokens"]).to_pydict()
        for group, tokens in zip(table["group"], table["tokens"], strict=True):
            groups.setdefault((str(path), group), []).append(tokens)
    every = [numpy.log(group) for group in groups.values()]
    joined = numpy.concatenate(every)
    inside = sum(((group - group.mean()) ** 2).sum() for group in every) / (len(joined) - len(every))
    return {
        "responses": len(joined),
        "correlation": round(1 - float(inside / joined.var()), 2),
        "knots": [[share, round(float(numpy.exp(numpy.quantile(joined, share))), 1)] for share in KNOTS],
    }


if __name__ == "__main__":
    print(json.dumps(measure([Path(folder) for folder in sys.argv[1:]])))
