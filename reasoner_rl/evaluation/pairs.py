"""How often a reward model is right about pairs of answers, and whether it knows how sure it can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, NamedTuple

from reasoner_rl.evaluation.calibration import Calibration
from reasoner_rl.evaluation.estimators import wilson_interval
from reasoner_rl.metrics import Metrics, mean

BUCKETS = ("shorter", "equal", "longer")  # the chosen answer, in tokens, compared with the rejected one


class PairVerdict(NamedTuple):
    """What a reward model says of a pair."""

    row: int  # of the file, from 1
    lead: float  # of the chosen answer: the difference of scores, or the log-odds of winning; above 0: right
    chosen_tokens: int
    rejected_tokens: int

    @property
    def probability(self) -> float:
        """That the chosen answer is the better one, as the model says."""
        # By the negative of a number, exp overflows; by the positive one it vanishes.
        sure = 1 / (1 + math.exp(-abs(self.lead)))
        return sure if self.lead >= 0 else 1 - sure

    @property
    def right(self) -> float:
        """1 if the model is right, 0.5 of a tie."""
        return 0.5 if self.lead == 0 else float(self.lead > 0)

    @property
    def bucket(self) -> str:
        """Which of `BUCKETS` the pair is in."""
        difference = self.chosen_tokens - self.rejected_tokens
        return BUCKETS[(difference > 0) - (difference < 0) + 1]


@dataclass(frozen=True, slots=True)
class PairReport:
    """What a reward model says of the pairs of one dataset. Accuracies and errors are in [0, 1]."""

    dataset: str
    pairs: int
    accuracy: float  # ties count half
    ci_low: float  # 95 % interval, Wilson's
    ci_high: float
    margin: float  # mean lead of the chosen answer
    calibration_error: float  # expected calibration error
    brier: float  # mean squared error of the probabilities
    longer_is_better: float  # the accuracy of choosing the longer answer; 0.5: length says nothing
    # By bucket of length: pairs in it, and the accuracy there, None without pairs. A model that has learnt length
    # instead of quality is wrong where the chosen answer is the shorter one.
    pairs_by_length: dict[str, int]
    accuracy_by_length: dict[str, float | None]

    def metrics(self, prefix: str = "eval") -> Metrics:
        """Return ``<prefix>/<dataset>/accuracy`` and the like."""
        numbers = {
            "accuracy": self.accuracy,
            "ci_low": self.ci_low,
            "ci_high": self.ci_high,
            "margin": self.margin,
            "calibration_error": self.calibration_error,
            "brier": self.brier,
            "longer_is_better": self.longer_is_better,
        }
        for bucket, accuracy in self.accuracy_by_length.items():
            if accuracy is not None:
                numbers[f"accuracy_chosen_{bucket}"] = accuracy
        return {f"{prefix}/{self.dataset}/{name}": mean(number) for name, number in numbers.items()}

    def __str__(self) -> str:
        by_length = ", ".join(
            f"{accuracy:.1%} of {self.pairs_by_length[bucket]:,} where it is {_WORDS[bucket]}"
            for bucket, accuracy in self.accuracy_by_length.items()
            if accuracy is not None
        )
        return (
            f"{self.dataset}: {self.accuracy:.1%} of {self.pairs:,} pairs right (95 % interval {self.ci_low:.1%} to "
            f"{self.ci_high:.1%}), mean lead {self.margin:.3g}, expected calibration error "
            f"{self.calibration_error:.3f}; by length of the chosen answer: {by_length}; choosing the longer answer "
            f"would be right in {self.longer_is_better:.1%}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return every field by name."""
        return asdict(self)


_WORDS = {"shorter": "the shorter one", "equal": "as long", "longer": "the longer one"}


def summarise_pairs(dataset: str, verdicts: Sequence[PairVerdict], calibration: Calibration) -> PairReport:
    """Make a report of the verdicts on a dataset's pairs, at least one, and the calibration of their probabilities."""
    accuracy = fmean(verdict.right for verdict in verdicts)
    low, high = wilson_interval(accuracy, len(verdicts))
    by_length = {
        bucket: [verdict.right for verdict in verdicts if verdict.bucket == bucket] for bucket in BUCKETS
    }
    longer = {"shorter": 0.0, "equal": 0.5, "longer": 1.0}
    return PairReport(
        dataset=dataset,
        pairs=len(verdicts),
        accuracy=accuracy,
        ci_low=low,
        ci_high=high,
        margin=fmean(verdict.lead for verdict in verdicts),
        calibration_error=calibration.error,
        brier=calibration.brier,
        longer_is_better=fmean(longer[verdict.bucket] for verdict in verdicts),
        pairs_by_length={bucket: len(right) for bucket, right in by_length.items()},
        accuracy_by_length={bucket: fmean(right) if right else None for bucket, right in by_length.items()},
    )
