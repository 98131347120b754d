"""Summary of a verifier's rewards: counts of verdicts, accuracy with its interval, mean score."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from reasoner_rl.evaluation.estimators import mean_at_k
from reasoner_rl.evaluation.intervals import confidence_interval
from reasoner_rl.types import Reward

VERDICTS = ("correct", "wrong", "unparsed", "undecided", "timeout", "crash", "unknown")


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares and accuracies are in [0, 1].

    ``accuracy``, ``average`` and ``interval`` are None if the accuracy of any response is not known.
    """

    responses: int
    problems: int
    fewest: int  # responses to one problem
    most: int
    accuracy: float | None  # mean over responses
    average: float | None  # avg@k: the mean over problems of the mean over a problem's responses
    interval: tuple[float, float] | None  # 95 %, of avg@k, clustered by problem
    mean_score: float  # of responses
    verdicts: Mapping[str, int]  # responses by verdict; all of `VERDICTS`

    @property
    def samples(self) -> str:
        """The k of avg@k, for people."""
        return f"{self.most}" if self.fewest == self.most else f"{self.fewest} to {self.most}"


def verdict(reward: Reward) -> str:
    """One of `VERDICTS`. A function whose accuracy is between 0 and 1 finds an answer correct from 0.5 on.

    "unknown": the function returns a score without an accuracy.
    """
    if reward.status != "ok":
        return reward.status
    if reward.accuracy is None:
        return "unknown"
    return "correct" if reward.accuracy >= 0.5 else "wrong"


def figures(problems: Sequence[Hashable], rewards: Sequence[Reward]) -> Figures:
    """Summarise a verifier's rewards, at least one. problems: for each response, the problem that it answers."""
    by_problem: dict[Hashable, list[float | None]] = {}
    for problem, reward in zip(problems, rewards, strict=True):
        by_problem.setdefault(problem, []).append(reward.accuracy)
    counts = [len(samples) for samples in by_problem.values()]
    said = [verdict(reward) for reward in rewards]
    known = [[a for a in samples if a is not None] for samples in by_problem.values()]
    complete = [len(samples) for samples in known] == counts
    return Figures(
        responses=len(rewards),
        problems=len(counts),
        fewest=min(counts),
        most=max(counts),
        accuracy=fmean(a for samples in known for a in samples) if complete else None,
        average=mean_at_k(known) if complete else None,
        interval=confidence_interval(known) if complete else None,
        mean_score=fmean(reward.score for reward in rewards),
        verdicts={name: said.count(name) for name in VERDICTS},
    )
