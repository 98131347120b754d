"""Iterated runs: what each round is made of, what is kept of it, how a run goes on, and when it ends early."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from reasoner_rl.cli import main
from reasoner_rl.commands import memory, sample_answers, train_iterated
from reasoner_rl.commands.evaluate import evaluate_checkpoint
from reasoner_rl.commands.inspect_data import inspect_data
from reasoner_rl.commands.make_data import AnswersReport, NothingMadeError, make_preferences
from reasoner_rl.commands.own_process import in_own_process
from reasoner_rl.commands.train_iterated import rows_of_round
from reasoner_rl.config.iterated import IteratedConfig
from reasoner_rl.config.preference import ReferenceConfig
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig, PreferenceConfig
from reasoner_rl.config.rollout import HfEngineConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.glossary import meaning_of
from reasoner_rl.trainer.loop import Trainer
from reasoner_rl.trainer.train import train

Changed = Callable[..., IteratedConfig]


@pytest.fixture(scope="module")
def tree(tiny_run: dict[str, Any]) -> dict[str, Any]:
    """Two rounds of 4 answers to 8 of the tiny run's 12 problems, and 2 steps of DPO, without run.output_dir."""
    sampling = {"max_response_tokens": 40, "stop": ["s", "t"]}  # or hardly any answer would end
    return {
        "recipe": "iterated",
        "run": {"steps": 2, "seed": 3, "threads": 1},
        "model": tiny_run["model"],
        "data": tiny_run["data"],
        "rounds": {"count": 2, "problems": 8},
        "rollout": {"responses_per_prompt": 4, "sampling": sampling},
        "reward": tiny_run["reward"],
        "batch": {"examples_per_step": 4, "micro_batch_tokens": 400},
        "training": {"optimizer": {"lr": 1.0e-3}, "schedule": {"kind": "constant"}},
        "evaluation": {"datasets": tiny_run["evaluation"]["datasets"]},
        "checkpoint": {"every_steps": 1},
        "logging": {"tensorboard": False, "progress": False},
    }


def config_of(tree: dict[str, Any], output: Path, **sections: Any) -> IteratedConfig:
    merged = {**tree, **{name: {**tree.get(name, {}), **keys} for name, keys in sections.items()}}
    merged["run"] = {**merged["run"], "output_dir": str(output)}
    return IteratedConfig.model_validate(merged)


