"""`data make-preferences` and `make-sft`: files, the report, what is sampled again, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.commands import sample_answers
from reasoner_rl.commands.make_data import make_preferences, make_sft
from reasoner_rl.config.data import JudgedDatasetConfig
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.prompts.judged import read_judged
from reasoner_rl.trainer.train import train


@pytest.fixture
def recipe(tiny_run: dict[str, Any]) -> OnlineConfig:
    """The tiny run with 12 problems and 4 answers to each."""
    sampling = {
        "max_response_tokens": 40,
        "stop": ["s", "t"],
    }  # or hardly any answer of a random model would end
    return OnlineConfig.model_validate(
        tiny_run
        | {
            "run": tiny_run["run"] | {"output_dir": "unused"},
            "rollout": {"responses_per_prompt": 4, "sampling": sampling},
            "logging": {"progress": False},
        }
    )


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_answers_become_data_that_a_recipe_learns_from(
    recipe: OnlineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sample_answers, "PROMPTS_PER_PART", 5)
    made = tmp_path / "made"
    report = make_preferences(recipe, made, "best_worst", 0.0)
    assert (report.prompts, report.answers) == (12, 48)
    assert "answers: 0 of 3 parts exist" in capsys.readouterr().out
    parts = sorted((made / "answers").iterdir())
    assert [part.name for part in parts] == [f"part_{number:05d}.parquet" for number in range(3)]
    pairs = rows_of(made / "pairs.jsonl")
    assert len(pairs) == report.rows["pairs.jsonl"] <= 12
    assert all(pair["chosen_score"] > pair["rejected_score"] for pair in pairs)
    assert json.loads((made / "preferences_report.json").read_text())["rows"] == report.rows
    for name, kind in (("pairs", "pairs"), ("labels", "labels"), ("scores", "scores"), ("pairs", "labels")):
        file = JudgedDatasetConfig(path=made / f"{name}.jsonl", deduplicate=False)
        examples, _ = read_judged(file, kind)
        assert len(examples) == report.rows[f"{name}.jsonl"] * (
            2 if (name, kind) == ("pairs", "labels") else 1
        )

    before = {part: part.stat().st_mtime_ns for part in parts}
    written = (made / "pairs.jsonl").read_bytes()
    parts[1].unlink()
    assert make_preferences(recipe, made, "best_worst", 0.0) == report
    assert "answers: 2 of 3 parts exist" in capsys.readouterr().out
    assert (made / "pairs.jsonl").read_bytes() == written, "the same answers were drawn again"
    assert [part for part in parts if part.stat().st_mtime_ns == before[part]] == [parts[0], parts[2]]

    with pytest.raises(ConfigError, match=r"other settings \(evaluation; see .*settings.json\)"):
        make_sft(OnlineConfig.model_validate(changed(recipe, responses_per_prompt=3)), made, 1, "first", None)
    with pytest.raises(DataError, match="differ by more than 100: 48 answers to 12 prompts"):
        make_preferences(recipe, made, "best_worst", 100.0)
    other = tmp_path / "other.jsonl"
    other.write_text('{"problem": "1 plus 1?", "answer": "2"}\n')
    moved = recipe.model_dump() | {"data": recipe.model_dump()["data"] | {"train": {"path": other}}}
    with pytest.raises(ConfigError, match=r"other settings \(evaluation, prompts;"):
        make_sft(OnlineConfig.model_validate(moved), made, 1, "first", None)
    assert (made / "pairs.jsonl").read_bytes() == written, "what fails leaves the files as they were"
    agreed = make_sft(recipe, made, 9, "first", 0.0)
    assert agreed.answers == 48
    right = make_sft(recipe, made, 1, "first", None)
    assert right.rows == {"sft.jsonl": len(rows_of(made / "sft.jsonl"))}

    preference = PreferenceConfig.model_validate(
        {
            "run": {"output_dir": tmp_path / "dpo", "steps": 1, "threads": 1},
            "model": recipe.model,
            "data": {"train": {"path": made / "pairs.jsonl"}, "max_response_tokens": 16},
            "batch": {"examples_per_step": 2, "micro_batch_tokens": 200},
            "logging": {"tensorboard": False, "progress": False},
        }
    )
    assert train(preference) is not None


def changed(recipe: OnlineConfig, **rollout: Any) -> dict[str, Any]:
    tree = recipe.model_dump()
    return tree | {"rollout": tree["rollout"] | rollout}
