"""Where the logprobs of generation and trainer differ: by position in the response, by token, by response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[numpy.float64]


@dataclass(frozen=True, slots=True)
class ResponseGaps:
    """A response whose tokens were scored by both."""

    step: int
    uid: str  # of its prompt
    sample: int  # its number in the group
    prompt_ids: Sequence[int]
    token_ids: Sequence[int]  # [R]
    gaps: Floats  # [R] nats, |trainer - engine|


@dataclass(frozen=True, slots=True)
class GapsOf:
    """The gaps of some tokens."""

    key: int  # first position of a range, or id of a token
    last: int  # last position of the range; as ``key`` for a token
    tokens: int
    mean: float
    largest: float


def gaps_of(trainer: Tensor, engine: Tensor) -> Floats:
    """|trainer - engine| of the logprobs [R] of a response's tokens, in nats."""
    gaps: Floats = (trainer.double() - engine.double()).abs().numpy()
    return gaps


def gaps_by_position(responses: Sequence[ResponseGaps]) -> list[GapsOf]:
    """By ranges of positions in the response from 0: 0, 1, 2-3, 4-7, 8-15 and so on."""
    positions = _joined([numpy.arange(len(each.gaps)) for each in responses])
    ranges = numpy.frexp(positions)[1]  # 0 for 0, k for 2^(k-1) to 2^k - 1
    found = _grouped(ranges, _joined([each.gaps for each in responses]))
    return [GapsOf(2**k // 2, max(0, 2**k - 1), count, mean, largest) for k, count, mean, largest in found]


def gaps_by_token(responses: Sequence[ResponseGaps], most: int) -> list[GapsOf]:
    """The tokens with the largest mean gap, the worst first."""
    ids = _joined([numpy.asarray(each.token_ids) for each in responses])
    found = _grouped(ids, _joined([each.gaps for each in responses]))
    worst = sorted(found, key=lambda row: -row[2])[:most]
    return [GapsOf(token, token, count, mean, largest) for token, count, mean, largest in worst]


def worst_responses(responses: Sequence[ResponseGaps], most: int) -> list[ResponseGaps]:
    """Those with the largest mean gap, the worst first."""
    return sorted((each for each in responses if len(each.gaps)), key=lambda each: -each.gaps.mean())[:most]


def _joined(parts: Sequence[NDArray[numpy.generic]]) -> NDArray[numpy.generic]:
    return numpy.concatenate(parts) if parts else numpy.empty(0)


def _grouped(
    keys: NDArray[numpy.generic], gaps: NDArray[numpy.generic]
) -> list[tuple[int, int, float, float]]:
    """Key, count, mean and largest gap of the tokens with each key, in order of the keys."""
    different, place = numpy.unique(keys, return_inverse=True)
    counts = numpy.bincount(place, minlength=len(different))
    sums = numpy.bincount(place, weights=gaps.astype(numpy.float64), minlength=len(different))
    largest = numpy.zeros(len(different))
    numpy.maximum.at(largest, place, gaps.astype(numpy.float64))
    rows = zip(different.tolist(), counts.tolist(), (sums / counts).tolist(), largest.tolist(), strict=True)
    return [(int(key), count, mean, top) for key, count, mean, top in rows]
