"""What pins an evaluation: hashes that change with what they are of, and with nothing else."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.commands import evaluation_settings
from reasoner_rl.commands.evaluation_settings import settings_of, verifier_record
from reasoner_rl.config.recipes import EvalConfig
from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.evaluation.result import Settings, differences
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.loading import load_held_out


def settings(tree: dict[str, Any]) -> Settings:
    config = EvalConfig.model_validate(tree)
    tokenizer = load_tokenizer(config.model)
    held_out = load_held_out(config.evaluation.datasets, config.data.prompts, tokenizer)
    return settings_of(config, tokenizer, held_out)


@pytest.fixture
def tree(tiny_run: dict[str, Any], tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> dict[str, Any]:
    """An evaluation of a copy of the tiny model."""
    shutil.copytree(tiny_checkpoint("qwen2-tied"), tmp_path / "model")
    return {
        "run": {"output_dir": str(tmp_path / "run")},
        "model": {"path": str(tmp_path / "model")},
        "reward": tiny_run["reward"] | {"overlong": {}},
        "evaluation": {"datasets": tiny_run["evaluation"]["datasets"]},
    }


def test_the_place_of_a_model_does_not_count_and_its_files_do(tree: dict[str, Any], tmp_path: Path) -> None:
    first = settings(tree)
    assert settings(tree) == first
    shutil.copytree(tmp_path / "model", tmp_path / "moved")
    moved = settings(tree | {"model": {"path": str(tmp_path / "moved")}})
    assert moved != first
    assert differences(first, moved) == []
    for name, key in (
        ("model.safetensors", "model.weights_sha256"),
        ("config.json", "model.config_sha256"),
        ("generation_config.json", "model.config_sha256"),  # has the tokens that end a response
        ("tokenizer_config.json", "tokenizer.sha256"),
    ):
        file = tmp_path / "moved" / name
        before = file.read_bytes()
        with file.open("ab") as opened:
            opened.write(b" ")
        changed = settings(tree | {"model": {"path": str(tmp_path / "moved")}})
        keys = [key for key, _, _ in differences(first, changed)]
        assert keys == ([key, "model.bytes"] if "weights" in key else [key]), name
        file.write_bytes(before)


def test_code_that_runs_and_the_chat_template_in_force_are_pinned(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    first = settings(tree)
    (tmp_path / "model" / "modeling_own.py").write_text("LAYERS = 2\n")
    assert settings(tree) == first, "it does not run"
    trusting = tree | {"model": tree["model"] | {"trust_remote_code": True}}
    code = settings(trusting)
    (tmp_path / "model" / "modeling_own.py").write_text("LAYERS = 3\n")
    assert [key for key, _, _ in differences(code, settings(trusting))] == ["model.config_sha256"]

    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}")
    own = settings(tree | {"model": tree["model"] | {"chat_template": str(template)}})
    assert own.tokenizer is not None
    assert own.tokenizer.chat_template_sha256 == hashlib.sha256(template.read_bytes()).hexdigest()


def test_what_is_asked_and_which_rows_are_read_count(tree: dict[str, Any]) -> None:
    first = settings(tree)
    data = tree["evaluation"]["datasets"][0]
    fewer = tree | {"evaluation": {"datasets": [data | {"limit": 2}]}}
    assert [key for key, _, _ in differences(first, settings(fewer))] == [
        "data.heldout.rows.limit",
        "data.heldout.prompts_sha256",
    ]
    asked = settings(tree | {"data": {"prompts": {"template": "dapo"}}})
    assert asked.data["heldout"].first_prompt is not None
    assert asked.data["heldout"].first_prompt.startswith("Solve the following math problem step by step.")
    assert [key for key, _, _ in differences(first, asked)] == [
        "prompts.template",
        "data.heldout.prompts_sha256",
        "data.heldout.first_prompt",
    ]


def test_a_model_on_the_hub_is_hashed_from_the_cache(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cached(model: Any) -> Any:
        assert fetched == ["maker/model"]
        return model.model_copy(update={"path": str(tmp_path / "model")})

    fetched: list[str] = []
    monkeypatch.setattr(evaluation_settings, "download", lambda model: fetched.append(model.path))
    monkeypatch.setattr(evaluation_settings, "from_cache", cached)
    local = EvalConfig.model_validate(tree)
    tokenizer = load_tokenizer(local.model)
    held_out = load_held_out(local.evaluation.datasets, local.data.prompts, tokenizer)
    hub = EvalConfig.model_validate(tree | {"model": {"path": "maker/model"}})
    found = settings_of(hub, tokenizer, held_out)
    assert found.model is not None
    assert found.model.path == "maker/model"
    assert differences(settings_of(local, tokenizer, held_out), found) == []


def test_a_verifier_in_a_package_is_pinned_with_all_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "judging_by_hand"
    (package / "rules").mkdir(parents=True)
    (package / "__init__.py").write_text("from judging_by_hand.rules.one import f\n")
    (package / "rules" / "one.py").write_text("def f(**_): return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)

    def pinned() -> str:
        config = RewardConfig.model_validate({"functions": [{"fn": "judging_by_hand:f"}]})
        return verifier_record(config).functions[0].source_sha256

    first = pinned()
    assert pinned() == first
    (package / "rules" / "one.py").write_text("def f(**_): return 0.0\n")
    assert pinned() != first
