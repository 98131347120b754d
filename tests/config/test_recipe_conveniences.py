"""What a recipe may leave out or turn off, and what the errors of near misses suggest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.config.load import dump_recipe, first_sentence, load_recipe
from reasoner_rl.errors import ConfigError

RECIPE = "run: {output_dir: out}\nmodel: {path: m}\ndata: {train: {path: a.jsonl}}\n"


def load(folder: Path, text: str, *overrides: str) -> Any:
    (folder / "recipe.yaml").write_text(RECIPE + text)
    return load_recipe(folder / "recipe.yaml", overrides)


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_recipe("quickstart", overrides)
    return str(error.value)


@pytest.mark.parametrize(
    ("algorithm", "more", "kind"),
    [
        ("dapo", "", "online"),
        ("ppo", "", "online"),
        ("sft", "", "sft"),
        ("pairwise", "", "reward_model"),
        ("dpo", "", "preference"),
        ("dpo", "pairs: {choice: all}\n", "iterated"),
        ("kto", "rounds: {count: 1}\n", "iterated"),
    ],
)
def test_the_kind_follows_from_the_algorithm(tmp_path: Path, algorithm: str, more: str, kind: str) -> None:
    config = load(tmp_path, f"algorithm: {{kind: {algorithm}}}\n{more}")
    assert config.recipe == kind
    (tmp_path / "resolved.yaml").write_text(dump_recipe(config))
    assert load_recipe(tmp_path / "resolved.yaml") == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "",
            "recipe: required, but not given: must be one of online, .*, or algorithm.kind, from which it follows",
        ),
        ("algorithm: null\n", "or algorithm.kind, from which it follows"),
        ("algorithm: {kind: dappo}\n", "= \"dappo\" belongs to no kind. Did you mean 'dapo'"),
        (
            "actor_rollout_ref: {rollout: {n: 8}}\n",
            "configuration of verl: `reasoner-rl config from-verl FILE`",
        ),
        ("num_generations: 8\n", "configuration of TRL: `reasoner-rl config from-trl FILE`"),
    ],
)
def test_a_kind_that_nothing_tells(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("batch", "update"),
    [
        ("", 32),
        ("prompts_per_step: 8", 8),
        ("prompts_per_step: 64", 32),
        ("prompts_per_step: 8, prompts_per_update: 2", 2),
    ],
)
def test_an_update_follows_a_smaller_step(tmp_path: Path, batch: str, update: int) -> None:
    config = load(tmp_path, f"recipe: online\nbatch: {{{batch}}}\n")
    assert config.batch.prompts_per_update == update


def test_null_turns_a_section_off() -> None:
    on = load_recipe("quickstart")
    assert on.reward.overlong.buffer_tokens > 0
    assert on.algorithm.dynamic_sampling.enabled
    assert on.evaluation.datasets
    off = load_recipe(
        "quickstart",
        [
            "reward.overlong=null",
            "algorithm.dynamic_sampling=null",
            "evaluation=null",
            "algorithm.token_mask=null",
        ],
    )
    assert (off.reward.overlong.buffer_tokens, off.reward.overlong.mask_truncated) == (0, False)
    assert (off.algorithm.dynamic_sampling.enabled, off.evaluation.datasets) == (False, [])
    assert off.algorithm.token_mask.kind == "none"
    grpo = load_recipe("grpo_qwen2.5_1.5b")
    assert grpo.algorithm.loss.kl.coefficient == 0.001
    assert load_recipe("grpo_qwen2.5_1.5b", ["algorithm.loss.kl=null"]).algorithm.loss.kl.coefficient == 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "model.lora=true",
            "model.lora = true: must be a section, with keys of its own; model.lora='{}' takes its",
        ),
        ("model.lora=false", "model.lora=null turns it off"),
        ("reward.overlong=false", "reward.overlong=null turns it off"),
        ("reward.overlong=true", "it is always there; its keys are buffer_tokens, penalty, mask_truncated"),
        ("teacher=true", "to have it, set teacher.path"),
        ("checkpoint=null", "checkpoint.every_steps=null saves at the end alone"),
        ("training=null", "it cannot be turned off"),
        ("reward_model=false", "reward_model=null turns it off"),
        ("algorithm=true", "its kind is chosen by algorithm.kind"),
    ],
)
def test_true_false_and_null_for_a_section(override: str, said: str) -> None:
    assert said in refused(override)


@pytest.mark.parametrize(
    ("override", "ours"),
    [
        ("data.train_batch_size=512", "batch.prompts_per_step"),
        ("train_batch_size=512", "batch.prompts_per_step"),
        ("num_generations=8", "rollout.responses_per_prompt"),
        ("ppo_mini_batch_size=32", "batch.prompts_per_update"),
        ("actor_rollout_ref.actor.clip_ratio_high=0.3", "algorithm.loss.clip_high"),
        ("algorithm.filter_groups.enable=true", "algorithm.dynamic_sampling.enabled"),
        ("reward_model.overlong_buffer.len=3", "reward.overlong.buffer_tokens"),
        ("beta=0.1", "algorithm.loss.kl.coefficient"),
        ("kl_coef=0.1", "algorithm.kl_in_reward.coefficient"),
        ("trainer.total_epochs=1", "run.steps"),
    ],
)
def test_keys_of_verl_and_trl_name_ours(override: str, ours: str) -> None:
    text = refused(override)
    assert f"override: {override.partition('=')[0]} = " in text
    assert f"unknown key. Did you mean '{ours}'? That is " in text


def test_their_keys_in_files_of_other_kinds_and_without_counterpart(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"recipe\.yaml: beta = 0\.3: unknown key\. Did you mean 'algorithm\.beta'\?"
    ):
        load(tmp_path, "recipe: preference\nbeta: 0.3\n")
    several = refused("actor_rollout_ref.rollout.n=8", "actor_rollout_ref.actor.shuffle=true").splitlines()
    assert len(several) == 2
    assert "rollout.responses_per_prompt" in several[0]
    assert (
        "verl's actor_rollout_ref.actor.shuffle has no counterpart: a step's prompts keep their order"
        in several[1]
    )


def test_a_description_is_the_first_sentence_of_the_comment() -> None:
    assert first_sentence("# Dr. GRPO (arXiv 2503.20783) on Qwen2.5. More.\nrecipe: online\n") == (
        "Dr. GRPO (arXiv 2503.20783) on Qwen2.5"
    )
    assert first_sentence("# Pairs of\n# answers:\n#   reasoner-rl train x\n") == "Pairs of answers"
    assert first_sentence("recipe: online\n# Later.\n") == ""
