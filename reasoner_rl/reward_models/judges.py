"""Reward models at work: what they say of answers, in reinforcement learning and on held-out pairs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from reasoner_rl.batching.reading import read_at_end
from reasoner_rl.config.reward_model import PairwiseJudgeConfig
from reasoner_rl.metrics import Metrics, total
from reasoner_rl.prompts.supervised import example_of
from reasoner_rl.reward_models.comparison import Comparer, Comparison, Judgement, win_probability
from reasoner_rl.reward_models.schedule import tournament
from reasoner_rl.seeding import derive_seed
from reasoner_rl.types import ScoredGroup, TrainSample


class ScoringModel(Protocol):
    """A reward model's weights, on whatever workers."""

    def values(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Of a pointwise model: see `reasoner_rl.algorithms.base.RewardModel`."""
        ...

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Of a pairwise model: see `reasoner_rl.algorithms.base.RewardModel`."""
        ...


class Judge(Protocol):
    """Gives every response of a batch a score."""

    def scores(self, groups: Sequence[ScoredGroup]) -> tuple[list[list[float]], Metrics]:
        """[groups][responses], and what was counted on the way."""
        ...


def scores_of(model: ScoringModel, samples: Sequence[TrainSample]) -> list[float]:
    """A pointwise model's scores of prompts with answers."""
    return [float(value[0]) for value in model.values([read_at_end(sample) for sample in samples])]


def win_probabilities(
    model: ScoringModel, comparer: Comparer, comparisons: Sequence[Comparison]
) -> list[float]:
    """A pairwise model's probabilities that the first answer of each comparison is better, [comparisons]."""
    if not comparisons:
        return []
    asked = [sample for each in comparisons for sample in comparer.judgement(each)]
    found, parts = model.logprobs(asked), len(Judgement._fields)
    return [win_probability(found[start : start + parts]) for start in range(0, len(found), parts)]


class PointwiseJudge:
    """Scores every response by itself.

    read: makes of a group the samples that the model reads, [responses].
    """

    def __init__(self, model: ScoringModel, read: Callable[[ScoredGroup], Sequence[TrainSample]]) -> None:
        self._model, self._read = model, read

    def scores(self, groups: Sequence[ScoredGroup]) -> tuple[list[list[float]], Metrics]:
        """See `Judge`."""
        samples = [sample for group in groups for sample in self._read(group)]
        found = iter(scores_of(self._model, samples))
        return [[next(found) for _ in group.rollouts] for group in groups], {}


class PairwiseJudge:
    """Compares the responses of each group with each other, all groups side by side.

    texts: by uid of a prompt, its text.
    seed: decides, with the prompt and the policy's version, who meets whom where not everyone meets everyone.
    """

    def __init__(
        self,
        model: ScoringModel,
        comparer: Comparer,
        config: PairwiseJudgeConfig,
        texts: Mapping[str, str],
        seed: int,
    ) -> None:
        self._model, self._comparer, self._config = model, comparer, config
        self._texts, self._seed = texts, seed

    def scores(self, groups: Sequence[ScoredGroup]) -> tuple[list[list[float]], Metrics]:
        """See `Judge`."""
        made = 0
        played = [tournament(self._config, len(group.rollouts), self._rng(group)) for group in groups]
        while any(rounds := [each.next_round() for each in played]):
            comparisons = [
                Comparison(
                    self._texts[group.prompt.uid], group.rollouts[one].text, group.rollouts[other].text
                )
                for group, pairs in zip(groups, rounds, strict=True)
                for one, other in pairs
            ]
            results = iter(win_probabilities(self._model, self._comparer, comparisons))
            for each, pairs in zip(played, rounds, strict=True):
                if pairs:
                    each.record([next(results) for _ in pairs])
            made += len(comparisons)
        return [each.scores() for each in played], {"reward_model/comparisons": total(made)}

    def _rng(self, group: ScoredGroup) -> random.Random:
        return random.Random(derive_seed(self._seed, "opponents", group.policy_version, group.prompt.uid))


def as_sampled(group: ScoredGroup) -> list[TrainSample]:
    """The prompt's and responses' tokens as the policy read and sampled them."""
    return [example_of(group.prompt.token_ids, rollout.token_ids) for rollout in group.rollouts]