@pytest.fixture(scope="module")
def finished(tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run when it has ended; tests read it, or copy it."""
    output = tmp_path_factory.mktemp("iterated") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_answers, "PROMPTS_PER_PART", 5)
        assert train_iterated.train_iterated(config_of(tree, output)) is not None
    return output


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of answers in a round."""
    monkeypatch.setattr(sample_answers, "PROMPTS_PER_PART", 5)


def json_of(file: Path) -> Any:
    return json.loads(file.read_text())


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    mine, theirs = weights_of(one), weights_of(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def without_seconds(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rounds]


def test_rounds_follow_each_other(tree: dict[str, Any], finished: Path) -> None:
    summary = json_of(finished / "summary.json")
    first, second = rounds = summary["rounds"]
    assert [json_of(finished / f"round_{n}" / "round.json") for n in (1, 2)] == rounds
    assert (summary["steps"], summary["seed"], summary["algorithm"]) == (4, 3, "dpo")
    assert (summary["ended_because"], first["problems"], first["answers"], first["steps"]) == (None, 8, 32, 2)
    assert summary["generated_tokens"] == first["generated_tokens"] + second["generated_tokens"]
    assert 32 < first["generated_tokens"] <= 32 * 40
    assert first["pairs"] == len(lines_of(finished / "round_1" / "data" / "pairs.jsonl")) > 0
    assert summary["accuracy_before"] == first["accuracy_before"] is not None
    assert summary["accuracy_after"] == second["accuracy_after"] is not None

    # The weights that end a round begin the next one, and are evaluated once.
    recipes = [
        yaml.safe_load((finished / f"round_{n}" / "train" / "recipe.yaml").read_text()) for n in (1, 2)
    ]
    assert [recipe["model"]["path"] for recipe in recipes] == [
        tree["model"]["path"],
        str(finished / "round_1" / "train" / "final"),
    ]
    assert second["held_out_before"] == first["held_out_after"]
    assert [recipe["evaluation"]["at_start"] for recipe in recipes] == [True, False]
    settings = [json_of(finished / f"round_{n}" / "data" / "settings.json") for n in (1, 2)]
    assert [each["model"]["path"] for each in settings] == [recipe["model"]["path"] for recipe in recipes]
    assert settings[0]["run.seed"] == 3 != settings[1]["run.seed"]
    assert not same_weights(finished / "round_1" / "train" / "final", finished / "final")

    lines = lines_of(finished / "metrics.jsonl")
    assert [(line["step"], line["round"]) for line in lines] == [(0, 0), (2, 1), (4, 2)]
    assert [line["generated_tokens"] for line in lines] == [
        0,
        first["generated_tokens"],
        summary["generated_tokens"],
    ]
    assert {key for line in lines for key in line if meaning_of(key) is None} == set()
    accuracies = [line["eval/heldout/accuracy"] for line in lines]
    assert accuracies == [first["accuracy_before"], first["accuracy_after"], second["accuracy_after"]]
    assert (finished / "curves.png").exists()

    # The weights are on the disk once, and what nothing resumes from is gone.
    for file in ("model.safetensors", "tokenizer.json"):
        assert (finished / "final" / file).samefile(finished / "round_2" / "train" / "final" / file)
    assert not list(finished.rglob("checkpoints"))


def test_a_round_is_make_preferences_and_a_preference_run(
    tree: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    config = config_of(tree, tmp_path / "unused")
    online = OnlineConfig.model_validate(
        {name: tree[name] for name in ("run", "model", "data", "rollout", "reward", "logging")}
        | {"run": {**tree["run"], "output_dir": "unused"}}
    )
    make_preferences(online, tmp_path / "data", "best_worst", 0.0, rows_of_round(config, 1, 12))
    pairs = tmp_path / "data" / "pairs.jsonl"
    assert pairs.read_bytes() == (finished / "round_1" / "data" / "pairs.jsonl").read_bytes()
    names = ("run", "model", "rollout", "reward", "batch", "training", "evaluation", "logging")
    sections = {name: tree[name] for name in names}
    sections["run"] = {**tree["run"], "output_dir": tmp_path / "dpo"}
    sections["rollout"] = {"sampling": tree["rollout"]["sampling"]}
    sections["data"] = {"train": {"path": pairs}, "prompts": tree["data"]["prompts"]}
    assert train(PreferenceConfig.model_validate(sections)) is not None
    assert same_weights(tmp_path / "dpo" / "final", finished / "round_1" / "train" / "final")


def test_phases_in_processes_of_their_own_do_the_same(
    tree: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with vLLM, here with the embedded engine."""
    asked = []

    def recorded(what: str, function: Any, *arguments: Any) -> Any:
        asked.append(what)
        return in_own_process(what, function, *arguments)

    monkeypatch.setattr(memory, "VllmEngineConfig", HfEngineConfig)
    monkeypatch.setattr(memory, "in_own_process", recorded)
    summary = train_iterated.train_iterated(
        config_of(tree, tmp_path, rounds={"count": 1}, evaluation={"at_start": False})
    )
    assert summary is not None
    assert asked == ["sampling answers", "training"]
    pairs = [folder / "round_1" / "data" / "pairs.jsonl" for folder in (tmp_path, finished)]
    assert pairs[0].read_bytes() == pairs[1].read_bytes()
    assert same_weights(tmp_path / "final", finished / "round_1" / "train" / "final")


def test_what_is_finished_is_not_done_again(
    tree: dict[str, Any], copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = json_of(copied / "summary.json")
    times = {path: path.stat().st_mtime_ns for path in copied.rglob("round_*/**/*")}
    shutil.rmtree(copied / "final")  # as if the process had been killed before
    (copied / "round_2" / "train" / "checkpoints").mkdir()
    again = train_iterated.train_iterated(config_of(tree, copied, logging={"rollouts": "none"}))
    assert again == summary
    assert "all 2 rounds were made before; a higher rounds.count continues\n" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in times if path.is_file()} == {
        path: time for path, time in times.items() if path.is_file()
    }
    assert same_weights(copied / "final", copied / "round_2" / "train" / "final")
    assert not (copied / "round_2" / "train" / "checkpoints").exists()

    for sections, said in (
        (
            {"training": {"optimizer": {"lr": 0.1}}},
            r"other settings \(training\.optimizer\.lr; see .*settings",
        ),
        ({"rounds": {"count": 2, "problems": 7}, "pairs": {"margin": 0.5}}, "pairs.margin, rounds.problems"),
        ({"data": {**tree["data"], "shuffle": False}}, r"other settings \(data\.shuffle;"),
        (
            {"rounds": {"count": 1, "problems": 8}},
            r"^rounds\.count=1, but .* holds 2 finished rounds: choose",
        ),
        ({"run": {**tree["run"], "resume": "never"}}, "^run.resume is 'never', but .* holds rounds: choose"),
    ):
        with pytest.raises(ConfigError, match=said):
            train_iterated.train_iterated(config_of(tree, copied, **sections))
    assert json_of(copied / "summary.json") == summary


def test_folders_that_a_run_cannot_go_on_in(tree: dict[str, Any], copied: Path, tmp_path: Path) -> None:
    config = config_of(tree, copied)
    (copied / "round_1" / "round.json").rename(copied / "round_1" / "kept.json")
    with pytest.raises(ConfigError, match=r"round_2 exists, but round 1 is not finished, from which it came"):
        train_iterated.train_iterated(config)
    (copied / "round_1" / "kept.json").rename(copied / "round_1" / "round.json")
    (copied / "round_2" / "train" / "final").rename(copied / "elsewhere")
    with pytest.raises(ConfigError, match=r"round_2/train/final is gone, the weights of the last finished"):
        train_iterated.train_iterated(config)
    (copied / "round_2" / "round.json").write_text("{")
    with pytest.raises(
        DataError, match=r"round_2/round\.json: cannot be read .*: delete .*round_2, to repeat"
    ):
        train_iterated.train_iterated(config)
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"other holds another run \(checkpoints\), and no rounds: choose"):
        train_iterated.train_iterated(config_of(tree, other))
    with pytest.raises(ConfigError, match=r"^reference\.path='?.*nowhere"):
        train_iterated.train_iterated(config_of(tree, tmp_path / "new", reference={"path": "runs/nowhere"}))
    assert not (tmp_path / "new" / "round_1").exists(), "nothing is sampled before that"


def test_a_run_that_is_interrupted_everywhere_ends_as_one_that_is_not(
    tree: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tree, tmp_path / "run")
    first, second = tmp_path / "run" / "round_1", tmp_path / "run" / "round_2"
    write, step, note = sample_answers.write_rollouts, Trainer.step, train_iterated.write_json

    def write_with_ctrl_c(file: Path, *rest: Any) -> None:
        write(file, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sample_answers, "write_rollouts", write_with_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            train_iterated.train_iterated(config)
    assert len(list((first / "data" / "answers").iterdir())) == 1
    assert (before := json_of(first / "sampling.json")["seconds"]) > 0

    def note_with_ctrl_c(file: Path, row: Any) -> None:
        if file.name == "round.json":
            raise KeyboardInterrupt
        note(file, row)

    with monkeypatch.context() as patch:
        patch.setattr(train_iterated, "write_json", note_with_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            train_iterated.train_iterated(config)
    assert before < json_of(first / "sampling.json")["seconds"]
    assert (first / "train" / "summary.json").exists()
    assert not second.exists()

    def step_with_ctrl_c(run: Trainer) -> None:
        if run.config.run.output_dir == second / "train":
            os.kill(os.getpid(), signal.SIGTERM)
        step(run)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step_with_ctrl_c)
        assert train_iterated.train_iterated(config) is None
    assert (first / "round.json").exists()
    assert len(lines_of(second / "train" / "metrics.jsonl")) == 1
    assert not (second / "round.json").exists()

    summary = train_iterated.train_iterated(config)
    assert summary is not None
    uninterrupted = json_of(finished / "summary.json")
    assert without_seconds(summary["rounds"]) == without_seconds(uninterrupted["rounds"])
    assert same_weights(tmp_path / "run" / "final", finished / "final")


def test_more_rounds_and_one_that_has_nothing_to_learn_from(
    tree: dict[str, Any], copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_pairs(config: Any, folder: Path, choice: Any, margin: float, *rest: Any) -> AnswersReport:
        return make_preferences(
            config, folder, choice, 100.0 if folder.parent.name == "round_4" else margin, *rest
        )

    monkeypatch.setattr(train_iterated, "make_preferences", without_pairs)
    before = json_of(copied / "summary.json")["rounds"]
    config = config_of(tree, copied, rounds={"count": 5, "problems": 8})
    for _ in range(2):  # the same command ends in the same way
        summary = train_iterated.train_iterated(config)
        assert summary is not None
        assert summary["rounds"][:2] == before
        assert [row["round"] for row in summary["rounds"]] == [1, 2, 3]
        assert "round 4 has nothing to learn from: " in summary["ended_because"]
        assert "pairs.jsonl has no rows: 32 answers to 8 prompts" in summary["ended_because"]
        assert same_weights(copied / "final", copied / "round_3" / "train" / "final")
    with pytest.raises(DataError, match=r"round_1/data/pairs\.jsonl has no rows: 32 answers to 8 prompts"):
        train_iterated.train_iterated(config_of(tree, tmp_path / "other", pairs={"margin": 100.0}))


def test_labels_of_one_kind_are_nothing_to_learn_from(tree: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tree, tmp_path, algorithm={"kind": "kto"})
    report = AnswersReport(rows={"labels.jsonl": 2})
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"label": true}\n{"label": false}\n')
    train_iterated._require_examples(config, report, tmp_path)
    for word, kind in (("true", "good"), ("false", "bad")):
        labels.write_text(f'{{"label": {word}}}\n' * 2)
        with pytest.raises(NothingMadeError, match=f"all answers are {kind}, and KTO needs both kinds"):
            train_iterated._require_examples(config, report, tmp_path)


def test_a_reward_model_judges_the_answers_of_a_round(
    tree: dict[str, Any], tmp_path: Path, tiny_reward_model: Path
) -> None:
    mine = tmp_path / "reward_model"
    shutil.copytree(tiny_reward_model, mine)
    model = {"kind": "pointwise", "path": str(mine)}
    [function] = tree["reward"]["functions"]
    sections: dict[str, Any] = {
        "rounds": {"count": 1},
        "algorithm": {"kind": "kto"},
        "reward": {"functions": [function | {"weight": 0.0}], "overlong": {}},
        "evaluation": {"datasets": []},
    }
    nowhere = config_of(tree, tmp_path / "run", **sections, reward_model=model | {"path": "runs/no/where"})
    with pytest.raises(ConfigError, match=r"^reward_model\.path='runs/no/where': there is no such folder"):
        train_iterated.train_iterated(nowhere)
    assert not (tmp_path / "run" / "round_1").exists(), "nothing is sampled before that"
    config = config_of(tree, tmp_path / "run", **sections, reward_model=model)
    assert train_iterated.train_iterated(config) is not None
    data = tmp_path / "run" / "round_1" / "data"
    report, [row] = (
        json_of(data / "preferences_report.json"),
        json_of(tmp_path / "run" / "summary.json")["rounds"],
    )
    assert row["reward_model_accuracy"] == report["agreed"] / report["compared"]
    [line] = lines_of(tmp_path / "run" / "metrics.jsonl")
    assert line["reward_model/accuracy"] == row["reward_model_accuracy"]
    kept = [
        score for file in (data / "judged").glob("part_*") for s in json_of(file)["scores"] for score in s
    ]
    assert len(kept) == 32
    assert {line["reward"] for line in lines_of(data / "scores.jsonl")} <= set(kept), (
        "the verifier has no say"
    )
    assert row["labels"] == len(lines_of(data / "labels.jsonl")) > 0
    with pytest.raises(ConfigError, match=r"other settings \(reward_model\.weight; see"):
        train_iterated.train_iterated(
            config_of(tree, tmp_path / "run", **sections, reward_model=model | {"weight": 2.0})
        )
    (mine / "merges.txt").write_text("another tokenizer at the same place")
    with pytest.raises(ConfigError, match=r"other settings \(reward_model\.checkpoint; see"):
        train_iterated.train_iterated(config)


def test_the_problems_of_a_round(tree: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tree, tmp_path)
    rounds = [rows_of_round(config, number, 12) or [] for number in (1, 2, 3)]
    assert [len(set(rows)) for rows in rounds] == [8, 8, 8]
    assert {*rounds[0], *rounds[1]} == set(range(12)), "the second round begins with those that are left"
    assert rounds[0] != sorted(rounds[0])
    in_order = config_of(tree, tmp_path, data={**tree["data"], "shuffle": False})
    assert rows_of_round(in_order, 2, 12) == [8, 9, 10, 11, 0, 1, 2, 3]
    assert rows_of_round(in_order, 2, 8) is None
    assert rows_of_round(config_of(tree, tmp_path, rounds={"problems": None}), 2, 12) is None


def test_the_commands_take_iterated_recipes(
    tree: dict[str, Any],
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_of(tree, tmp_path / "run")
    inspect_data(config)
    said = capsys.readouterr().out
    assert "train: 12 rows read" in said
    assert "heldout: 5 rows read" in said
    [report] = evaluate_checkpoint(EvalConfig.of_training(config, str(finished / "final"))).reports
    assert report.accuracy == json_of(finished / "summary.json")["accuracy_after"]

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**tree, "run": {**tree["run"], "output_dir": str(tmp_path / "run")}}))

    def status(*arguments: str) -> Any:
        monkeypatch.setattr("sys.argv", ["reasoner-rl", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    asked: list[IteratedConfig] = []
    monkeypatch.setattr(train_iterated, "train_iterated", asked.append)
    assert status("train", str(recipe), "rounds.count=7") == 130
    assert asked[0].rounds.count == 7
    monkeypatch.setattr(train_iterated, "train_iterated", lambda config: {})
    assert status("train", str(recipe)) == 0
    assert status("data", "make-preferences", str(recipe), "--out", str(tmp_path / "x")) == 2
    assert "needs a recipe of kind online; " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"rollout": {"sampling": {"temperature": 0.0}}}, r"rollout\.sampling\.temperature must be above 0"),
        ({"rollout": {"responses_per_prompt": 1}}, r"must be at least 2 with algorithm\.kind dpo.*; it is 1"),
        (
            {"algorithm": {"kind": "kto"}, "pairs": {"margin": 0.5}},
            r"pairs\.margin 0\.5 has no effect with .*kto",
        ),
        (
            {"algorithm": {"kind": "kto"}, "batch": {"examples_per_step": 1}},
            r"examples_per_step must be at least 2",
        ),
        (
            {"algorithm": {"kind": "orpo"}, "reference": {"path": "m"}},
            r"reference is for algorithm\.kind dpo or",
        ),
        (
            {"algorithm": {"kind": "dpo", "reference": "precomputed"}, "reference": {"path": "m"}},
            r"algorithm\.reference must be 'live' with reference\.path; it is 'precomputed'",
        ),
        (
            {"evaluation": {"datasets": []}, "rollout": {"sync_check": "none"}},
            r"rollout\.sync_check 'none' has no",
        ),
        (
            {"reward_model": {"kind": "pointwise", "path": "m", "offload": "all"}},
            r"reward_model\.offload 'all' has no effect in an iterated recipe",
        ),
        (
            {"reward_model": {"kind": "pairwise", "path": "m", "opponents": 4}},
            r"reward_model\.opponents must be below rollout\.responses_per_prompt: 4 is not below 4",
        ),
        ({"checkpoint": {"export_at_end": False}}, r"checkpoint\.export_at_end must be true in an iterated"),
        ({"run": {"steps": 0}}, r"greater than or equal to 1"),
        (
            {"training": {"schedule": {"warmup_steps": 3}}},
            r"warmup_steps must not exceed run\.steps: 3 exceeds 2",
        ),
    ],
)
def test_rules(tree: dict[str, Any], tmp_path: Path, sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config_of(tree, tmp_path, **sections)


def test_the_recipe_of_a_rounds_training(tree: dict[str, Any], tmp_path: Path) -> None:
    tree = {**tree, "algorithm": {"kind": "kto"}, "reference": {"path": "first"}}
    config = config_of(tree, tmp_path, evaluation={"datasets": []}, run={"resume": "never"})
    made = config.training_of_round("w", Path("data"), Path("out"), evaluate_at_start=False)
    assert (made.run.output_dir, made.run.steps, made.run.resume) == (Path("out"), 2, "auto")
    assert (made.model.path, made.reference) == ("w", ReferenceConfig(path="first"))
    assert (made.data.train.path, made.data.max_response_tokens) == (Path("data/labels.jsonl"), 41)
    assert not made.generates
    single = config_of(tree, tmp_path, rollout={"responses_per_prompt": 1})
    assert single.rollout.responses_per_prompt == 1, "labels need no second answer"
