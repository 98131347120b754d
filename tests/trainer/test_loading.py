"""What a run says of its recipe before it starts."""

from __future__ import annotations

import pytest

from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.reward import RewardConfig, RewardFunctionConfig
from reasoner_rl.trainer.loading import tell_rules, tell_switched_off
from reasoner_rl.types import Prompt


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


def test_the_rule_in_force_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    prompts = [Prompt("p", (1,), "1+1?", "2", source) for source in ("gsm8k", "my_file", "gsm8k")]
    changed = RewardFunctionConfig(fn="reward_fns:compute_score", parameters={"extraction": "boxed"})
    form = RewardFunctionConfig(fn="reward_fns.format_reward:compute_score", name="form")
    tell_rules(RewardConfig(functions=[changed, form]), prompts)
    boxed = r"counts `\boxed{5}`; not `Answer: 5`, `<answer>5</answer>`, `#### 5`, `The answer is 5.`"
    by_value = "compared by value"
    assert capsys.readouterr().out.splitlines() == [
        "verifier: reward_fns:compute_score",
        f"  data source 'gsm8k' -> answers to word problems, {by_value}; 50 is right for 50%; {boxed}",
        f"  data source 'my_file' (no rule of its own) -> mathematical answers, {by_value}; {boxed}",
    ]
