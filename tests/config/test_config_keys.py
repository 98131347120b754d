"""The list of keys is complete, right, and enough to write overrides from."""

from __future__ import annotations

import functools

import pytest
from pydantic import BaseModel

from reasoner_rl.config.data import DatasetConfig
from reasoner_rl.config.iterated import IteratedConfig
from reasoner_rl.config.keys import KeyDoc, list_keys
from reasoner_rl.config.kinds import RECIPE_KINDS
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig, PreferenceConfig, SftConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.config.run import HeldOutPartsConfig, RunConfig
from reasoner_rl.errors import ConfigError


def docs(kind: str) -> dict[str, KeyDoc]:
    listed = list_keys(kind)
    assert len({key.path for key in listed}) == len(listed)
    return {key.path: key for key in listed}


def test_keys_of_sections_lists_and_variants() -> None:
    keys = docs("online")
    assert keys["training.optimizer.lr"] == KeyDoc(
        "training.optimizer.lr", "float, > 0", "1e-06", "Learning rate after warm-up."
    )
    assert keys["model.path"].default == "required"
    assert keys["model.lora"].default == "null"
    assert keys["model.lora.rank"].type == "int, >= 1"
    assert keys["model.lora.target_modules"].type == "text | list of text"
    assert keys["evaluation.datasets.0.columns.answer"].default == '"answer"'
    assert keys["training.optimizer.betas"].type == "[float, float]"
    assert keys["reward.functions.0.parameters"].type == "mapping"
    assert keys["training.backend.kind"].type == "fsdp | megatron"
    assert keys["training.backend.kind"].default == '"fsdp"'
    assert keys["training.backend[megatron].tensor_parallel"].default == "1"
    assert "training.backend[fsdp].tensor_parallel" not in keys
    assert "training.optimizer" not in keys


def test_defaults_are_those_of_the_algorithm() -> None:
    keys = docs("online")
    assert keys["algorithm[dapo].loss.clip_high"].default == "0.28"
    assert keys["algorithm[grpo].loss.clip_high"].default == "0.2"
    assert keys["algorithm[grpo].loss.kl.coefficient"].default == "0.001"
    assert keys["algorithm[dapo].loss.kl.coefficient"].default == "0.0"
    assert keys["algorithm[rloo].advantage"].default == '"leave_one_out"'


def _leaves(tree: object, prefix: str) -> set[str]:
    if isinstance(tree, dict) and tree and not prefix.endswith("parameters"):
        return {
            leaf
            for name, value in tree.items()
            for leaf in _leaves(value, f"{prefix}.{name}" if prefix else name)
        }
    return {prefix}


@pytest.mark.parametrize("kind", sorted(RECIPE_KINDS))
def test_every_key_of_a_configuration_is_listed_and_described(kind: str) -> None:
    run, model, train = RunConfig(output_dir="o"), ModelConfig(path="m"), DatasetConfig(path="a.jsonl")
    made: dict[str, BaseModel] = {
        "online": OnlineConfig(run=run, model=model, data={"train": train}),
        "sft": SftConfig(run=run, model=model, data={"train": train}),
        "preference": PreferenceConfig(run=run, model=model, data={"train": {"path": "a.jsonl"}}),
        "reward_model": RewardModelConfig(run=run, model=model, data={"train": {"path": "a.jsonl"}}),
        "iterated": IteratedConfig(run={"output_dir": "o"}, model=model, data={"train": train}),
        "eval": EvalConfig(run=run, model=model, evaluation=HeldOutPartsConfig(datasets=[train])),
    }
    keys = docs(kind)
    defaults = ("[dapo]", "[fsdp]", "[hf]", "[dpo]", "[pointwise]")
    plain = {functools.reduce(lambda path, kind: path.replace(kind, ""), defaults, path) for path in keys}
    assert _leaves(made[kind].model_dump(), "") <= plain
    assert all(key.description for key in keys.values())


def test_an_evaluation_has_no_keys_that_do_nothing() -> None:
    keys = docs("eval")
    assert {"evaluation.samples_per_prompt", "evaluation.datasets", "logging.rollouts"} <= keys.keys()
    assert not {"evaluation.every_steps", "evaluation.at_start", "evaluation.at_end"} & keys.keys()
    assert not {"evaluation.sampling", "logging.tensorboard", "logging.wandb"} & keys.keys()


def test_paths_keep_their_type() -> None:
    keys = docs("online")
    assert (keys["data.train.path"].type, keys["model.path"].type) == ("path", "text")
    assert keys["model.chat_template"].type == "path | null"


def test_an_unknown_kind_of_recipe() -> None:
    with pytest.raises(
        ConfigError,
        match=r"must be one of online, sft, preference, reward_model, iterated, eval\. Did you mean 'online'\?",
    ):
        list_keys("onlin")
