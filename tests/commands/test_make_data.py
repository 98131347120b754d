"""`data make-preferences` and `make-sft`: files, the report, what is sampled again, and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from reasoner_rl.commands import sample_answers
from reasoner_rl.commands.make_data import make_preferences, make_sft
from reasoner_rl.config.data import JudgedDatasetConfig
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.rollout_table import groups_of, write_rollouts
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

    with pytest.raises(
        ConfigError, match=r"other settings \(evaluation\.samples_per_prompt; see .*settings.json\)"
    ):
        make_sft(OnlineConfig.model_validate(changed(recipe, responses_per_prompt=3)), made, 1, "first", None)
    wide = make_preferences(recipe, made, "best_worst", 100.0)
    assert wide.rows == report.rows | {"pairs.jsonl": 0}
    assert "differ by more than 100: pairs.jsonl is empty\n" in capsys.readouterr().out
    assert (made / "pairs.jsonl").read_bytes() == b"", "no pairs of an earlier call stay"
    assert len(rows_of(made / "scores.jsonl")) == report.rows["scores.jsonl"]
    make_preferences(recipe, made, "best_worst", 0.0)
    other = tmp_path / "other.jsonl"
    other.write_text('{"problem": "1 plus 1?", "answer": "2"}\n')
    moved = recipe.model_dump() | {"data": recipe.model_dump()["data"] | {"train": {"path": other}}}
    with pytest.raises(ConfigError, match=r"other settings \(evaluation\.datasets, prompts\.contents, "):
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


def test_what_is_wrong_in_the_folder_is_named_with_its_remedy(recipe: OnlineConfig, tmp_path: Path) -> None:
    made = tmp_path / "made"
    make_preferences(recipe, made, "best_worst", 0.0)
    [part] = (made / "answers").iterdir()
    whole = part.read_bytes()

    def refusal(kind: type[Exception]) -> str:
        with pytest.raises(kind) as caught:
            make_preferences(recipe, made, "best_worst", 0.0)
        return str(caught.value)

    part.write_bytes(whole[:-3])
    text = refusal(DataError)
    assert text.startswith(f"{part}: cannot be read as parquet: ")
    assert text.endswith(f"Delete {part}, and the same command samples its answers again")
    assert "Did you mean" not in text
    write_rollouts(part, 0, groups_of(pq.ParquetFile(io.BytesIO(whole)).read())[:5])
    assert f"{part}: does not hold the answers to the 12 prompts of its part. Delete {part}" in refusal(
        DataError
    )
    part.write_bytes(whole)

    (made / "pairs.jsonl").unlink()
    (made / "pairs.jsonl").mkdir()
    assert refusal(ConfigError) == f"--out={made}: {made / 'pairs.jsonl'}: Is a directory"
    settings = made / "settings.json"
    written = settings.read_text()
    settings.write_text("[1]")
    text = refusal(DataError)
    assert (
        text
        == f"{settings}: must hold a mapping of settings; it is [1]: choose another folder, or delete this one"
    )
    settings.unlink()
    settings.mkdir()
    assert refusal(DataError).startswith(f"{settings}: cannot be read ([Errno 21] Is a directory")
    settings.rmdir()
    settings.write_text(written)
    part.unlink()
    part.parent.rmdir()
    part.parent.touch()
    assert refusal(ConfigError) == f"--out={made}: {part.parent}: File exists"


def test_answers_of_no_use_make_no_files(recipe: OnlineConfig, tmp_path: Path) -> None:
    endless = changed(recipe, sampling={"max_response_tokens": 5, "min_response_tokens": 5})
    endless["algorithm"]["dynamic_sampling"]["max_staleness"] = 0  # which min_response_tokens asks for
    with pytest.raises(
        DataError, match=r"no file has any rows: 48 answers to 12 prompts.*48 answers not used"
    ):
        make_preferences(OnlineConfig.model_validate(endless), tmp_path / "made", "best_worst", 0.0)
    assert not list((tmp_path / "made").glob("*.jsonl"))
    judged = OnlineConfig.model_validate(
        recipe.model_dump() | {"reward_model": {"kind": "pointwise", "path": "rm"}}
    )
    with pytest.raises(ConfigError, match=r"whatever their scores: leave the section out"):
        make_sft(judged, tmp_path / "made", 1, "first", None)


def changed(recipe: OnlineConfig, **rollout: Any) -> dict[str, Any]:
    tree = recipe.model_dump()
    return tree | {"rollout": tree["rollout"] | rollout}
