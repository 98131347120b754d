"""Rules between the keys of the loss, of its corrections, and of PPO's sections."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from reasoner_rl.config.algorithm import ImportanceSamplingConfig, LossConfig, TokenMaskConfig
from reasoner_rl.config.base import Section
from reasoner_rl.config.ppo import GaeConfig, KlControlConfig

GMPO: dict[str, Any] = {"objective": "gmpo", "dual_clip": None, "aggregation": "seq-mean-token-mean"}
CISPO: dict[str, Any] = {"objective": "cispo", "dual_clip": None}


@pytest.mark.parametrize(
    ("section", "right", "wrong", "message"),
    [
        (LossConfig, CISPO, {"dual_clip": 10.0}, "'cispo' has no use for a dual clip"),
        (LossConfig, GMPO, {"dual_clip": 3.0}, "set algorithm.loss.dual_clip null"),
        (LossConfig, GMPO, {"ratio": "sequence"}, "set algorithm.loss.ratio 'token'"),
        (
            LossConfig,
            GMPO,
            {"aggregation": "token-mean"},
            "set algorithm.loss.aggregation 'seq-mean-token-mean'",
        ),
        (
            LossConfig,
            GMPO | {"importance_sampling": {"kind": "masked", "level": "geometric"}},
            {"importance_sampling": {"kind": "masked"}},
            "set algorithm.loss.importance_sampling.level 'sequence' or 'geometric'",
        ),
        (LossConfig, {"clip_low": 1.0}, {"clip_low": 1.01}, "less than or equal to 1"),
        (
            ImportanceSamplingConfig,
            {"kind": "rejected", "level": "sequence"},
            {"kind": "none"},
            "level 'sequence' has no effect with kind 'none'",
        ),
        (
            TokenMaskConfig,
            {"kind": "custom", "fn": "mine.py:fn"},
            {"fn": None},
            "if and only if kind is 'custom'",
        ),
        (TokenMaskConfig, {"kind": "entropy"}, {"fn": "mine.py:fn"}, "kind is 'entropy'"),
        (TokenMaskConfig, {"share": 1.0}, {"share": 0.0}, "greater than 0"),
        (
            GaeConfig,
            {"length_adaptive_alpha": 0.05, "critic_lam": 1.0},
            {"critic_lam": None},
            "set gae.critic_lam (VAPO: 1.0)",
        ),
        (GaeConfig, {"lam": 1.0}, {"lam": 1.1}, "less than or equal to 1"),
        (
            KlControlConfig,
            {"controller": "adaptive", "coefficient": 0.1},
            {"coefficient": 0.0},
            "0 stays 0: set coefficient above 0",
        ),
        (KlControlConfig, {"horizon": 1}, {"horizon": 0}, "greater than or equal to 1"),
    ],
)
def test_rules(section: type[Section], right: dict[str, Any], wrong: dict[str, Any], message: str) -> None:
    section.model_validate(right)
    with pytest.raises(ValidationError) as caught:
        section.model_validate(right | wrong)
    assert message in str(caught.value)


def test_defaults() -> None:
    loss = LossConfig()
    assert (loss.objective, loss.ratio, loss.importance_sampling.level) == ("clip", "token", "token")
    gae = GaeConfig()
    assert (gae.gamma, gae.lam, gae.critic_lam, gae.whiten, gae.bootstrap_truncated) == (
        1.0,
        1.0,
        None,
        True,
        False,
    )
    control = KlControlConfig()
    assert (control.coefficient, control.estimator, control.controller) == (0.0, "k1", "fixed")
    assert TokenMaskConfig().kind == "none"


@pytest.mark.parametrize("section", [GaeConfig, KlControlConfig, TokenMaskConfig])
def test_every_key_is_documented(section: type[Section]) -> None:
    assert all(field.description for field in section.model_fields.values())
