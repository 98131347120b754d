"""The comparison of baselines: what each method is, that all begin alike, and the whole command with a fake program."""

from __future__ import annotations

import os
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from finished_run import put_on_path, write_training

from reasoner_rl.config.load import load_recipe
from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.observability.summary import write_json
from reasoner_rl.trainer.folder import exclusive_folder

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
OUT = Path("out")
KINDS = {
    "SFT": ["sft"],
    "score-weighted SFT": ["score_weighted_sft"],
    "DPO": ["dpo"],
    "IPO": ["dpo"],
    "KTO": ["kto"],
    "ORPO": ["orpo"],
    "SimPO": ["simpo"],
    "iterated DPO": ["dpo", "dpo", "dpo"],
    "PPO (reward model)": ["pointwise", "ppo"],
    "PPO (rules)": ["ppo"],
    "RLOO": ["rloo"],
    "REINFORCE++": ["reinforce_plus_plus"],
    "GRPO": ["grpo"],
    "DAPO": ["dapo"],
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, as its own directory imports it."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import compare_baselines

    return compare_baselines


@pytest.fixture
def methods(script: Any) -> dict[str, Any]:
    """The methods that are reported, by name, from a start of their own for every seed."""
    *_, methods = script.plan(script.Start("start_{seed}"), OUT)
    return {method.name: method for method in methods}


def commands(method: Any, seed: int = 1) -> list[Any]:
    found = [] if method.needs is None else commands(method.needs, seed)
    return found + list(method.commands(seed, method.folder(seed, OUT)))


def recipe(command: Any) -> Any:
    """The configuration that a command asks for."""
    words = list(command.words)
    if words[1] == "data":
        assert Path(words[words.index("--out") + 1]) == command.folder
        keys = [word for word in words[words.index("--out") + 2 :] if "=" in word]
        return load_recipe(words[3], keys)
    config = load_recipe(Path(words[2]), words[3:])
    assert words[1] == ("sft" if config.recipe == "sft" else "train")
    assert config.run.output_dir == command.folder
    return config


def trained(method: Any, seed: int = 1) -> list[Any]:
    return [recipe(command) for command in commands(method, seed) if command.words[1] != "data"]


def test_help_installs_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        ["bash", SCRIPTS / "compare_baselines.sh", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"REASONER_RL_VENV": str(tmp_path / "venv")},
    )
    assert "bash scripts/compare_baselines.sh" in result.stdout
    assert "set -" not in result.stdout
    assert not (tmp_path / "venv").exists()


def test_the_methods_are_what_they_are_called(methods: dict[str, Any]) -> None:
    assert {
        name: [config.algorithm.kind for config in trained(method)] for name, method in methods.items()
    } == KINDS
    assert [trained(methods[name])[0].algorithm.objective for name in ("DPO", "IPO")] == ["sigmoid", "ipo"]
    by_model = trained(methods["PPO (reward model)"])[1]
    assert [function.weight for function in by_model.reward.functions] == [0.0]
    assert (
        by_model.reward_model.path == by_model.critic.path == "out/ppo_reward_model/seed_1/reward_model/final"
    )
    assert trained(methods["PPO (rules)"])[0].reward_model is None
    assert trained(methods["DAPO"])[0].algorithm.dynamic_sampling.enabled


def test_all_begin_alike_and_are_measured_alike(methods: dict[str, Any]) -> None:
    for method in methods.values():
        configs = trained(method)
        assert configs[0].model.path == "start_1/warm_start/final"
        last = configs[-1]
        assert [str(dataset.path) for dataset in last.evaluation.datasets] == ["start_1/data/heldout.jsonl"]
        assert last.evaluation.samples_per_prompt == 1
        assert last.evaluation_sampling == trained(methods["GRPO"])[0].evaluation_sampling
        assert last.evaluation_sampling.max_response_tokens == 96
        assert [function.fn for function in last.reward.functions] == ["reward_fns.math_answer:compute_score"]
        assert {(config.run.seed, config.run.threads) for config in configs} == {(1, 1)}
    sampled = [recipe(c) for m in methods.values() for c in commands(m) if c.words[1] == "data"]
    assert {str(config.data.train.path) for config in sampled} == {"start_1/data/train.jsonl"}
    assert {config.model.path for config in sampled} == {
        "start_1/warm_start/final",
        *(f"out/iterated_dpo/seed_1/round_{number}/train/final" for number in (1, 2)),
    }


