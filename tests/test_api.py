"""The functions of the package, as a notebook calls them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import reasoner_rl
from reasoner_rl.errors import ConfigError


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, reasoner_rl; assert 'torch' not in sys.modules; print(sorted(reasoner_rl.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['__version__', 'evaluate', 'load_recipe', 'train']\n"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = reasoner_rl.trian  # type: ignore[attr-defined]


def test_recipes_are_changed_by_mappings(tmp_path: Path) -> None:
    changes = {
        "run.seed": 3,
        "run.output_dir": tmp_path,
        "rollout.sampling.stop": ["]"],
        "model.lora": {"rank": 4},
    }
    config = reasoner_rl.load_recipe("quickstart", changes)
    assert (config.run.seed, config.run.output_dir) == (3, tmp_path)
    assert config.rollout.sampling.stop == ["]"]  # type: ignore[union-attr]
    again = reasoner_rl.load_recipe(config, {"run.seed": 4, "data.train.path": "1: x.jsonl"})
    assert (again.run.seed, again.model.lora.rank, str(again.data.train.path)) == (4, 4, "1: x.jsonl")  # type: ignore[union-attr]
    assert reasoner_rl.load_recipe(config) is config
    for recipe in ("quickstart", config):
        with pytest.raises(
            ConfigError, match=r"override: run\.sed = 1: unknown key\. Did you mean 'run\.seed'\?"
        ):
            reasoner_rl.load_recipe(recipe, {"run.sed": 1})
    with pytest.raises(
        ConfigError, match=r'must map key\.path to value, such as \{"run\.seed": 1\}; it is \[.run'
    ):
        reasoner_rl.load_recipe("quickstart", ["run.seed=1"])  # type: ignore[arg-type]


def test_a_mapping_is_a_recipe(tmp_path: Path) -> None:
    tree = {
        "extends": "quickstart",
        "run": {"output_dir": tmp_path},
        "rollout": {"sampling": {"stop": ("]",)}},
    }
    config = reasoner_rl.load_recipe(tree, {"run.seed": 3})
    changes = {"run.output_dir": tmp_path, "rollout.sampling.stop": ["]"], "run.seed": 3}
    assert config == reasoner_rl.load_recipe("quickstart", changes)
    assert tree["extends"] == "quickstart", "the mapping itself is not changed"
    with pytest.raises(
        ConfigError, match=r"the recipe: run\.sed = 1: unknown key\. Did you mean 'run\.seed'"
    ):
        reasoner_rl.load_recipe({"extends": "quickstart", "run": {"sed": 1}})
    with pytest.raises(
        ConfigError, match=r"the recipe: extends: unknown recipe 'quickstar'.*Did you mean 'quick"
    ):
        reasoner_rl.load_recipe({"extends": "quickstar"})
    with pytest.raises(
        ConfigError, match=r"a mapping of sections, or what load_recipe returned; it is \[1\]"
    ):
        reasoner_rl.load_recipe([1])  # type: ignore[arg-type]


def test_a_run_and_its_evaluation(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> None:
    (tmp_path / "problems.jsonl").write_text(
        '{"problem": "1+1?", "answer": "2"}\n{"problem": "2?", "answer": "2"}\n'
    )
    tree: dict[str, Any] = {
        "run": {"output_dir": str(tmp_path / "run"), "steps": 2, "threads": 1},
        "model": {"path": str(tiny_checkpoint("qwen2-tied"))},
        "data": {"train": {"path": str(tmp_path / "problems.jsonl")}},
        "rollout": {"responses_per_prompt": 2, "sampling": {"max_response_tokens": 4}},
        "reward": {"workers": 1},
        "algorithm": {"kind": "grpo"},
        "batch": {"prompts_per_step": 2},
        "evaluation": {"datasets": [{"path": str(tmp_path / "problems.jsonl")}]},
        "logging": {"tensorboard": False},
    }
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    seen: list[tuple[int, set[str]]] = []

    def note(step: int, metrics: Mapping[str, float]) -> None:
        seen.append((step, set(metrics)))

    summary = reasoner_rl.train(recipe, on_metrics=note)
    assert summary is not None
    assert (summary["steps"], summary["algorithm"]) == (2, "grpo")
    assert [step for step, _ in seen] == [0, 1, 2, 2], "an evaluation before, two steps, an evaluation after"
    assert "eval/problems/accuracy" in seen[0][1]
    assert "reward/score" in seen[1][1]

    result = reasoner_rl.evaluate(recipe)
    assert result.settings.model is not None
    assert result.settings.model.path == str(tmp_path / "run" / "final")
    other = reasoner_rl.evaluate(recipe, {"model.path": tree["model"]["path"]}, out=tmp_path / "base")
    assert other.settings.model is not None
    assert other.settings.model.path == tree["model"]["path"]
    assert (tmp_path / "base" / "evaluation.json").is_file()
    with pytest.raises(ConfigError, match="kind 'eval', for evaluate"):
        reasoner_rl.train("aime")
