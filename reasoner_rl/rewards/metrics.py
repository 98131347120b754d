"""What is logged of a batch's rewards."""

from __future__ import annotations

from collections.abc import Sequence

from reasoner_rl.metrics import Metrics, mean_of, total
from reasoner_rl.types import OVERLONG, REWARD_METRICS, REWARD_MODEL, ScoredGroup

# Functions may not be called these: they would share a metric with something else.
RESERVED_NAMES = (*REWARD_METRICS, OVERLONG, REWARD_MODEL)


def reward_metrics(groups: Sequence[ScoredGroup]) -> Metrics:
    """Return means over all responses of the groups, and counts of failures.

    ``reward/accuracy`` is left out if there is a response of which it is not known, and ``reward/accuracy_unknown``
    counts those. ``reward/unparsed``: responses in which a function found no answer, if it says so,
    and ``reward/undecided`` those of which it could not tell whether the answer is right.
    ``reward/second_opinions``: responses that a second verifier judged, if any were; it disagrees about
    ``reward/second_opinion_disagreements`` of them, and failed on ``reward/second_opinion_failures``.
    ``reward/<component>``: mean over the responses that have it. ``reward/overlong_share``: share with an
    overlong penalty. ``reward/truncated``: share cut off at the token limit.
    """
    rewards = [reward for group in groups for reward in group.rewards]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    accuracies = [reward.accuracy for reward in rewards]
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    names = dict.fromkeys(name for reward in rewards for name in reward.components)
    metrics = {
        f"reward/{name}": mean_of(reward.components[name] for reward in rewards if name in reward.components)
        for name in names
    }
    opinions = [reward.second_opinion for reward in rewards if reward.second_opinion is not None]
    if opinions:
        metrics |= {
            "reward/second_opinions": total(len(opinions)),
            "reward/second_opinion_disagreements": total(sum(reward.disputed for reward in rewards)),
            "reward/second_opinion_failures": total(sum(each in ("timeout", "crash") for each in opinions)),
        }
    return metrics | {
        "reward/score": mean_of(reward.score for reward in rewards),
        "reward/accuracy": mean_of(known if len(known) == len(accuracies) else ()),
        "reward/accuracy_unknown": total(len(accuracies) - len(known)),
        "reward/overlong_share": mean_of(reward.components.get(OVERLONG, 0.0) != 0 for reward in rewards),
        "reward/truncated": mean_of(rollout.finish_reason == "length" for rollout in rollouts),
        "reward/unparsed": total(sum(reward.status == "unparsed" for reward in rewards)),
        "reward/undecided": total(sum(reward.status == "undecided" for reward in rewards)),
        "reward/timeouts": total(sum(reward.status == "timeout" for reward in rewards)),
        "reward/crashes": total(sum(reward.status == "crash" for reward in rewards)),
    }