def test_the_recipes_name_what_the_script_leaves(script: Any) -> None:
    """With the script's own folders and seed 0 the recipes can be run by themselves, and do the same."""
    out = Path("runs/baselines")
    *_, methods = script.plan(script.Start(str(out / "ladder")), out)
    alone = set()
    for method in methods:
        if method.name == "iterated DPO":  # a round has steps and data of its own
            continue
        for command in method.commands(0, method.folder(0, out)):
            if command.words[1] != "data":
                file = Path(command.words[2])
                assert load_recipe(file, ["run.threads=1"]) == recipe(command), file
                alone.add(file)
    assert alone == set((SCRIPTS / "baselines").glob("*.yaml"))


def test_methods_share_the_answers_of_the_start(methods: dict[str, Any]) -> None:
    data = {name: trained(method)[0].data.train.path for name, method in methods.items() if method.needs}
    folder = OUT / "answers" / "seed_1" / "data"
    assert data == {
        "SFT": folder / "sft.jsonl",
        "score-weighted SFT": folder / "scores.jsonl",
        "KTO": folder / "labels.jsonl",
        **dict.fromkeys(("DPO", "IPO", "ORPO", "SimPO"), folder / "pairs.jsonl"),
    }
    [pairs, examples, _] = commands(methods["SFT"])
    assert recipe(pairs) == recipe(examples)
    assert pairs.folder == examples.folder == folder
    assert (pairs.words[2], examples.words[2]) == ("make-preferences", "make-sft")
    assert [command.words[2] for command in commands(methods["DPO"])[:-1]] == ["make-preferences"]


def test_a_round_goes_on_from_the_last_one_with_other_problems(methods: dict[str, Any]) -> None:
    rounds = commands(methods["iterated DPO"])
    sampling, training = [recipe(c) for c in rounds[::2]], [recipe(c) for c in rounds[1::2]]
    ranges = [(config.data.train.start, config.data.train.limit) for config in sampling]
    assert all(start + limit == following for (start, limit), (following, _) in pairwise(ranges))
    assert [c.model.path for c in sampling] == [c.model.path for c in training]
    for command, config in zip(rounds[1::2], sampling[1:], strict=False):
        assert config.model.path == str(command.folder / "final")
    for command, config in zip(rounds[::2], training, strict=True):
        assert config.data.train.path == command.folder / "pairs.jsonl"
    assert [config.evaluation.at_start for config in training] == [True, False, False]


# Stands for reasoner-rl: of training it leaves what a finished run leaves, with an accuracy that depends on the recipe.
PROGRAM = """#!/bin/sh
echo "$@" >> "$LOG"
for word in "$@"; do
  case "$word" in run.output_dir=*) out=${word#run.output_dir=} ;; *.yaml) recipe=$(basename "$word" .yaml) ;; esac
done
if [ "$recipe" = "$FAILING" ]; then echo "$recipe fails"; exit 2; fi
if [ "$1" = data ]; then exit 0; fi
mkdir -p "$out"
case "$recipe" in reward_model|kto) kind=$recipe ;; *) kind=other ;; esac
cp -r "$FINISHED/$kind"/. "$out"
"""


def write_finished(folder: Path, accuracy: float | None) -> None:
    """What a run of one step leaves: two problems, ``accuracy`` of them right at the end; None: not evaluated."""
    rows: list[dict[str, float]] = [{"step": 0}, {"step": 1, "time/step": 3.0}]
    right = {} if accuracy is None else {0: 0.5, 1: accuracy}
    for step, share in right.items():
        rows[step]["eval/heldout/accuracy"] = share
    evaluations = {step: dict.fromkeys("pq", share) for step, share in right.items()}
    write_training(folder, "dpo_quickstart", rows, evaluations)


