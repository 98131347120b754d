"""TRL's arguments become a recipe that means the same, with the arithmetic of its batches."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.config.keys import walk_keys
from reasoner_rl.config.load import check_text
from reasoner_rl.config.translate.sources import trl_settings
from reasoner_rl.config.translate.terms import Translation
from reasoner_rl.config.translate.trl import method_of, translate_trl
from reasoner_rl.config.translate.trl_keys import METHODS, TRL
from reasoner_rl.config.translate.write import write_recipe
from reasoner_rl.errors import ConfigError

_ARGUMENTS = re.compile(r"(Training|GRPOScript|Script)Arguments|(_Base|Model|GRPO|DPO|KTO|SFT)Config")
_KINDS = {"grpo": "online", "dpo": "preference", "kto": "preference", "sft": "sft"}


def translated(method: str, devices: int = 1, rows: int | None = None, **given: Any) -> Translation:
    return translate_trl(given, method, devices, rows)


def recipe_of(method: str, devices: int = 1, rows: int | None = None, **given: Any) -> Any:
    return check_text(write_recipe(translated(method, devices, rows, **given)), "test")


def _fields(file: Path) -> dict[str, Any]:
    """Names and defaults of the dataclasses of arguments in a file, read and not imported, as imports take seconds."""
    found: dict[str, Any] = {}
    classes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    for node in itertools.chain.from_iterable(c.body for c in classes if _ARGUMENTS.fullmatch(c.name)):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        value = node.value
        if isinstance(value, ast.Call):
            keywords = {keyword.arg: keyword.value for keyword in value.keywords}
            value = keywords.get("default", keywords.get("default_factory"))
        if isinstance(value, ast.Lambda):
            value = value.body
        try:
            found[node.target.id] = None if value is None else ast.literal_eval(value)
        except ValueError:
            found[node.target.id] = ...  # worked out
    return found


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


@pytest.mark.parametrize("method", METHODS)
def test_the_table_has_trls_own_names_and_defaults(method: str) -> None:
    trl, transformers = _folder("trl"), _folder("transformers")
    fields: dict[str, Any] = {}
    for file in (
        transformers / "training_args.py",
        trl / "trainer/base_config.py",
        trl / "trainer/model_config.py",
        trl / "scripts/utils.py",
        trl / f"scripts/{method}.py",
        trl / f"trainer/{method}_config.py",
    ):
        fields.update(_fields(file))
    for key, term in TRL[method].terms.items():
        assert key in fields, key
        if fields[key] is not ... and term.ours:
            assert term.default == fields[key], key
    words = TRL[method].terms.keys() | TRL[method].sections.keys()
    assert {key for key in fields if not key.startswith("_")} - words == set()
    assert TRL[method].sections.keys() <= fields.keys()


@pytest.mark.parametrize("method", METHODS)
def test_the_table_has_our_own_names(method: str) -> None:
    ours = {key.path for key in walk_keys(_KINDS[method])}
    assert {term.ours for term in TRL[method].terms.values()} - {""} <= ours | {"evaluation.every_steps"}
    for key, term in TRL[method].terms.items():
        assert term.ours or term.note, key


def test_batches_of_grpo_are_counted_in_prompts() -> None:
    batches = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 8,
        "steps_per_generation": 16,
        "num_generations": 8,
        "num_iterations": 2,
    }
    found = translated("grpo", 4, max_steps=300, save_steps=100, warmup_ratio=0.1, **batches)
    config = check_text(write_recipe(found), "test")
    # 4 x 4 x 16 = 256 responses are 32 prompts; 4 x 4 x 8 = 128 responses per update are 16; 2 epochs: 4 updates.
    assert (config.batch.prompts_per_step, config.batch.prompts_per_update, config.batch.epochs) == (
        32,
        16,
        2,
    )
    assert (config.run.steps, config.checkpoint.every_steps) == (300 // 4, 100 // 4)
    assert (config.training.schedule.kind, config.training.schedule.warmup_steps) == ("linear", 8)
    assert found.words["batch.prompts_per_step"] == (
        "TRL generates 4 per device x 4 devices x 16 steps = 256 responses at a time, which is 32 prompts x 8."
    )
    assert (config.cluster.kind, config.cluster.workers_per_node) == ("ray", 4)
    direct = recipe_of("grpo", generation_batch_size=64, num_generations=8, per_device_train_batch_size=16)
    assert (direct.batch.prompts_per_step, direct.batch.prompts_per_update) == (8, 2)
    # 8 responses per update are half a group of 16: whole groups are taken, and that is said.
    half = translated("grpo", num_generations=16, steps_per_generation=4)
    assert half.tree["batch"]["prompts_per_update"] == 1
    assert any(task.startswith("check batch.prompts_per_update") for task in half.to_do)
    # What no argument of TRL's says is left to do for every script.
    assert any(task.startswith("set data.train.columns") for task in half.to_do)
    assert any(task.startswith("set reward.functions") for task in half.to_do)
    with pytest.raises(ConfigError, match="8 responses must be a multiple of num_generations = 16"):
        translated("grpo", num_generations=16)


def test_epochs_of_grpo_leave_out_incomplete_batches() -> None:
    """TRL's sampler of GRPO drops the rows that fill no batch: 100 rows are 6 steps of 16 prompts."""
    batch = {"per_device_train_batch_size": 32, "steps_per_generation": 4, "num_generations": 8}
    found = translated("grpo", 1, 100, num_train_epochs=2, **batch)
    assert (found.tree["batch"]["prompts_per_step"], found.tree["run"]["steps"]) == (16, 12)
    with pytest.raises(ConfigError, match="--rows 15: a step of TRL's takes 16 prompts"):
        translated("grpo", 1, 15, **batch)


