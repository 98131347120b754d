"""How far rewards differ, which is what group advantages are made of; and what to say where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import stdev

from reasoner_rl.metrics import Metrics, mean, mean_of
from reasoner_rl.types import SAME_SCORE, ScoredGroup

MOST = 0.9  # share of groups with equal scores from which on a step has next to nothing to learn from
MANY_STEPS = 10  # of such steps in a row, before that is said


def spread_metrics(groups: Sequence[ScoredGroup]) -> Metrics:
    """Metrics of the scores of groups of two responses and more; of no such group there are none.

    ``groups/equal_share``: share of the groups whose scores are all equal, up to rounding. ``groups/reward_std``: mean
    over groups of the standard deviation within a group, and ``reward/score_std``: that over all responses; both with
    n - 1 in the denominator, as in ``group_std``. ``groups/dead_share``: share of the groups whose scores are all equal
    without all responses being right, as far as accuracy is known.
    """
    scores = _scores(groups)
    if not scores:
        return {}
    return {
        "groups/equal_share": mean_of(_equal(group) for group in scores),
        "groups/dead_share": mean_of(group.is_dead for group in groups if len(group.rewards) > 1),
        "groups/reward_std": mean_of(stdev(group) for group in scores),
        "reward/score_std": mean(stdev(score for group in scores for score in group)),
    }


class EqualScores:
    """Says once, at the beginning of every stretch of steps, that scores do not differ."""

    def __init__(self) -> None:
        self._in_stretch = False
        self._mostly_equal = 0  # steps in a row

    def message(self, groups: Sequence[ScoredGroup]) -> str | None:
        """A warning about a step with these groups, which are trained on by their scores; None: nothing.

        Steps without groups of two responses end no stretch and begin none.
        """
        scores = _scores(groups)
        if not scores:
            return None
        share = sum(map(_equal, scores)) / len(scores)
        self._mostly_equal = self._mostly_equal + 1 if share >= MOST else 0
        everything = [score for group in scores for score in group]
        if share == 1:
            begins, self._in_stretch = not self._in_stretch, True
            alike = "within every group rewards are equal"
            if _equal(everything):
                alike = f"all rewards are {everything[0]:g}"
            learnt = "they say of no response that it is better, and nothing is learnt from them"
            return f"{alike}: {learnt}" if begins else None
        if self._mostly_equal == 0:
            self._in_stretch = False
        if self._mostly_equal >= MANY_STEPS and not self._in_stretch:
            self._in_stretch = True
            return (
                f"for {self._mostly_equal} steps at least {MOST:.0%} of the groups have had equal rewards, from which "
                "nothing is learnt"
            )
        return None


def _scores(groups: Sequence[ScoredGroup]) -> list[list[float]]:
    found = [[reward.score for reward in group.rewards] for group in groups]
    return [scores for scores in found if len(scores) > 1]


def _equal(scores: Sequence[float]) -> bool:
    return max(scores) - min(scores) <= SAME_SCORE
