"""`data difficulty`: pass rates of a real tiny model, interrupted and resumed, and a curriculum that training keeps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from reasoner_rl.commands import measure_difficulty as measure_difficulty_module
from reasoner_rl.commands import sample_answers
from reasoner_rl.commands.measure_difficulty import Choice, measure_difficulty
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.rollout_table import read_rollouts
from reasoner_rl.prompts.read import Problem
from reasoner_rl.trainer.train import train
from reasoner_rl.types import ScoredGroup

SAMPLES = 4


def tree_of(tiny_run: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """The tiny run with GRPO, so that the prompts of a step are those that come first."""
    return {
        **tiny_run,
        "run": tiny_run["run"] | {"output_dir": "unused"},
        "algorithm": {"kind": "grpo"},
        "batch": {"prompts_per_step": 4, "prompts_per_update": 4, "micro_batch_tokens": 200},
        "rollout": {"responses_per_prompt": SAMPLES, "sampling": {"max_response_tokens": 3}},
        "reward": tiny_run["reward"] | {"overlong": {"buffer_tokens": 0}},
        **sections,
    }


def with_data(tiny_run: dict[str, Any], train_file: Path | str, **data: Any) -> OnlineConfig:
    given = {**tiny_run["data"], "train": {"path": str(train_file)}, **data}
    return OnlineConfig.model_validate(tree_of(tiny_run, data=given))


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_pass_rates_are_measured_resumed_chosen_and_trained_on(
    tiny_run: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = Path(tiny_run["data"]["train"]["path"])
    config = with_data(tiny_run, source)
    monkeypatch.setattr(sample_answers, "PROMPTS_PER_PART", 5)
    written: list[Path] = []

    def interrupted(file: Path, *arguments: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(file)
        whole(file, *arguments)

    whole = sample_answers.write_rollouts
    with monkeypatch.context() as patched:
        patched.setattr(sample_answers, "write_rollouts", interrupted)
        with pytest.raises(KeyboardInterrupt):
            measure_difficulty(config, tmp_path, Choice())
    [part] = written
    begun = part.stat().st_mtime_ns
    assert not (tmp_path / source.name).exists()
    capsys.readouterr()

    report = measure_difficulty(config, tmp_path, Choice())
    out = capsys.readouterr().out
    assert "answers: 1 of 3 parts exist" in out
    assert part.stat().st_mtime_ns == begun
    rows = rows_of(tmp_path / source.name)
    originals = rows_of(source)
    assert [{name: row[name] for name in ("problem", "answer")} for row in rows] == originals

    # The same counts, read off the sampled answers: the verifier of the tiny run wants a vowel.
    answers = [
        row
        for number in range(3)
        for row in read_rollouts(part.with_name(f"part_{number:05d}.parquet")).to_pylist()
    ]
    assert len(answers) == SAMPLES * len(originals)
    rates = [
        sum(any(letter in "aeiou" for letter in answer["response"]) for answer in answers[at : at + SAMPLES])
        / SAMPLES
        for at in range(0, len(answers), SAMPLES)
    ]
    assert [row["pass_rate"] for row in rows] == rates
    assert len(set(rates)) > 2, "a model for which problems differ, or there is no order to test"
    assert {row["pass_rate_samples"] for row in rows} == {SAMPLES}
    assert all(row["pass_rate_low"] <= row["pass_rate"] <= row["pass_rate_high"] for row in rows)
    assert list(report.histogram.values()) == [rates.count(right / SAMPLES) for right in range(SAMPLES + 1)]
    for right, count in enumerate(report.histogram.values()):
        bar = "#" * -(-50 * count // max(report.histogram.values()))
        assert (
            f"  {right}/4  {count:>{len(str(max(report.histogram.values())))}}  {bar}".rstrip()
            in out.splitlines()
        )

    kept = measure_difficulty(config, tmp_path, Choice(0.25, 1.0, "easy-first"))
    out = capsys.readouterr().out
    assert "answers: 3 of 3 parts exist" in out
    file = tmp_path / source.name
    assert f"in a recipe: data.train.path={file} data.shuffle=false" in out
    ordered = rows_of(file)
    assert ordered == sorted(
        (row for row in rows if row["pass_rate"] >= 0.25), key=lambda row: -row["pass_rate"]
    )
    assert (kept.kept, kept.problems) == (len(ordered), len(rows))
    assert json.loads((tmp_path / "difficulty_report.json").read_text())["kept"] == len(ordered)

    run = {"output_dir": str(tmp_path / "run"), "steps": 1, "threads": 1}
    trained = with_data(tiny_run, file, shuffle=False)
    train(OnlineConfig.model_validate(trained.model_dump() | {"run": run, "evaluation": {}}))
    table = read_rollouts(tmp_path / "run" / "rollouts" / "step_000001.parquet").to_pylist()
    prompts = list(dict.fromkeys(row["prompt"] for row in table))
    assert prompts == [row["problem"] for row in ordered[:4]], "the easiest problems come first"
    info = json.loads(table[0]["extra_info"])
    assert info["pass_rate"] == ordered[0]["pass_rate"], "reward functions and records are told the rate"


def test_answers_of_other_weights_at_the_same_place_are_not_mixed(
    tiny_run: dict[str, Any], tmp_path: Path
) -> None:
    """As of a run's final/, which is replaced when the run is trained further."""
    model = shutil.copytree(tiny_run["model"]["path"], tmp_path / "model")
    tree = tree_of(tiny_run, model=tiny_run["model"] | {"path": str(model)})
    config = OnlineConfig.model_validate(tree)
    measure_difficulty(config, tmp_path / "out", Choice())
    kept = (tmp_path / "out" / "train.jsonl").read_bytes()
    more = OnlineConfig.model_validate(tree | {"rollout": tree["rollout"] | {"responses_per_prompt": 3}})
    with pytest.raises(ConfigError, match=r"with other settings \(evaluation\.samples_per_prompt;"):
        measure_difficulty(more, tmp_path / "out", Choice())
    weights = load_file(model / "model.safetensors")
    save_file({name: tensor + 0.1 for name, tensor in weights.items()}, model / "model.safetensors")
    with pytest.raises(
        ConfigError, match=r"holds answers that were sampled with other settings \(checkpoint;"
    ):
        measure_difficulty(config, tmp_path / "out", Choice())
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == kept


