"""What a run says of its recipe before it starts."""

from __future__ import annotations

import pytest

from reasoner_rl.config.load import load_recipe
from reasoner_rl.trainer.loading import tell_switched_off


def test_keys_of_what_is_switched_off_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    tell_switched_off(load_recipe("quickstart"))  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""
    off = ["algorithm.dynamic_sampling.enabled=false", "reward.overlong={buffer_tokens: 0, penalty: 0.5}"]
    off += [
        "logging={rollouts: none, rollout_format: jsonl}",
        "evaluation={samples_per_prompt: 4, datasets: []}",
    ]
    off += ["evaluation.every_steps=null", "algorithm.kl_in_reward.estimator=k2"]
    tell_switched_off(load_recipe("quickstart", off))  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == [
        "reward.overlong.penalty=0.5 has no effect: reward.overlong.buffer_tokens is 0",
        "evaluation.samples_per_prompt=4 has no effect: evaluation.datasets is []",
        "logging.rollout_format='jsonl' has no effect: logging.rollouts is 'none'",
        "algorithm.dynamic_sampling.max_generation_batches=2 has no effect: "
        "algorithm.dynamic_sampling.enabled is False",
        "algorithm.kl_in_reward.estimator='k2' has no effect: algorithm.kl_in_reward.coefficient is 0.0",
    ]
