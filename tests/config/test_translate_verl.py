"""verl's settings become a recipe that means the same, and nothing of them is lost without a word."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.config.keys import walk_keys
from reasoner_rl.config.load import check_text, load_recipe
from reasoner_rl.config.translate.read import read_script, resolve
from reasoner_rl.config.translate.sources import verl_settings
from reasoner_rl.config.translate.terms import Translation
from reasoner_rl.config.translate.verl import translate_verl
from reasoner_rl.config.translate.verl_keys import OLDER, VERL
from reasoner_rl.config.translate.write import write_recipe
from reasoner_rl.config.yaml_text import flat_keys, parse_yaml
from reasoner_rl.errors import ConfigError

# The settings of the published run (recipe/dapo/run_dapo_qwen2.5_32b.sh in verl), in a script of the same manner.
DAPO = r"""#!/usr/bin/env bash
set -euo pipefail
prompt=$((1024 * 2))
response=$((1024 * 20))
prompts=512   # it's a step's
gen=$((prompts * 3))
NNODES=${NNODES:-16}
HOME_OF_DATA=${HOME_OF_DATA:-"${HOME}/verl"}
MODEL=${MODEL:-"${HOME_OF_DATA}/models/Qwen2.5-32B"}
A=actor_rollout_ref.actor
python3 -m recipe.dapo.main_dapo \
    data.train_files="${HOME_OF_DATA}/dapo-math-17k.parquet" data.val_files=aime-2024.parquet \
    data.truncation='left' data.max_prompt_length=${prompt} data.max_response_length=${response} \
    data.gen_batch_size=${gen} data.train_batch_size=${prompts} data.prompt_key=prompt \
    actor_rollout_ref.rollout.n=16 algorithm.adv_estimator=grpo \
    algorithm.use_kl_in_reward=False algorithm.kl_ctrl.kl_coef=0.0 \
    $A.use_kl_loss=False $A.kl_loss_coef=0.0 \
    $A.clip_ratio_low=0.2 $A.clip_ratio_high=0.28 $A.clip_ratio_c=10.0 $A.loss_agg_mode="token-mean" \
    algorithm.filter_groups.enable=True algorithm.filter_groups.max_num_gen_batches=10 \
    algorithm.filter_groups.metric=acc $A.use_dynamic_bsz=True \
    $A.ppo_max_token_len_per_gpu=$((prompt + response)) $A.ppo_mini_batch_size=32 \
    actor_rollout_ref.model.path="${MODEL}" actor_rollout_ref.model.enable_gradient_checkpointing=True \
    +actor_rollout_ref.model.override_config.attention_dropout=0. \
    $A.optim.lr=1e-6 $A.optim.lr_warmup_steps=10 $A.optim.weight_decay=0.1 $A.grad_clip=1.0 $A.entropy_coeff=0 \
    $A.fsdp_config.param_offload=True $A.fsdp_config.optimizer_offload=True $A.ulysses_sequence_parallel_size=8 \
    actor_rollout_ref.ref.fsdp_config.param_offload=True \
    actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.gpu_memory_utilization=0.80 \
    actor_rollout_ref.rollout.tensor_model_parallel_size=4 \
    actor_rollout_ref.rollout.temperature=1.0 actor_rollout_ref.rollout.top_p=1.0 actor_rollout_ref.rollout.top_k=-1 \
    actor_rollout_ref.rollout.val_kwargs.temperature=1.0 actor_rollout_ref.rollout.val_kwargs.top_p=0.7 \
    actor_rollout_ref.rollout.val_kwargs.do_sample=True actor_rollout_ref.rollout.val_kwargs.n=1 \
    reward_model.reward_manager=dapo reward_model.overlong_buffer.enable=True \
    reward_model.overlong_buffer.len=$((1024 * 4)) reward_model.overlong_buffer.penalty_factor=1.0 \
    trainer.logger='["console","wandb"]' trainer.project_name=DAPO trainer.n_gpus_per_node=8 \
    trainer.nnodes="${NNODES}" trainer.test_freq=5 trainer.save_freq=5 trainer.total_epochs=1
