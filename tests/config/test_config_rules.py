"""Rules between keys: each refuses what breaks it, says why, and lets the edge pass."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from reasoner_rl.config.cluster import RayClusterConfig
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.preference import DpoConfig
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig, PreferenceConfig, SftConfig
from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.config.rules import usable_nodes
from reasoner_rl.config.training import FsdpBackendConfig, MegatronBackendConfig

COMMON: dict[str, Any] = {"run": {"output_dir": "o", "steps": 10}, "model": {"path": "m"}}
PROMPTS: dict[str, Any] = {"data": {"train": {"path": "a.jsonl"}}}
TWO_WORKERS = {"kind": "ray", "workers_per_node": 2}
MACHINES = {"kind": "ray", "address": "auto", "nodes": 4, "workers_per_node": 2, "restarts": 1}
HELD_OUT = {"path": "b.jsonl"}
PPO_WARM_UP = {"kind": "ppo", "critic_warmup_steps": 3}
PTX = {"coefficient": 1.0, "examples_per_update": 8, "data": {"train": {"path": "c.jsonl"}}}


def refusal(model: type[BaseModel], sections: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(COMMON | sections)
    return str(caught.value)


ONLINE_RULES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"rollout": {"responses_per_prompt": 1}},
        {"rollout": {"responses_per_prompt": 2}},
        "responses_per_prompt must be at least 2",
    ),
    (
        {"reward": {"overlong": {"buffer_tokens": 1024}}},
        {"reward": {"overlong": {"buffer_tokens": 1023}}},
        "1024 is not smaller than 1024",
    ),
    (
        {"rollout": {"sampling": {"temperature": 0}}},
        {"rollout": {"sampling": {"temperature": 0.1}}},
        "temperature must be above 0 in training",
    ),
    (
        {"algorithm": {"kind": "grpo", "loss": {"kl": {"estimator": "k1"}}}},
        {"algorithm": {"kind": "grpo", "kl_in_reward": {"coefficient": 0.1, "estimator": "k1"}}},
        "algorithm.loss.kl.estimator 'k1' has an expected gradient of zero as a loss",
    ),
    (
        {"batch": {"prompts_per_step": 9, "prompts_per_update": 2}},
        {"batch": {"prompts_per_step": 9, "prompts_per_update": 3}},
        "2 does not divide 9",
    ),
    (
        {"training": {"schedule": {"warmup_steps": 11}}},
        {"training": {"schedule": {"warmup_steps": 10}}},
        "warmup_steps must not exceed run.steps: 11 exceeds 10",
    ),
    (
        {"algorithm": PPO_WARM_UP, "training": {"schedule": {"warmup_steps": 8}}},
        {"algorithm": PPO_WARM_UP, "training": {"schedule": {"warmup_steps": 7}}},
        "training.schedule.warmup_steps must not exceed run.steps - algorithm.critic_warmup_steps: 8 exceeds 7",
    ),
    (
        {"batch": {"prompts_per_generation": 51}},
        {"batch": {"prompts_per_generation": 52}},
        "no step is ever full: 51 x 10 is below 512",
    ),
    (
        {"algorithm": {"kind": "ppo"}, "batch": {"prompts_per_generation": 513}},
        {"algorithm": {"kind": "ppo"}, "batch": {"prompts_per_generation": 512}},
        "batch.prompts_per_generation 513 has no effect above batch.prompts_per_step (512) without dynamic sampling: "
        "leave prompts_per_generation out, or at its default, null",
    ),
    (
        {"rollout": {"sampling": {"min_response_tokens": 6, "max_response_tokens": 5}}},
        {
            "rollout": {"sampling": {"min_response_tokens": 5, "max_response_tokens": 5}},
            "algorithm": {"kind": "grpo"},
        },
        "6 exceeds 5",
    ),
    (
        {"rollout": {"sampling": {"top_p": 0.7}}},
        {
            "rollout": {"sampling": {"top_p": 0.7}},
            "algorithm": {"kind": "dapo", "dynamic_sampling": {"max_staleness": 0}},
        },
        "top_p=0.7 leaves tokens out in generation, so its logprobs cannot stand beside the trainer's: "
        "algorithm.dynamic_sampling.max_staleness must be 0 (or rollout.sampling.top_p=1.0)",
    ),
    (
        {
            "rollout": {"sampling": {"top_k": 5}},
            "algorithm": {"kind": "grpo", "loss": {"importance_sampling": {"kind": "truncated"}}},
        },
        {"rollout": {"sampling": {"top_k": 5}}, "algorithm": {"kind": "grpo"}},
        "algorithm.loss.importance_sampling.kind must be 'none'",
    ),
    (
        {
            "algorithm": {
                "kind": "dapo",
                "loss": {"old_logprobs": "rollout", "importance_sampling": {"kind": "truncated"}},
            }
        },
        {
            "algorithm": {
                "kind": "dapo",
                "loss": {"old_logprobs": "recompute", "importance_sampling": {"kind": "truncated"}},
            }
        },
        "with algorithm.loss.old_logprobs 'rollout' the two are the same",
    ),
    (
        {"rollout": {"sampling": {"stop": ["\n\n", ""]}}},
        {"rollout": {"sampling": {"stop": ["\n\n"]}}},
        "stop must not hold an empty text",
    ),
    (
        {"rollout": {"engine": {"kind": "vllm", "share_weights": True}}, "model": {"path": "m", "lora": {}}},
        {
            "rollout": {"engine": {"kind": "vllm", "share_weights": True}},
            "model": {"path": "m", "dtype": "float32"},
        },
        "rollout.engine.share_weights: model.lora must be unset",
    ),
    (
        {
            "rollout": {"engine": {"kind": "vllm", "share_weights": True, "tensor_parallel": 2}},
            "training": {"offload": "all"},
            "cluster": TWO_WORKERS,
        },
        {
            "rollout": {"engine": {"kind": "vllm", "tensor_parallel": 2}},
            "training": {"offload": "all"},
            "cluster": TWO_WORKERS,
        },
        "rollout.engine.share_weights: cluster must have one worker; rollout.engine.tensor_parallel must be 1; "
        "training.offload must be 'none'",
    ),
    (
        {"rollout": {"engine": {"kind": "vllm", "tensor_parallel": 2}}},
        {"rollout": {"engine": {"kind": "vllm", "tensor_parallel": 1}}},
        "rollout.engine.tensor_parallel=2 needs several workers: set cluster.kind to ray and "
        "cluster.workers_per_node to a multiple of 2",
    ),
    (
        {"rollout": {"engine": {"kind": "vllm", "tensor_parallel": 4}}, "cluster": TWO_WORKERS},
        {"rollout": {"engine": {"kind": "vllm", "tensor_parallel": 2}}, "cluster": TWO_WORKERS},
        "rollout.engine.tensor_parallel must divide cluster.workers_per_node, so that a copy of the model stays on "
        "one machine: 4 does not divide 2",
    ),
    (
        {
            "rollout": {"engine": {"kind": "vllm", "tensor_parallel": 4}},
            "cluster": TWO_WORKERS | {"nodes": 2, "address": "auto"},
        },
        {
            "rollout": {"engine": {"kind": "vllm", "tensor_parallel": 2}},
            "cluster": TWO_WORKERS | {"nodes": 2, "address": "auto"},
        },
        "one machine: 4 does not divide 2",
    ),
    (
        {"cluster": {"kind": "ray", "address": "ray://10.0.0.1:10001"}},
        {"cluster": {"kind": "ray", "address": "10.0.0.1:6379"}},
        "must be host:port, such as 10.0.0.1:6379, or auto; it is 'ray://10.0.0.1:10001'",
    ),
    (
        {"cluster": {**MACHINES, "min_nodes": 5}},
        {"cluster": {**MACHINES, "min_nodes": 4}},
        "cluster.min_nodes must not exceed cluster.nodes: 5 exceeds 4",
    ),
    (
        {"cluster": {**MACHINES, "restarts": 0, "min_nodes": 2}},
        {"cluster": {**MACHINES, "min_nodes": 2}},
        "cluster.min_nodes=2 has no effect with cluster.restarts=0",
    ),
    (
        {"cluster": {**MACHINES, "replacement_seconds": 60}},
        {"cluster": {**MACHINES, "min_nodes": 2, "replacement_seconds": 60}},
        "cluster.replacement_seconds 60.0 has no effect without cluster.min_nodes",
    ),
    (
        {
            "training": {"backend": {"kind": "fsdp", "shard_ranks": 4}},
            "cluster": {**MACHINES, "min_nodes": 3},
        },
        {
            "training": {"backend": {"kind": "fsdp", "shard_ranks": 4}},
            "cluster": {**MACHINES, "min_nodes": 2},
        },
        "cluster.min_nodes=3: training could go on with no number of machines from 3 to 3; with 3, "
        "training.backend.shard_ranks must divide the number of workers (cluster.nodes x workers_per_node): 4 does not "
        "divide 6",
    ),
    (
        {"training": {"backend": {"kind": "fsdp", "shard_ranks": 3}}, "cluster": TWO_WORKERS},
        {"training": {"backend": {"kind": "fsdp", "shard_ranks": 1}}, "cluster": TWO_WORKERS},
        "training.backend.shard_ranks must divide the number of workers (cluster.nodes x workers_per_node): 3 does not "
        "divide 2",
    ),
    (
        {"training": {"backend": {"kind": "megatron", "tensor_parallel": 2}}},
        {"training": {"backend": {"kind": "megatron", "tensor_parallel": 2}}, "cluster": TWO_WORKERS},
        "training.backend.tensor_parallel x pipeline_parallel x context_parallel must divide the number of workers "
        "(cluster.nodes x workers_per_node): 2 does not divide 1",
    ),
    (
        {"training": {"backend": {"kind": "megatron", "context_parallel": 3}}, "cluster": TWO_WORKERS},
        {"training": {"backend": {"kind": "megatron", "context_parallel": 2}}, "cluster": TWO_WORKERS},
        "(cluster.nodes x workers_per_node): 3 does not divide 2",
    ),
    (
        {"training": {"backend": {"kind": "megatron", "virtual_stages": 2}}, "cluster": TWO_WORKERS},
        {
            "training": {"backend": {"kind": "megatron", "virtual_stages": 2, "pipeline_parallel": 2}},
            "cluster": TWO_WORKERS,
        },
        "training.backend.virtual_stages=2 needs pipeline_parallel above 1",
    ),
    (
        {
            "training": {"backend": {"kind": "megatron", "tensor_parallel": 2}},
            "cluster": {"kind": "ray", "nodes": 2, "workers_per_node": 1, "address": "auto"},
        },
        {
            "training": {"backend": {"kind": "megatron", "pipeline_parallel": 2}},
            "cluster": {"kind": "ray", "nodes": 2, "workers_per_node": 1, "address": "auto"},
        },
        "training.backend.tensor_parallel must divide cluster.workers_per_node, so that a layer stays on one machine: "
        "2 does not divide 1",
    ),
    (
        {
            "training": {"backend": {"kind": "megatron", "pipeline_parallel": 2, "expert_parallel": 2}},
            "cluster": TWO_WORKERS,
        },
        {
            "training": {"backend": {"kind": "megatron", "tensor_parallel": 2, "expert_parallel": 2}},
            "cluster": TWO_WORKERS,
        },
        "training.backend.expert_parallel must divide the number of workers of a pipeline stage (cluster.nodes x "
        "workers_per_node / pipeline_parallel): 2 does not divide 1",
    ),
    (
        {"training": {"backend": {"kind": "megatron"}}, "model": {"path": "m", "lora": {}}},
        {"training": {"backend": {"kind": "megatron"}, "offload": "all"}},
        "training.backend.kind=megatron: model.lora must be unset",
    ),
    (
        {"cluster": {"kind": "ray", "nodes": 2}},
        {"cluster": {"kind": "ray", "nodes": 2, "address": "10.0.0.1:6379"}},
        "cluster.address must be set where cluster.nodes is 2",
    ),
    (
        {"cluster": {"kind": "ray", "address": "10.0.0.1"}},
        {"cluster": {"kind": "ray", "address": "auto"}},
        "must be host:port, such as 10.0.0.1:6379, or auto; it is '10.0.0.1'",
    ),
    (
        {"evaluation": {"every_steps": 5}},
        {"evaluation": {"every_steps": 5, "datasets": [HELD_OUT]}},
        "evaluation.every_steps is 5, but evaluation.datasets is empty",
    ),
    (
        {"evaluation": {"datasets": [HELD_OUT, {"path": "c/b.parquet"}]}},
        {"evaluation": {"datasets": [HELD_OUT, {"path": "c/b.parquet", "name": "c"}]}},
        "evaluation.datasets have the same name ['b']",
    ),
    (
        {"evaluation": {"samples_per_prompt": 2, "sampling": {"temperature": 0}}},
        {"evaluation": {"samples_per_prompt": 1, "sampling": {"temperature": 0}}},
        "samples_per_prompt must be 1 where evaluation.sampling.temperature is 0",
    ),
    (
        {
            "reward": {"overlong": {"buffer_tokens": 64}},
            "evaluation": {"sampling": {"max_response_tokens": 64}},
        },
        {
            "reward": {"overlong": {"buffer_tokens": 63}},
            "evaluation": {"sampling": {"max_response_tokens": 64}},
        },
        "smaller than evaluation.sampling.max_response_tokens: 64 is not smaller than 64",
    ),
    (
        {"training": {"optimizer": {"betas": [0.9, 1.0]}}},
        {"training": {"optimizer": {"betas": [0.0, 0.99]}}},
        "must both be at least 0 and below 1",
    ),
    (
        {"reward": {"timeout_seconds": 1e10}},
        {"reward": {"timeout_seconds": 86400}},
        "less than or equal to 86400",
    ),
    (
        {"reward": {"functions": [{"fn": "a:f", "parameters": {"wrong_score": "bad"}}]}},
        {"reward": {"functions": [{"fn": "a:f", "parameters": {"wrong_score": 0}}]}},
        "parameters.wrong_score must be a finite number; it is 'bad'",
    ),
    (
        {"reward": {"functions": [{"fn": "a:f"}, {"fn": "b:f"}]}},
        {"reward": {"functions": [{"fn": "a:f"}, {"fn": "b:f", "name": "g"}]}},
        "reward.functions have the same name ['f']",
    ),
    (
        {"model": {"path": "m", "lora": {}, "freeze_first_fraction": 0.5}},
        {"model": {"path": "m", "lora": {}, "freeze_first_fraction": 0.0}},
        "model.lora freezes every base weight already",
    ),
    (
        {"algorithm": {"kind": "ppo", "ptx": PTX}, "rollout": {"sampling": {"temperature": 0.9}}},
        {"algorithm": {"kind": "ppo", "ptx": PTX}},
        "rollout.sampling.temperature must be 1 with algorithm.ptx, whose loss is of the model's own distribution: it "
        "is 0.9",
    ),
    (
        {"algorithm": {"kind": "custom", "fn": "a.py:build", "ptx": PTX}},
        {"algorithm": {"kind": "grpo", "ptx": PTX}},
        "algorithm.ptx must be unset with algorithm.kind custom",
    ),
    (
        {"data": {"train": {"path": "a.jsonl", "prompt_template": "Solve"}}},
        {"data": {"train": {"path": "a.jsonl", "prompt_template": "dapo"}}},
        "prompt_template must contain {problem}, or be 'dapo'; it is 'Solve'",
    ),
]


@pytest.mark.parametrize(
    ("wrong", "right", "message"), ONLINE_RULES, ids=[rule[2][:40] for rule in ONLINE_RULES]
)
def test_rules_of_training(wrong: dict[str, Any], right: dict[str, Any], message: str) -> None:
    assert message in refusal(OnlineConfig, PROMPTS | wrong)
    OnlineConfig.model_validate(COMMON | PROMPTS | right)


def test_a_run_of_no_steps_may_have_warmup() -> None:
    config = OnlineConfig.model_validate(
        COMMON
        | PROMPTS
        | {"run": {"output_dir": "o", "steps": 0}, "training": {"schedule": {"warmup_steps": 11}}}
    )
    assert config.training.schedule.warmup_steps == 11


def test_a_batch_need_not_be_filled_by_a_filter_that_is_off() -> None:
    config = OnlineConfig.model_validate(
        COMMON | PROMPTS | {"algorithm": {"kind": "grpo"}, "batch": {"prompts_per_generation": 1}}
    )
    assert config.batch.prompts_per_generation == 1


def test_responses_that_are_put_off_are_weighted_unless_the_loss_says_otherwise() -> None:
    put_off = {"batch": {"put_off": {"budget_tokens": 8}}}
    for algorithm in (
        {},
        {"algorithm": {"kind": "dapo"}},
        {"algorithm": {"kind": "grpo", "loss": {"clip_low": 0.1}}},
    ):
        loss = OnlineConfig.model_validate(COMMON | PROMPTS | put_off | algorithm).algorithm.loss
        assert (loss.stale_old_logprobs, loss.importance_sampling.kind) == ("trainer", "truncated")
    assert OnlineConfig.model_validate(COMMON | PROMPTS).algorithm.loss.stale_old_logprobs == "rollout"
    own = {"algorithm": {"kind": "dapo", "loss": {"stale_old_logprobs": "rollout"}}}
    loss = OnlineConfig.model_validate(COMMON | PROMPTS | put_off | own).algorithm.loss
    assert (loss.stale_old_logprobs, loss.importance_sampling.kind) == ("rollout", "none")
    assert "stale_old_logprobs 'trainer' needs algorithm.loss.importance_sampling.kind" in refusal(
        OnlineConfig, PROMPTS | {"algorithm": {"kind": "dapo", "loss": {"stale_old_logprobs": "trainer"}}}
    )
    limit = OnlineConfig.model_validate(COMMON | PROMPTS).rollout.sampling.max_response_tokens
    assert f"{limit} is not smaller than {limit}" in refusal(
        OnlineConfig, PROMPTS | {"batch": {"put_off": {"budget_tokens": limit}}}
    )


def test_rules_of_fine_tuning() -> None:
    assert "warmup_steps must not exceed" in refusal(
        SftConfig, PROMPTS | {"training": {"schedule": {"warmup_steps": 11}}}
    )
    assert "rollout.responses_per_prompt 4 has no effect in an sft recipe" in refusal(
        SftConfig, PROMPTS | {"rollout": {"responses_per_prompt": 4}}
    )
    assert "logging.entropies True has no effect with recipe 'sft'" in refusal(
        SftConfig, PROMPTS | {"logging": {"entropies": True}}
    )
    assert "entropies True has no effect with rollouts 'none' and rollout_format 'both'" in refusal(
        OnlineConfig, PROMPTS | {"logging": {"entropies": True, "rollouts": "none"}}
    )
    data = PROMPTS["data"] | {"response_template": "yes"}
    assert "response_template must contain {solution} or {answer}; it is 'yes'" in refusal(
        SftConfig, {"data": data}
    )
    SftConfig.model_validate(COMMON | {"data": PROMPTS["data"] | {"response_template": "Answer: {answer}"}})


PREFERENCE_RULES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"algorithm": {"kind": "dpo", "reference_cache": "folder"}},
        {"algorithm": {"kind": "dpo", "reference_cache": "folder", "reference": "precomputed"}},
        "reference_cache 'folder' has no effect with reference 'live'",
    ),
    (
        {"algorithm": {"kind": "dpo", "objective": "ipo", "label_smoothing": 0.1}},
        {"algorithm": {"kind": "dpo", "label_smoothing": 0.1}},
        "label_smoothing 0.1 has no effect with objective 'ipo'",
    ),
    (
        {"algorithm": {"kind": "dpo", "objective": "hinge", "label_smoothing": 0.1}},
        {"algorithm": {"kind": "dpo", "objective": "hinge"}},
        "label_smoothing 0.1 has no effect with objective 'hinge'",
    ),
    (
        {"algorithm": {"kind": "dpo", "label_smoothing": 0.5}},
        {"algorithm": {"kind": "dpo", "label_smoothing": 0.49}},
        "Input should be less than 0.5",
    ),
    (
        {"algorithm": {"kind": "kto"}, "batch": {"examples_per_step": 1}},
        {"algorithm": {"kind": "kto"}, "batch": {"examples_per_step": 2}},
        "batch.examples_per_step must be at least 2 with algorithm.kind kto",
    ),
    (
        {"algorithm": {"kind": "orpo", "beta": 0.1}},
        {"algorithm": {"kind": "orpo", "odds_ratio_weight": 0.1}, "batch": {"examples_per_step": 1}},
        "Extra inputs are not permitted",
    ),
    (
        {"rollout": {"responses_per_prompt": 4}},
        {"rollout": {"sampling": {"temperature": 0.5}}},
        "rollout.responses_per_prompt 4 has no effect in a preference recipe",
    ),
    (
        {"data": {"train": {"path": "a.jsonl", "prompt_template": "Solve"}}},
        {"data": {"train": {"path": "a.jsonl", "prompt_template": "Solve {prompt}"}}},
        "prompt_template must contain {prompt}; it is 'Solve'",
    ),
]


@pytest.mark.parametrize(
    ("wrong", "right", "message"), PREFERENCE_RULES, ids=[rule[2][:40] for rule in PREFERENCE_RULES]
)
def test_rules_of_preference_methods(wrong: dict[str, Any], right: dict[str, Any], message: str) -> None:
    assert message in refusal(PreferenceConfig, PROMPTS | wrong)
    PreferenceConfig.model_validate(COMMON | PROMPTS | right)


def test_log_ratios_of_ipo_are_per_token_unless_that_is_switched_off() -> None:
    def normalized(**options: Any) -> bool:
        return DpoConfig.model_validate(options).normalized

    assert [normalized(objective=each) for each in ("sigmoid", "ipo", "hinge")] == [False, True, False]
    assert not normalized(objective="ipo", length_normalized=False)
    assert normalized(length_normalized=True)


def test_rules_of_evaluation() -> None:
    assert "evaluation.datasets must name at least one file" in refusal(EvalConfig, {"evaluation": {}})
    evaluation = {"datasets": [HELD_OUT], "samples_per_prompt": 4}
    assert "must be 1 where rollout.sampling.temperature is 0" in refusal(
        EvalConfig, {"evaluation": evaluation, "rollout": {"sampling": {"temperature": 0}}}
    )
    assert "smaller than rollout.sampling.max_response_tokens: 8 is not smaller than 8" in refusal(
        EvalConfig,
        {
            "evaluation": {"datasets": [HELD_OUT]},
            "rollout": {"sampling": {"max_response_tokens": 8}},
            "reward": {"overlong": {"buffer_tokens": 8}},
        },
    )
    EvalConfig.model_validate(
        COMMON | {"evaluation": {"datasets": [HELD_OUT]}, "rollout": {"sampling": {"temperature": 0}}}
    )


def test_keys_of_evaluation_are_laid_over_those_of_training() -> None:
    training = {"temperature": 0.9, "max_response_tokens": 64, "stop": ["#"]}
    config = OnlineConfig.model_validate(
        COMMON
        | PROMPTS
        | {"rollout": {"sampling": training}, "evaluation": {"sampling": {"top_p": 0.7, "stop": []}}}
    )
    expected = SamplingConfig(temperature=0.9, top_p=0.7, max_response_tokens=64)
    assert config.evaluation_sampling == config.evaluation.sampling == expected
    config = OnlineConfig.model_validate(COMMON | PROMPTS | {"rollout": {"sampling": training}})
    assert config.evaluation_sampling == config.rollout.sampling


def test_after_a_failure_as_many_machines_are_used_as_training_can_be_divided_on() -> None:
    """Pipelines of 4 workers on machines of 2; without cluster.min_nodes all machines are needed."""
    backend = MegatronBackendConfig(kind="megatron", pipeline_parallel=4)
    model = ModelConfig(path="m")
    cluster = RayClusterConfig(**{**MACHINES, "nodes": 8, "min_nodes": 3})
    found = {there: usable_nodes(backend, model, cluster, there) for there in range(2, 10)}
    assert found == {2: None, 3: None, 4: 4, 5: 4, 6: 6, 7: 6, 8: 8, 9: 8}
    whole = RayClusterConfig(**{**MACHINES, "nodes": 8})
    assert [usable_nodes(FsdpBackendConfig(), model, whole, there) for there in (7, 8)] == [None, 8]
