"""Judged pairs as a reward model reads them, in training and where it is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reasoner_rl.evaluation.pairs import PairVerdict
from reasoner_rl.prompts.judged import JudgedExample
from reasoner_rl.reward_models.comparison import Comparer, Comparison, text_of
from reasoner_rl.reward_models.judges import ScoringModel, scores_of, win_probabilities
from reasoner_rl.types import Example, TrainSample

_SUREST = 1e-12  # the least probability of which the log-odds are taken


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A prompt with a chosen and a rejected answer, as text and, each for itself, as tokens."""

    row: int  # of the file, from 1
    comparison: Comparison  # the chosen answer is the first
    chosen: TrainSample
    rejected: TrainSample

    def example(self, comparer: Comparer | None) -> Example:
        """What a reward model is trained on: the two answers, or with a comparer both orders of them with labels."""
        if comparer is None:
            return (self.chosen, self.rejected)
        return (comparer.labelled(self.comparison)[0], comparer.labelled(self.comparison.swapped)[1])


def judged_pairs(
    examples: Sequence[JudgedExample], rendered: Sequence[Example], rows: Sequence[int]
) -> list[JudgedPair]:
    """Put rendered answers beside their texts. rows: of those that were rendered, in order."""
    by_row = {example.row: example for example in examples}
    pairs = []
    for row, (chosen, rejected) in zip(rows, rendered, strict=True):
        example = by_row[row]
        comparison = Comparison(text_of(example.messages), *example.answers)
        pairs.append(JudgedPair(row, comparison, chosen, rejected))
    return pairs


def verdicts(
    model: ScoringModel, comparer: Comparer | None, pairs: Sequence[JudgedPair]
) -> list[PairVerdict]:
    """What a model says of pairs. comparer: of a pairwise model."""
    if comparer is None:
        scores = scores_of(model, [answer for pair in pairs for answer in (pair.chosen, pair.rejected)])
        leads = [chosen - rejected for chosen, rejected in zip(scores[::2], scores[1::2], strict=True)]
    else:
        probabilities = win_probabilities(model, comparer, [pair.comparison for pair in pairs])
        leads = [_log_odds(probability) for probability in probabilities]
    return [
        PairVerdict(pair.row, lead, len(pair.chosen.response_ids), len(pair.rejected.response_ids))
        for pair, lead in zip(pairs, leads, strict=True)
    ]


def _log_odds(probability: float) -> float:
    kept = min(max(probability, _SUREST), 1 - _SUREST)
    return math.log(kept / (1 - kept))