"""


def translated(*overrides: str, rows: int | None = None) -> Translation:
    return translate_verl(verl_settings(overrides), rows)


def recipe_of(*overrides: str) -> Any:
    return check_text(write_recipe(translated("actor_rollout_ref.rollout.n=8", *overrides)), "test")


@pytest.fixture
def dapo(tmp_path: Path) -> Translation:
    (tmp_path / "run.sh").write_text(DAPO)
    return translated(str(tmp_path / "run.sh"))


def test_dapos_script_is_our_recipe_where_both_name_the_same(dapo: Translation) -> None:
    theirs = flat_keys(check_text(write_recipe(dapo), "test").model_dump(mode="json"))
    ours = load_recipe("dapo_qwen2.5_32b").model_dump(mode="json")
    named = [path for path in flat_keys(dapo.tree) if path in flat_keys(ours)]
    differing = {path for path in named if theirs[path] != flat_keys(ours)[path]}
    assert len(named) > 55
    assert differing == {
        # A place or a name, and what verl's script leaves open.
        *("run.output_dir", "model.path", "data.train.path", "reward.functions", "evaluation.datasets"),
        *("reward.workers", "rollout.engine.dtype", "logging.tensorboard"),
        # Ours trains on what there is at the cap, where verl stops; it has calculated what has to leave the GPU.
        *("algorithm.dynamic_sampling.when_exhausted", "training.offload"),
        # verl's file repeats each problem 32 times; ours is without repetitions.
        "evaluation.samples_per_prompt",
    }
    assert (theirs["batch.prompts_per_step"], theirs["batch.prompts_per_update"]) == (512, 32)
    assert (theirs["batch.prompts_per_generation"], theirs["batch.micro_batch_tokens"]) == (1536, 22528)
    assert (theirs["model.path"], theirs["cluster.nodes"]) == (
        str(Path.home() / "verl/models/Qwen2.5-32B"),
        16,
    )


def test_the_file_says_where_keys_come_from_and_what_is_left(dapo: Translation) -> None:
    text = write_recipe(dapo)
    assert "  clip_high: 0.28   # actor_rollout_ref.actor.clip_ratio_high\n" in text
    assert (
        "# verl counts its mini-batch in prompts: 512 / 32 = 16 updates per step, of 32 x 16 = 512 responses."
        in text
    )
    assert "  dtype: bfloat16   # actor_rollout_ref.actor.fsdp_config.dtype, verl's default\n" in text
    assert "# The punishment begins at 20480 - 4096 = 16384 response tokens." in text
    assert "# To do: set run.steps: verl's total_epochs are 1 x rows / 1536, at most: refilling" in text
    assert dapo.without.keys() == {
        "actor_rollout_ref.actor.ulysses_sequence_parallel_size",
        "actor_rollout_ref.actor.kl_loss_coef",
        "algorithm.kl_ctrl.kl_coef",
        "actor_rollout_ref.rollout.val_kwargs.do_sample",
        "algorithm.filter_groups.metric",
        "reward_model.reward_manager",
        "actor_rollout_ref.model.override_config.attention_dropout",
        "actor_rollout_ref.ref.fsdp_config.param_offload",
        "trainer.total_epochs",
    }
    assert (dapo.neutral, dapo.unknown) == (("data.prompt_key",), {})


def test_every_setting_given_is_in_the_recipe_or_accounted_for() -> None:
    found = translated(
        "data.train_batch_sise=8", "data.seed=${oc.env:SEED}", "data.shuffle=True", "x.y={a: 1, b: [2]}"
    )
    assert found.unknown == {"data.train_batch_sise": 8, "x.y.a": 1, "x.y.b": [2]}
    assert "# - data.train_batch_sise = 8. Did you mean 'data.train_batch_size'?" in write_recipe(found)
    assert found.without["data.seed"].startswith("its value '${oc.env:SEED}' holds a variable")
    assert found.origins["data.shuffle"] == "data.shuffle"


def _references() -> dict[str, Any]:
    """verl's own configuration, of both backends."""
    verl = importlib.util.find_spec("verl")
    if verl is None or not verl.submodule_search_locations:
        pytest.skip("verl is not installed")
    folder = Path(verl.submodule_search_locations[0]) / "trainer/config"
    keys: dict[str, Any] = {}
    for backend in ("ppo_megatron_trainer", "ppo_trainer"):
        tree = parse_yaml((folder / f"_generated_{backend}.yaml").read_text(), backend)
        keys.update(flat_keys(tree))
    return keys


