"""Derived numbers, against DAPO's published ones and by hand."""

from __future__ import annotations

from typing import Any

from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig

REQUIRED: dict[str, Any] = {
    "run": {"output_dir": "o", "steps": 200},
    "model": {"path": "m"},
    "data": {"train": {"path": "a.jsonl"}, "prompts": {"max_tokens": 2048}},
}


def test_the_dapo_run() -> None:
    config = OnlineConfig.model_validate(
        REQUIRED
        | {
            "rollout": {"responses_per_prompt": 16, "sampling": {"max_response_tokens": 20480}},
            "batch": {"prompts_per_step": 512, "prompts_per_update": 32, "prompts_per_generation": 1536},
            "training": {"schedule": {"warmup_steps": 10}},
        }
    )
    numbers = step_arithmetic(config)
    assert numbers.responses_per_step == 8192
    assert numbers.responses_per_update == 512
    assert numbers.updates_per_step == 16
    assert (numbers.prompts_per_generation, numbers.responses_in_flight) == (1536, 24576)
    assert numbers.max_generated_responses_per_step == 245760
    assert numbers.max_sequence_tokens == 22528
    assert numbers.max_tokens_per_step == 8192 * 22528
    assert (numbers.total_updates, numbers.warmup_updates) == (3200, 160)
    rows = dict(numbers.rows())
    assert rows["responses per step"] == "8,192 (512 x 16)"
    assert rows["responses per update"] == "512 (32 x 16)"
    assert rows["updates per step"] == "16"
    assert rows["updates in all"] == "3,200 (160 of them warm-up)"
    assert rows["micro-batch"] == "16,384 tokens; a longer sequence stands alone"


def test_the_shipped_recipe_is_the_dapo_run() -> None:
    config = load_recipe("dapo_qwen2.5_32b")
    assert isinstance(config, OnlineConfig)
    numbers = step_arithmetic(config)
    assert (numbers.responses_per_step, numbers.updates_per_step, numbers.warmup_updates) == (8192, 16, 160)
    assert numbers.max_generated_responses_per_step == 245760
    assert (numbers.max_prompt_tokens, numbers.max_response_tokens) == (2048, 20480)
    assert config.reward.overlong.buffer_tokens == 4096
    loss, optimizer = config.algorithm.loss, config.training.optimizer
    assert (loss.clip_low, loss.clip_high, loss.dual_clip, loss.kl.coefficient) == (0.2, 0.28, 10.0, 0.0)
    assert (optimizer.lr, optimizer.weight_decay, optimizer.grad_clip) == (1e-6, 0.1, 1.0)
    held_out = config.evaluation_sampling
    assert (held_out.temperature, held_out.top_p, held_out.max_response_tokens) == (1.0, 0.7, 20480)
    assert (config.evaluation.samples_per_prompt, config.evaluation.every_steps) == (32, 5)


def test_epochs_and_a_generation_that_is_not_the_step() -> None:
    config = OnlineConfig.model_validate(
        REQUIRED
        | {
            "algorithm": {"kind": "grpo"},
            "rollout": {"responses_per_prompt": 4, "sampling": {"max_response_tokens": 100}},
            "batch": {
                "prompts_per_step": 10,
                "prompts_per_update": 5,
                "prompts_per_generation": 4,
                "epochs": 3,
                "micro_batch_tokens": 2148,
            },
        }
    )
    numbers = step_arithmetic(config)
    assert numbers.updates_per_step == 6
    assert numbers.total_updates == 1200
    assert numbers.max_generated_responses_per_step == 3 * 4 * 4  # three generations fill ten prompts
    rows = dict(numbers.rows())
    assert rows["updates per step"] == "6 (2 x 3)"
    assert rows["micro-batch"] == "2,148 tokens"


def test_a_generation_is_a_step_unless_set() -> None:
    numbers = step_arithmetic(OnlineConfig.model_validate(REQUIRED))
    assert numbers.prompts_per_generation == numbers.prompts_per_step == 512


def test_the_policys_updates_begin_after_the_critics_warmup() -> None:
    config = OnlineConfig.model_validate(
        REQUIRED
        | {
            "algorithm": {"kind": "ppo", "critic_warmup_steps": 20},
            "batch": {"prompts_per_step": 8, "prompts_per_update": 4, "epochs": 2},
        }
    )
    numbers = step_arithmetic(config)
    assert (numbers.updates_per_step, numbers.total_updates) == (4, 180 * 4)
