"""What the preference methods prepare: the reference's logprobs, KTO's estimate of the KL divergence, weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reasoner_rl.algorithms.base import Models
from reasoner_rl.algorithms.dpo import Dpo
from reasoner_rl.algorithms.kto import Kto, mismatched
from reasoner_rl.algorithms.score_weighted_sft import ScoreWeightedSft
from reasoner_rl.config.preference import DpoConfig, KtoConfig, ScoreWeightedSftConfig
from reasoner_rl.errors import DataError
from reasoner_rl.metrics import Metrics, mean, values
from reasoner_rl.types import TrainSample


class Additive:
    """Its logprob of each response token is minus (scale * first token of the prompt + the token)."""

    def __init__(self, scale: float, **measured: tuple[float, float]) -> None:
        self._scale, self._measured = scale, measured
        self.asked: list[tuple[list[int], list[int]]] = []

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        self.asked += [(s.prompt_ids.tolist(), s.response_ids.tolist()) for s in samples]
        return [-(self._scale * s.prompt_ids[0] + s.response_ids).float() for s in samples]

    def entropies(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        raise AssertionError("nothing needs them")

    def update(self, samples: Sequence[TrainSample], next_examples: Any = None) -> Metrics:
        return {f"rewards/{name}": mean(*given) for name, given in self._measured.items()}

    def refresh(self) -> None:
        raise AssertionError("a reference stays what it is")


def sample(prompt: int, response: list[int], reward: float = 0.0, **fields: Any) -> TrainSample:
    count = len(response)
    made = TrainSample(
        prompt_ids=torch.tensor([prompt]),
        response_ids=torch.tensor(response),
        loss_mask=torch.ones(count, dtype=torch.bool),
        advantages=torch.zeros(count),
        rollout_logprobs=torch.zeros(count),
        reward=reward,
    )
    return made.replace(**fields)


def models(policy: float, reference: float, **measured: tuple[float, float]) -> Models:
    return Models(Additive(policy, **measured), Additive(reference))


# Prompts 1, 1 and 2 with answers of 2, 1 and 3 tokens. As a ring, prompt 1 gets the answer to prompt 2 twice, and
# prompt 2 the first answer to prompt 1.
SAMPLES = [sample(1, [5, 6], 1.0), sample(1, [7]), sample(2, [8, 9, 4], 1.0)]


def test_each_prompt_is_compared_with_the_answer_to_the_next_other_one() -> None:
    crossed = mismatched(SAMPLES)
    pairs = [(s.prompt_ids.tolist(), s.response_ids.tolist()) for s in crossed]
    assert pairs == [([1], [8, 9, 4]), ([1], [8, 9, 4]), ([2], [5, 6])]
    many = [sample(number % 3, [number]) for number in range(40)]
    for own, other in zip(many, mismatched(many), strict=True):
        assert other.prompt_ids.equal(own.prompt_ids)
        assert int(other.response_ids[0]) % 3 != int(own.prompt_ids[0]), "never an answer to the same prompt"
    with pytest.raises(
        DataError, match=r"all 2 answers of this step are to the same one: raise batch\.examples"
    ):
        mismatched(SAMPLES[:2])


def test_the_estimate_of_kto_by_hand() -> None:
    """The log-ratio per token is (reference - policy) times the prompt: 1 or 2, over 3, 3 and 2 tokens."""
    given = models(policy=0.5, reference=1.5)
    samples, metrics = Kto(KtoConfig()).prepare(SAMPLES, given)
    estimate = (3 * 1 + 3 * 1 + 2 * 2) / 3
    assert values(metrics) == {"preference/kl": pytest.approx(estimate)}
    assert len(samples) == 3, "the mismatched ones are not trained on"
    for own, before in zip(samples, SAMPLES, strict=True):
        assert own.kl_baseline is not None
        assert own.kl_baseline.tolist() == pytest.approx([estimate] * len(before.response_ids))
        assert not own.kl_baseline.requires_grad
        assert own.response_ids.equal(before.response_ids)
        assert own.reference_logprobs is not None
        expected = -(1.5 * before.prompt_ids[0] + before.response_ids)
        assert own.reference_logprobs.tolist() == expected.tolist()
    assert given.policy.asked == [([1], [8, 9, 4]), ([1], [8, 9, 4]), ([2], [5, 6])]  # type: ignore[attr-defined]


def test_the_estimate_is_not_below_zero() -> None:
    samples, metrics = Kto(KtoConfig()).prepare(SAMPLES, models(policy=1.5, reference=0.5))
    assert values(metrics) == {"preference/kl": 0.0}
    assert all(not s.kl_baseline.any() for s in samples if s.kl_baseline is not None)


def test_the_margin_of_kto_is_between_the_means_of_both_kinds() -> None:
    given = models(0.0, 0.0, chosen=(3.0, 2.0), rejected=(-4.0, 8.0))
    assert values(Kto(KtoConfig()).update(SAMPLES, given))["rewards/margins"] == 2.0
    one_kind = models(0.0, 0.0, chosen=(3.0, 2.0), rejected=(0.0, 0.0))
    assert values(Kto(KtoConfig()).update(SAMPLES, one_kind)) == {"rewards/chosen": 1.5}


def test_dpo_asks_a_reference_only_if_it_is_live() -> None:
    live, precomputed = Dpo(DpoConfig()), Dpo(DpoConfig(reference="precomputed", reference_cache=Path("c")))
    assert (live.roles, precomputed.roles) == (("policy", "reference"), ("policy",))
    samples, metrics = live.prepare(SAMPLES, models(0.0, 1.0))
    assert [s.reference_logprobs.tolist() for s in samples if s.reference_logprobs is not None] == [
        [-6.0, -7.0],
        [-8.0],
        [-10.0, -11.0, -6.0],
    ]
    assert metrics == {}
    attached = [s.replace(reference_logprobs=torch.zeros(len(s.response_ids))) for s in SAMPLES]
    samples, _ = precomputed.prepare(attached, Models(Additive(0.0)))
    assert all(not s.reference_logprobs.any() for s in samples if s.reference_logprobs is not None)


@pytest.mark.parametrize(("center", "expected"), [(True, [1.5, -2.5, 2.5]), (False, [2.5, -1.5, 3.5])])
def test_weights_from_scores(center: bool, expected: list[float]) -> None:
    """0.5 + 2 * score, with the mean score 0.5 subtracted if it is centred."""
    config = ScoreWeightedSftConfig(score_weight=2.0, likelihood_weight=0.5, center=center)
    scored = [s.replace(reward=score) for s, score in zip(SAMPLES, (1.0, -1.0, 1.5), strict=True)]
    samples, metrics = ScoreWeightedSft(config).prepare(scored, Models(Additive(0.0)))
    assert [set(s.advantages.tolist()) for s in samples] == [{weight} for weight in expected]
    assert values(metrics) == {
        "preference/score": pytest.approx(0.5),
        "preference/negative_weights": pytest.approx(1 / 3),
    }