def test_the_table_has_verls_own_names_and_defaults_and_all_of_them() -> None:
    keys = _references()
    terms = {key: term for key, term in VERL.terms.items() if key not in OLDER}
    assert terms.keys() <= keys.keys()
    for key, term in terms.items():
        if "${" not in str(keys[key]) and keys[key] != "???":
            assert term.default == keys[key], key
    missing = [
        key for key in keys if key not in terms and VERL.section_of(key) is None and "_target_" not in key
    ]
    assert missing == []
    for section in VERL.sections:
        assert any(key == section or key.startswith(f"{section}.") for key in keys), section
    # A whole configuration, as verl dumps it, has nothing that is not understood.
    assert translate_verl(keys, 7473).unknown == {}


def test_the_table_has_our_own_names() -> None:
    ours = {key.path for key in walk_keys("online")}
    assert {term.ours for term in VERL.terms.values()} - {""} <= ours
    for key, term in VERL.terms.items():
        assert term.ours or term.note, key


def test_numbers_that_follow() -> None:
    config = recipe_of(
        "data.train_batch_size=64",
        "actor_rollout_ref.actor.ppo_mini_batch_size=16",
        "actor_rollout_ref.actor.ppo_epochs=2",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
        "data.max_prompt_length=100",
        "data.max_response_length=400",
        "trainer.total_training_steps=200",
        "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio=0.05",
        "algorithm.adv_estimator=grpo",
    )
    assert (config.batch.prompts_per_step, config.batch.prompts_per_update, config.batch.epochs) == (
        64,
        16,
        2,
    )
    assert config.batch.micro_batch_tokens == 4 * (100 + 400)
    assert (config.run.steps, config.training.schedule.warmup_steps) == (200, 10)
    assert (config.algorithm.kind, config.algorithm.loss.dual_clip) == ("grpo", 3.0)
    assert config.evaluation.sampling.temperature == 0  # verl's do_sample is false by default
    epochs = translated("data.train_batch_size=64", "trainer.total_epochs=3", rows=1000)
    assert epochs.tree["run"]["steps"] == 3 * (1000 // 64)
    assert epochs.words["run.steps"] == "1000 rows / 64 prompts = 15 batches per epoch, x 3."
    with pytest.raises(ConfigError, match="--rows 63: a batch of verl's takes 64 prompts"):
        translated("data.train_batch_size=64", rows=63)


def test_several_training_files_stay_several() -> None:
    train = recipe_of("data.train_files=[a.parquet,b.parquet]").data.train
    assert [str(path) for path in train.path] == ["a.parquet", "b.parquet"]


def test_choices_that_have_other_words_here() -> None:
    loss = recipe_of(
        "algorithm.adv_estimator=grpo",
        "algorithm.norm_adv_by_std_in_grpo=False",
        "actor_rollout_ref.actor.use_kl_loss=True",
        "actor_rollout_ref.actor.kl_loss_type=mse",
        "algorithm.rollout_correction.rollout_is=token",
        "algorithm.rollout_correction.rollout_is_threshold='0.5_5.0'",
        "actor_rollout_ref.actor.clip_ratio=0.3",
        "actor_rollout_ref.actor.clip_ratio_low=null",
    ).algorithm
    assert (loss.advantage, loss.loss.kl.coefficient, loss.loss.kl.estimator) == ("group_mean", 0.001, "k2")
    weights = loss.loss.importance_sampling
    assert (weights.kind, weights.level, weights.floor, weights.cap) == ("masked", "token", 0.5, 5.0)
    assert (loss.loss.clip_low, loss.loss.clip_high) == (0.3, 0.2)
    ppo = recipe_of("critic.optim.lr=2e-5", "algorithm.lam=0.95", "algorithm.use_kl_in_reward=True")
    assert (ppo.algorithm.kind, ppo.algorithm.gae.lam, ppo.critic.optimizer.lr) == ("ppo", 0.95, 2e-5)
    assert (ppo.algorithm.kl_in_reward.coefficient, ppo.algorithm.kl_in_reward.estimator) == (0.001, "k1")
    gspo = recipe_of(
        "algorithm.adv_estimator=grpo", "actor_rollout_ref.actor.policy_loss.loss_mode=gspo"
    ).algorithm
    assert (gspo.loss.ratio, gspo.loss.dual_clip) == ("sequence", None)
    megatron = recipe_of(
        "actor_rollout_ref.actor.strategy=megatron",
        "actor_rollout_ref.actor.megatron.tensor_model_parallel_size=4",
        "actor_rollout_ref.actor.megatron.optimizer_offload=True",
    ).training
    assert (megatron.backend.kind, megatron.backend.tensor_parallel, megatron.offload) == (
        "megatron",
        4,
        "optimizer",
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "algorithm.adv_estimator=remax",
            "'remax': has no counterpart: those with one are gae",
        ),
        ("actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum", "has no counterpart"),
        ("data.train_batch_size=many", "verl's data.train_batch_size = 'many': must be a number"),
        ("actor_rollout_ref.rollout.n=0", "verl's actor_rollout_ref.rollout.n = 0: must be at least 1"),
        ("actor_rollout_ref.actor.use_kl_loss=3", "must be true or false"),
    ],
)
def test_what_is_no_setting_or_has_no_counterpart_that_could_be_left_out(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match="verl's") as error:
        translated(override)
    assert said in str(error.value)