def test_objectives_of_grpo() -> None:
    plain = recipe_of("grpo", num_generations=8, beta=0.04, epsilon_high=0.28, loss_type="dr_grpo", delta=4.0)
    loss = plain.algorithm.loss
    assert (loss.aggregation, loss.clip_low, loss.clip_high) == ("seq-mean-token-sum-norm", 0.2, 0.28)
    assert (loss.dual_clip, loss.kl.coefficient, plain.algorithm.advantage) == (4.0, 0.04, "group_std")
    assert plain.training.optimizer.weight_decay == 0.0  # TRL's default, not ours
    assert loss.kl.estimator == "k3"
    weighted = translated("grpo", num_generations=8, beta=0.04)
    assert "multiplies the KL term by the ratio" in weighted.words["algorithm.loss.kl.coefficient"]
    stands_alone = translated("grpo", num_generations=8, beta=0.04, use_bias_correction_kl=False)
    assert "algorithm.loss.kl.coefficient" not in stands_alone.words
    cispo = recipe_of("grpo", loss_type="cispo", epsilon_high=5.0, scale_rewards=False).algorithm
    assert (cispo.loss.objective, cispo.loss.clip_low, cispo.loss.clip_high) == ("cispo", 1.0, 4.0)
    assert cispo.advantage == "group_mean"
    weights = recipe_of("grpo", use_vllm=True).algorithm.loss.importance_sampling
    assert (weights.kind, weights.level, weights.floor, weights.cap) == ("masked", "sequence", 0.0, 3.0)
    cut = translated("grpo", use_vllm=True, top_p=0.9, vllm_importance_sampling_correction=True)
    assert "importance_sampling" not in cut.tree["algorithm"]["loss"]
    assert "logprobs of a distribution cut" in cut.without["vllm_importance_sampling_correction"]


def test_preferences_and_examples() -> None:
    dpo = recipe_of(
        "dpo", 2, 1000, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5], beta=0.2, use_peft=True
    )
    assert (dpo.algorithm.kind, dpo.algorithm.beta, dpo.algorithm.nll_coefficient) == ("dpo", 0.2, 0.5)
    assert (dpo.batch.examples_per_step, dpo.run.steps) == (16, 189)  # 3 epochs of 62.5 steps, rounded up
    assert (dpo.model.lora.rank, dpo.model.lora.dropout) == (16, 0.05)
    assert recipe_of("dpo", loss_type="ipo", label_smoothing=0.0).algorithm.objective == "ipo"
    kto = recipe_of("kto", undesirable_weight=0.25, eval_strategy="steps")
    assert (kto.algorithm.kind, kto.algorithm.undesirable_weight) == ("kto", 0.25)
    sft = recipe_of("sft", gradient_accumulation_steps=4, max_length=2048, packing=True)
    assert (sft.recipe, sft.batch.examples_per_step, sft.data.max_response_tokens) == ("sft", 32, 2048)
    assert translated("sft", packing=True, foo=1).unknown == {"foo": 1}
    assert "without padding" in translated("sft", packing=True).without["packing"]
    with pytest.raises(ConfigError, match=r"\['bco_pair'\]: has no counterpart"):
        translated("dpo", loss_type="bco_pair")


def test_arguments_are_read_from_files_and_scripts(tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text(
        "BS=4\naccelerate launch --num_processes 2 -m trl.scripts.dpo --per_device_train_batch_size $BS \\\n"
        "  --loss_type sigmoid sft --loss_weights 1.0 -0.5 --bf16 --config base.yaml --report-to=none\n"
    )
    (tmp_path / "base.yaml").write_text("beta: 0.3\nper_device_train_batch_size: 1\n")
    given, method, devices = trl_settings(tmp_path / "run.sh")
    assert (method, devices) == ("dpo", 2)
    assert given == {
        "beta": 0.3,
        "per_device_train_batch_size": 4,
        "loss_type": ["sigmoid", "sft"],
        "loss_weights": [1.0, -0.5],
        "bf16": True,
        "report_to": "none",
    }
    (tmp_path / "cli.sh").write_text("trl grpo --num_generations 8\n")
    assert trl_settings(tmp_path / "cli.sh") == ({"num_generations": 8}, "grpo", None)
    (tmp_path / "none.txt").write_text("nothing\n")
    with pytest.raises(ConfigError, match=r"none\.txt: holds no arguments of TRL"):
        trl_settings(tmp_path / "none.txt")


def test_the_trainer_is_told_by_its_own_arguments() -> None:
    assert method_of({"num_generations": 8, "beta": 0.1}, None) == "grpo"
    assert method_of({"desirable_weight": 1.0}, None) == "kto"
    assert method_of({"label_smoothing": 0.1}, None) == "dpo"
    assert method_of({"packing": True}, None) == "sft"
    assert method_of({"beta": 0.1}, "dpo") == "dpo"
    with pytest.raises(ConfigError, match="give --method, one of grpo, dpo, kto, sft"):
        method_of({"beta": 0.1, "learning_rate": 1e-6}, None)
    with pytest.raises(ConfigError, match=r"--method 'gpro': must be one of .* Did you mean 'grpo'"):
        method_of({}, "gpro")
