"""Accuracy on held-out problems from several samples each, with error bars.

Every estimator is computed for each problem and then averaged over problems: problems are what was drawn at random,
and the samples of one problem are correlated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from reasoner_rl.evaluation.intervals import Z95, confidence_interval
from reasoner_rl.metrics import Metrics, mean
from reasoner_rl.types import ScoredGroup


@dataclass(frozen=True, slots=True)
class ProblemResult:
    """The k samples of one problem; every field is [k], in the order of sampling."""

    accuracies: tuple[float | None, ...]  # in [0, 1]; 1 is right; None: not known
    # As the verifier extracted them; None: no answer found. `majority_at_k` compares texts, so `sources.agreement`
    # gives equal answers the same text.
    answers: tuple[str | None, ...]
    response_tokens: tuple[int, ...]
    truncated: tuple[bool, ...]  # cut off at the token limit
    scores: tuple[float, ...] = ()  # as in training, before the penalty for length; may be left out

    @classmethod
    def from_group(cls, group: ScoredGroup) -> ProblemResult:
        """Read a result off a scored group."""
        return cls(
            accuracies=tuple(reward.accuracy for reward in group.rewards),
            answers=tuple(reward.extracted for reward in group.rewards),
            response_tokens=tuple(len(rollout.token_ids) for rollout in group.rollouts),
            truncated=tuple(rollout.finish_reason == "length" for rollout in group.rollouts),
            scores=tuple(reward.unshaped_score for reward in group.rewards),
        )


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Accuracy on one dataset. Shares and accuracies are in [0, 1]; k is ``samples_per_problem``.

    Estimates from accuracies are None if the accuracy of any response is not known.
    """

    dataset: str
    problems: int
    samples_per_problem: int
    accuracy: float | None  # avg@k
    ci_low: float | None  # 95 % interval of the accuracy
    ci_high: float | None
    pass_at_k: float | None
    pass_at: dict[int, float] | None  # pass@j from the same samples, for j of 1, 2, 4, ... and k
    majority_at_k: float | None
    mean_response_tokens: float
    truncated_share: float
    unanswered_share: float  # no answer could be extracted
    mean_score: float | None = None

    def metrics(self, prefix: str = "eval") -> Metrics:
        """Return ``<prefix>/<dataset>/accuracy`` and the like, without what is not known.

        pass@k and maj@k are included only if k is above 1, and the score only if the accuracy is not known.
        """
        numbers = {
            "accuracy": self.accuracy,
            "ci_low": self.ci_low,
            "ci_high": self.ci_high,
            "response_length_mean": self.mean_response_tokens,
            "truncated_share": self.truncated_share,
            "unanswered_share": self.unanswered_share,
            "score": self.mean_score if self.accuracy is None else None,
        }
        if self.samples_per_problem > 1:
            numbers |= {"pass_at_k": self.pass_at_k, "majority_at_k": self.majority_at_k}
        known = {name: number for name, number in numbers.items() if number is not None}
        return {f"{prefix}/{self.dataset}/{name}": mean(number) for name, number in known.items()}

    def row(self) -> dict[str, str]:
        """Return column title -> cell, for a table."""
        k = self.samples_per_problem
        cells = {
            "dataset": self.dataset,
            "problems": str(self.problems),
            "samples": str(k),
            "accuracy": _cell(self.accuracy),
            "95 % interval": _cell(self.ci_low, self.ci_high),
            "pass@k": _cell(self.pass_at_k),
            "maj@k": _cell(self.majority_at_k),
            "tokens": f"{self.mean_response_tokens:.0f}",
            "truncated": f"{self.truncated_share:.1%}",
            "unanswered": f"{self.unanswered_share:.1%}",
        }
        if self.accuracy is None:
            cells["mean score"] = _cell(self.mean_score)
        return cells

    def to_json(self) -> dict[str, Any]:
        """Return every field by name; keys are text, as in JSON."""
        shares = None if self.pass_at is None else {str(k): share for k, share in self.pass_at.items()}
        return {**asdict(self), "pass_at": shares}