def test_the_whole_command(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing start is told, a failure keeps the seed out of the report, then all is there and run once."""
    for name, accuracy in (("other", 0.75), ("kto", 0.25), ("reward_model", None)):
        write_finished(tmp_path / "finished" / name, accuracy)
    put_on_path(monkeypatch, tmp_path, "reasoner-rl", PROGRAM)
    monkeypatch.setenv("FINISHED", str(tmp_path / "finished"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("FAILING", "simpo")
    start, out = tmp_path / "ladder", tmp_path / "out"
    options = script.parse(["--seeds", "0", "1", "--from", str(start), "--out", str(out)])
    assert options.jobs == 2
    with pytest.raises(
        ConfigError, match=r"ladder: no warm_start/final in it; run first: bash scripts/ladder\.sh"
    ):
        script.run(options)
    assert not out.exists()
    (start / "warm_start" / "final").mkdir(parents=True)
    with (
        exclusive_folder(out, "--out"),
        pytest.raises(ConfigError, match=r"^--out=.*: another run is writing"),
    ):
        script.run(options)

    with pytest.raises(
        UserError, match=r"^2 runs failed; the same command tries again:\nSimPO, seed 0; log in "
    ):
        script.run(options)
    assert not (out / "baselines.md").exists()
    monkeypatch.setenv("FAILING", "none")
    for _ in range(2):
        script.run(options)
    calls = (tmp_path / "log").read_text().splitlines()
    of_a_seed = 2 + 7 + 6 + 3 + 5  # answers, offline, rounds, reward model, online
    assert len(calls) == 2 + 2 * of_a_seed, "SimPO was called twice, all others once"
    assert [call.split()[1] for call in calls[:4]].count("make-preferences") == 2, (
        "answers come before methods"
    )
    text = (out / "baselines.md").read_text()
    lines = text.splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[3:17]] == list(KINDS)
    assert "| KTO | start | -25.0 | unknown | -25.0 to -25.0 | +0 | unknown |" in lines
    assert "| KTO | GRPO | -50.0 | unknown | -50.0 to -50.0 | +0 | unknown |" in lines
    assert lines[-1].startswith("Not shown to be better than the start (")
    assert lines[-1].endswith("): KTO.")
    assert text in capsys.readouterr().out
    assert (out / "baselines.png").read_bytes().startswith(b"\x89PNG")


def test_folders_are_the_same_however_they_are_written(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = script.parse(["--from", "a/../ladder_{seed}", "--out", "out"])
    assert (options.start, options.out) == (str(tmp_path / "ladder_{seed}"), tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigError, match=r"^--out=.*/file: must be a folder that can be written to: File exists"
    ):
        script.run(script.parse(["--out", "file"]))


def test_its_start_is_made_once_for_all_seeds(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then seeds whose data fail are left out, and the others go on."""
    out, called = tmp_path / "out", list[tuple[list[str], list[int]]]()

    def run_all(methods: Any, seeds: list[int], folder: Path, jobs: int) -> list[str]:
        called.append(([method.name for method in methods], list(seeds)))
        if len(called) == 1:
            [command] = methods[0].commands(0, Path("unused"))
            assert Path(command.words[1]) == SCRIPTS / "ladder.py"
            assert command.words[2:] == ("--seed", "0", "--out", str(out / "ladder"), "run.threads=1")
            write_json(out / "ladder" / "warm_start" / "summary.json", {"accuracy_after": 0.11})
        return ["answers, seed 5: failed"] if methods[0].name == "answers" else []

    def complete_seeds(methods: Any, seeds: list[int], folder: Path) -> list[int]:
        return [] if len(methods) > 1 else [seed for seed in seeds if seed != 5]

    monkeypatch.setattr(script, "run_all", run_all)
    monkeypatch.setattr(script, "complete_seeds", complete_seeds)
    with pytest.raises(UserError, match=r"^1 run failed; .*:\nanswers, seed 5: failed$"):
        script.run(script.parse(["--seeds", "4", "5", "6", "--out", str(out)]))
    assert called == [
        (["warm start"], [0]),
        (["answers"], [4, 5, 6]),
        (["right answers"], [4, 6]),
        (list(KINDS), [4, 6]),
    ]
    assert "the warm start answers 11.0% of the held-out problems, little more" in capsys.readouterr().out
