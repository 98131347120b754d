"""A share of the responses, judged by a second verifier: a check of the first, on which no reward depends."""

from __future__ import annotations

from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.rewards.contract import Answer
from reasoner_rl.rewards.process import dry_run
from reasoner_rl.rewards.queueing import RewardTask
from reasoner_rl.seeding import derive_seed
from reasoner_rl.types import Opinion, Reward

_SEEDS = 2**63  # as many as `derive_seed` returns


def is_chosen(task: RewardTask, share: float) -> bool:
    """Whether a response is judged twice: by a hash of its text and ground truth, so that resuming changes nothing."""
    return derive_seed("second opinion", task.ground_truth, task.response) < share * _SEEDS


def opinion_of(second: Reward) -> Opinion:
    """What the second verifier's verdict says of a response."""
    if second.status == "timeout":
        return "timeout"
    if second.status == "crash":
        return "crash"
    if second.status == "undecided" or second.accuracy is None:
        return "undecided"
    return "right" if second.accuracy == 1 else "wrong"


def check_second_opinion(config: RewardConfig, sample: Answer) -> None:
    """Call the second verifier on a row of the data. Raises ConfigError if it does not say what is right."""
    alone = config.of_second_opinion
    if alone is not None and dry_run(alone, sample)[0].accuracy is None:
        raise ConfigError(
            f"reward.second_opinion: {alone.functions[0].fn!r} returns a score without 'acc', and a second opinion is "
            "about accuracy: return {'score': ..., 'acc': True or False}"
        )