def test_verl_files_keep_their_schema(tiny_run: dict[str, Any], tmp_path: Path) -> None:
    def row(number: int) -> dict[str, Any]:
        return {
            "data_source": "vowels",
            "prompt": [{"role": "user", "content": f"{number} plus {number}?"}],
            "reward_model": {"ground_truth": str(2 * number), "style": "rule"},
            "extra_info": {"index": number},
        }

    source = tmp_path / "in" / "math.parquet"
    source.parent.mkdir()
    pq.write_table(pa.Table.from_pylist([row(number) for number in (1, 1, 2, 3)]), source)
    config = with_data(tiny_run, source)
    report = measure_difficulty(config, tmp_path / "out", Choice())
    assert report.problems == 3, "the repeated row is not measured"
    made, given = pq.read_table(tmp_path / "out" / "math.parquet"), pq.read_table(source)
    assert made.select(given.column_names).to_pylist() == [row(1), row(2), row(3)]
    assert made.schema.field("prompt") == given.schema.field("prompt")
    assert made.column_names[4:] == ["pass_rate", "pass_rate_samples", "pass_rate_low", "pass_rate_high"]

    with pytest.raises(ConfigError, match=r"is data\.train\.path and would be replaced"):
        measure_difficulty(config, source.parent, Choice())
    before = (tmp_path / "out" / "math.parquet").read_bytes()
    rates = made["pass_rate"].to_pylist()
    empty = next(gap / 8 for gap in range(1, 8, 2) if gap / 8 not in rates)
    with pytest.raises(DataError, match=r"no problem has a pass rate of .*3 problems with 4 answers each"):
        measure_difficulty(config, tmp_path / "out", Choice(empty, empty))
    assert (tmp_path / "out" / "math.parquet").read_bytes() == before


def test_what_cannot_be_measured_is_refused(
    tiny_run: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scored_group: Callable[..., ScoredGroup],
) -> None:
    with pytest.raises(ConfigError, match=r"--min-pass 0.5: must be at most --max-pass, which is 0.2"):
        Choice(0.5, 0.2)
    judged = tree_of(tiny_run, reward_model={"kind": "pointwise", "path": "rm"})
    with pytest.raises(ConfigError, match=r"whatever their scores: leave the section out"):
        measure_difficulty(OnlineConfig.model_validate(judged), tmp_path, Choice())
    unknown = scored_group([1.0, 0.5], [1.0, None])
    monkeypatch.setattr(
        measure_difficulty_module,
        "sampled_groups",
        lambda *_: [(Problem("train/7", (), "42", "test"), unknown)],
    )
    with pytest.raises(DataError, match=r"problem train/7: .*return no `acc`"):
        measure_difficulty(OnlineConfig.model_validate(tree_of(tiny_run)), tmp_path / "out", Choice())
    assert not (tmp_path / "out").exists()