def _cell(*numbers: float | None) -> str:
    """Numbers for people: one, or the ends of an interval."""
    return " to ".join("unknown" if number is None else f"{number:.3f}" for number in dict.fromkeys(numbers))


def summarise(dataset: str, results: Sequence[ProblemResult]) -> EvaluationReport:
    """Turn the results of all problems of a dataset into a report.

    Raises ValueError if there is no problem, or if the problems do not have the same number of samples, at
    least one.
    """
    counts = sorted({len(result.accuracies) for result in results})
    if len(counts) != 1 or counts[0] == 0:
        raise ValueError(
            f"{dataset}: every problem needs the same number of samples, at least 1; found {counts}"
        )
    k = counts[0]
    scores = [score for result in results for score in result.scores]
    return EvaluationReport(
        dataset=dataset,
        problems=len(results),
        samples_per_problem=k,
        **_of_accuracies(results, k),
        mean_response_tokens=fmean(tokens for result in results for tokens in result.response_tokens),
        truncated_share=fmean(cut for result in results for cut in result.truncated),
        unanswered_share=fmean(answer is None for result in results for answer in result.answers),
        mean_score=fmean(scores) if scores else None,
    )


def _of_accuracies(results: Sequence[ProblemResult], k: int) -> dict[str, Any]:
    """The fields of a report that are computed from accuracies; all None if one accuracy is not known."""
    accuracies = [[a for a in result.accuracies if a is not None] for result in results]
    if any(len(samples) < k for samples in accuracies):
        return dict.fromkeys(("accuracy", "ci_low", "ci_high", "pass_at_k", "pass_at", "majority_at_k"))
    low, high = confidence_interval(accuracies)
    votes = zip(results, accuracies, strict=True)
    right = [sum(a >= 1 for a in samples) for samples in accuracies]
    pass_at = {j: fmean(pass_at_k(k, c, j) for c in right) for j in powers_of_two(k)}
    return {
        "accuracy": mean_at_k(accuracies),
        "ci_low": low,
        "ci_high": high,
        "pass_at_k": pass_at[k],
        "pass_at": pass_at,
        "majority_at_k": fmean(majority_at_k(result.answers, samples) for result, samples in votes),
    }


def mean_at_k(accuracies: Sequence[Sequence[float]]) -> float:
    """avg@k: the mean over problems of the mean over a problem's samples; ``accuracies`` is [problems][k]."""
    return fmean(fmean(samples) for samples in accuracies)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that one of k samples is right, estimated without bias from n samples, c of them right.

    1 - C(n - c, k) / C(n, k): Chen et al., "Evaluating Large Language Models Trained on Code", arXiv
    2107.03374. Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n; got n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def powers_of_two(k: int) -> list[int]:
    """1, 2, 4, ... below k, and k."""
    return [*(2**power for power in range(k.bit_length()) if 2**power < k), k]


def majority_at_k(answers: Sequence[str | None], accuracies: Sequence[float]) -> float:
    """Accuracy of the answer that most of a problem's k samples give.

    Self-consistency: Wang et al., arXiv 2203.11171. It is one unweighted vote of all k samples. Answers are compared as
    text, so the caller gives equal answers the same text. Samples without an answer do not vote. Of answers with
    equally many votes the first one wins; without any answer the accuracy is 0. The winner's accuracy is that of the
    first sample that gave it.
    """
    votes: dict[str, int] = {}
    for answer in answers:
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + 1
    if not votes:
        return 0.0
    # max returns the first of equals, and a dict keeps the order in which answers were first seen.
    winner = max(votes, key=votes.__getitem__)
    return float(accuracies[list(answers).index(winner)])


def clustered_standard_error(accuracies: Sequence[Sequence[float]]) -> float:
    """Standard error of avg@k with problems as clusters of equal size; ``accuracies`` is [problems][k].

    The sample standard deviation of the problem means over the root of the number of problems (arXiv
    2411.00640).
    """
    means = [fmean(samples) for samples in accuracies]
    return stdev(means) / math.sqrt(len(means))


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """95 % score interval of a share seen in n independent trials.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927) 209-212.
    """
    shrink = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / shrink
    half = Z95 / shrink * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