def test_files_are_read_as_yaml_as_lists_of_overrides_and_as_scripts(tmp_path: Path) -> None:
    (tmp_path / "dump.yaml").write_text("data: {train_batch_size: 8}\nalgorithm: {adv_estimator: grpo}\n")
    (tmp_path / "overrides.yaml").write_text("- data.train_batch_size=16\n- ++data.seed=3\n- ~data.seed\n")
    (tmp_path / "dump.json").write_text(json.dumps({"trainer": {"nnodes": 2}}))
    both = verl_settings([str(tmp_path / name) for name in ("dump.yaml", "overrides.yaml", "dump.json")])
    assert both == {"data.train_batch_size": 16, "algorithm.adv_estimator": "grpo", "trainer.nnodes": 2}
    (tmp_path / "empty.sh").write_text("echo nothing\n")
    with pytest.raises(ConfigError, match=r"empty\.sh: holds no settings of verl"):
        verl_settings([str(tmp_path / "empty.sh")])
    (tmp_path / "quotes.sh").write_text("x='open\n")
    with pytest.raises(ConfigError, match="cannot be read as a shell script"):
        verl_settings([str(tmp_path / "quotes.sh")])
    with pytest.raises(ConfigError, match="cannot be read"):
        verl_settings([str(tmp_path / "none.yaml")])


def test_interpolations_of_a_configuration_are_followed() -> None:
    given = {
        "a.n": 8,
        "b.n": "${a.n}",
        "c.n": "${oc.select:b.n,1}",
        "d.n": "${oc.select:none.n, False}",
        "e.n": "${.n}",
        "f.n": "${g.n}",
        "g.n": "${f.n}",
        "h.n": "???",
    }
    assert resolve(given) == {
        **{"a.n": 8, "b.n": 8, "c.n": 8, "d.n": False},
        **{"e.n": "${.n}", "f.n": "${g.n}", "g.n": "${f.n}"},  # relative, and in a circle: as they are
    }


def test_scripts_fill_in_variables_and_arithmetic(tmp_path: Path) -> None:
    (tmp_path / "a.sh").write_text(
        "n=${1:-4}\nexport both=$(( (n + 2) * 3 ))\n"
        "args=(a.b=$both c.d=${unset} e.f=${other:-${n}} g.h=$((n*missing)))\n"
    )
    assert read_script(tmp_path / "a.sh")[-4:] == ["a.b=18", "c.d=${unset}", "e.f=4", "g.h=$((n*missing))"]
