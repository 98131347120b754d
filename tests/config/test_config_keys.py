"""The list of keys is complete, right, and enough to write overrides from."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from reasoner_rl.config.data import DatasetConfig
from reasoner_rl.config.iterated import IteratedConfig
from reasoner_rl.config.key_list import KeyDoc, key_lines, list_keys
from reasoner_rl.config.keys import walk_keys
from reasoner_rl.config.kinds import RECIPE_KINDS
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig, PreferenceConfig, SftConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.config.run import HeldOutPartsConfig, RunConfig
from reasoner_rl.errors import ConfigError


def docs(kind: str) -> dict[str, KeyDoc]:
    listed = list_keys(kind)
    assert len({(key.path, key.kinds) for key in listed}) == len(listed)
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
    assert keys["data.train.columns.answer"].default == '"answer"'
    assert keys["training.optimizer.betas"].type == "[float, float]"
    assert keys["reward.functions.0.parameters"].type == "mapping"
    assert keys["training.backend.kind"].type == "fsdp | megatron"
    assert keys["training.backend.kind"].default == '"fsdp"'
    assert keys["training.backend.tensor_parallel"].default == "1"
    assert keys["training.backend.tensor_parallel"].kinds == ("megatron",)
    assert keys["training.backend.reshard_after_forward"].kinds == ("fsdp",)
    assert "training.optimizer" not in keys


def test_a_key_that_algorithms_share_is_one_entry_with_the_defaults_of_each() -> None:
    keys = docs("online")
    assert keys["algorithm.loss.kl.coefficient"].default == "0.0, 0.001 with grpo"
    assert keys["algorithm.loss.clip_high"].default == "0.2, 0.28 with dapo, 0.0004 with gspo, 4.0 with cispo"
    assert keys["algorithm.loss.clip_high"].kinds == ()  # of all
    assert keys["algorithm.gae.lam"].kinds == ("ppo",)
    groups = ("dapo", "grpo", "dr_grpo", "rloo", "gspo", "cispo", "distillation")
    advantage = '"group_std", "group_mean" with dr_grpo, "leave_one_out" with rloo'
    assert (keys["algorithm.advantage"].kinds, keys["algorithm.advantage"].default) == (groups, advantage)


def test_a_section_that_was_listed_before_is_one_entry_and_its_other_defaults() -> None:
    keys = docs("online")
    assert [path for path in keys if path.startswith("critic.optimizer")] == [
        "critic.optimizer",
        "critic.optimizer.lr",
    ]
    assert keys["critic.optimizer"].description.startswith("Keys as of training.optimizer. ")
    assert keys["critic.optimizer.lr"].default == "1e-05"
    assert not [path for path in keys if path.startswith("evaluation.datasets.")]
    assert keys["evaluation.datasets"].description.startswith("Keys as of data.train. ")


@pytest.mark.parametrize("kind", sorted(RECIPE_KINDS))
def test_every_name_in_the_list_is_one_that_an_override_may_have(kind: str) -> None:
    listed, known = docs(kind), {key.path: key for key in walk_keys(kind)}
    assert listed.keys() <= known.keys()
    again = tuple(path for path, doc in listed.items() if doc.description.startswith("Keys as of "))
    for path, key in known.items():
        is_section = key.shape in ("section", "variants") and key.default is not None
        assert path in listed or path.startswith(again) or is_section, path


def test_words_filter_by_name_meaning_and_keys_listed_elsewhere() -> None:
    both = [doc.path for doc in list_keys("online", ["KL", "adaptive"])]
    assert "algorithm.kl_in_reward.horizon" in both
    assert "algorithm.loss.kl.coefficient" not in both
    assert [doc.path for doc in list_keys("online", ["weight_decay"])] == [
        "training.optimizer.weight_decay",
        "critic.optimizer",
    ]
    assert list_keys("online", ["no such word"]) == []


def test_lines_fit_and_the_long_form_leaves_nothing_out() -> None:
    found = list_keys("online")
    lines = list(key_lines(found, 80, long=False))
    assert len(lines) == len(found) < 290
    assert max(map(len, lines)) == 80
    lr = f"{'training.optimizer.lr=1e-06':<40}  (float, > 0)  Learning rate after warm-up."
    assert lr in list(key_lines(found, 100, long=False))
    long = " ".join(" ".join(key_lines(found, 80, long=True)).split())
    for doc in found:
        assert all(" ".join(text.split()) in long for text in (doc.type, doc.default, doc.description)), doc


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
    known = {key.path: key for key in walk_keys(kind)}
    assert _leaves(made[kind].model_dump(), "") <= known.keys()
    assert all(key.description for key in known.values())


def test_an_evaluation_has_no_keys_that_do_nothing() -> None:
    keys = docs("eval")
    assert {"evaluation.samples_per_prompt", "evaluation.datasets", "logging.rollouts"} <= keys.keys()
    assert not {"evaluation.every_steps", "evaluation.at_start", "evaluation.at_end"} & keys.keys()
    assert not {"evaluation.sampling", "logging.tensorboard", "logging.wandb"} & keys.keys()


def test_paths_keep_their_type() -> None:
    keys = docs("online")
    assert (keys["data.train.path"].type, keys["model.path"].type) == (
        "path | list of path",
        "text",
    )
    assert keys["model.chat_template"].type == "path | null"


def test_an_unknown_kind_of_recipe() -> None:
    with pytest.raises(
        ConfigError,
        match=r"must be one of online, sft, preference, reward_model, iterated, eval\. Did you mean 'online'\?",
    ):
        list_keys("onlin")
