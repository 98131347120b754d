"""Rules between the keys of one section: of the loss, its corrections, PPO, and keys that have no effect there."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from reasoner_rl.config.algorithm import ImportanceSamplingConfig, LossConfig, TokenMaskConfig
from reasoner_rl.config.base import Section
from reasoner_rl.config.data import DatasetConfig
from reasoner_rl.config.ppo import GaeConfig, KlControlConfig
from reasoner_rl.config.rollout import RolloutConfig, VllmEngineConfig
from reasoner_rl.config.training import ScheduleConfig

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
        (TokenMaskConfig, {"kind": "entropy", "share": 1.0}, {"share": 0.0}, "greater than 0"),
        (
            TokenMaskConfig,
            {"kind": "entropy", "share": 0.5},
            {"kind": "none"},
            "share 0.5 has no effect with kind 'none'",
        ),
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
        (
            KlControlConfig,
            {"controller": "adaptive", "coefficient": 0.1, "horizon": 1},
            {"horizon": 0},
            "greater than or equal to 1",
        ),
        (
            KlControlConfig,
            {"controller": "adaptive", "coefficient": 0.1, "target": 0.5},
            {"controller": "fixed"},
            "target 0.5 has no effect with controller 'fixed': leave target out, or at its default, 0.1",
        ),
        (
            KlControlConfig,
            {"controller": "adaptive", "coefficient": 0.1, "horizon": 5},
            {"controller": "fixed"},
            "horizon 5 has no effect with controller 'fixed'",
        ),
        (
            GaeConfig,
            {"lam": 0.9, "critic_lam": 1.0},
            {"length_adaptive_alpha": 0.05},
            "lam 0.9 has no effect with length_adaptive_alpha, which takes its place",
        ),
        (
            ImportanceSamplingConfig,
            {"kind": "masked", "floor": 0.1},
            {"kind": "truncated"},
            "floor 0.1 has no effect with kind 'truncated'",
        ),
        (
            ImportanceSamplingConfig,
            {"kind": "truncated", "cap": 3.0},
            {"kind": "none"},
            "cap 3.0 has no effect with kind 'none'",
        ),
        (
            ScheduleConfig,
            {"kind": "linear", "final_ratio": 0.5},
            {"kind": "constant"},
            "final_ratio 0.5 has no effect with kind 'constant'",
        ),
        (
            VllmEngineConfig,
            {"sleep_level": 1},
            {"share_weights": True},
            "sleep_level 1 has no effect with share_weights",
        ),
        (
            RolloutConfig,
            {"sync_tolerance": 0.1},
            {"sync_check": "tensors"},
            "sync_tolerance 0.1 has no effect with sync_check 'tensors': leave sync_tolerance out, or at its default, "
            "null",
        ),
        (
            DatasetConfig,
            {"path": "a.parquet", "columns": {"problem": "q"}},
            {"format": "verl"},
            "columns.problem 'q' has no effect with format 'verl'",
        ),
        (
            DatasetConfig,
            {"path": "a.parquet", "prompt_template": "dapo"},
            {"format": "verl"},
            "prompt_template 'dapo' has no effect with format 'verl'",
        ),
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
