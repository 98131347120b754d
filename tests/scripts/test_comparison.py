"""A comparison runs every command once, resumes, and reads tokens, seconds and accuracies off what runs left."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from finished_run import put_on_path, write_training

from reasoner_rl.errors import ConfigError, DataError

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

# Notes its words; fails if $FAILING exists and they hold "bad"; "long" ones wait for Ctrl-C until $GO exists.
PROGRAM = """#!/bin/sh
echo "$@" >> "$LOG"
case "$*" in
  *bad*) if [ -e "$FAILING" ]; then echo "what went wrong"; exit 3; fi ;;
  *long*) trap 'exit 130' INT; while [ ! -e "$GO" ]; do sleep 0.02; done ;;
esac
"""


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, as the scripts import it."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import comparison

    return comparison


class Program:
    """The fake program, and what it was called with."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log, self.failing, self.go = folder / "log", folder / "failing", folder / "go"
        put_on_path(monkeypatch, folder, "fake", PROGRAM)
        for name, path in (("LOG", self.log), ("FAILING", self.failing), ("GO", self.go)):
            monkeypatch.setenv(name, str(path))

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    return Program(tmp_path, monkeypatch)


@pytest.fixture
def method(comparison: Any) -> Callable[..., Any]:
    """Makes a method of the fake program's calls; {seed} in a word stands for the seed."""

    def make(name: str, *calls: str) -> Any:
        def commands(seed: int, folder: Path) -> Sequence[Any]:
            return [
                comparison.Command(("fake", *call.format(seed=seed).split()), folder / str(number))
                for number, call in enumerate(calls)
            ]

        return comparison.Method(name, commands)

    return make


def test_commands_run_in_order_and_once(
    comparison: Any, program: Program, method: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods, out = (
        [method("+ DPO, once", "sample {seed}", "train {seed}"), method("GRPO", "grpo {seed}")],
        tmp_path / "o",
    )
    assert comparison.complete_seeds(methods, [4, 2], out) == []
    assert comparison.run_all(methods, [4, 2], out, jobs=1) == []
    assert program.calls() == ["sample 4", "train 4", "grpo 4", "sample 2", "train 2", "grpo 2"]
    assert "[3/4] + DPO, once, seed 2: " in capsys.readouterr().out
    record = json.loads((out / "dpo_once" / "seed_2" / "commands.json").read_text())
    assert record["commands"] == [["fake", "sample", "2"], ["fake", "train", "2"]]
    assert (record["finished"], len(record["seconds"])) == (2, 2)
    assert comparison.run_all(methods, [4, 2], out, jobs=1) == []
    assert len(program.calls()) == 6
    assert comparison.complete_seeds(methods, [4, 2, 1], out) == [4, 2]


def test_another_run_in_the_folder_is_refused_before_anything_runs(
    comparison: Any, program: Program, method: Any, tmp_path: Path
) -> None:
    comparison.run_all([method("GRPO", "grpo lr=1")], [0], tmp_path, jobs=1)
    methods = [method("DPO", "dpo"), method("GRPO", "grpo lr=2")]
    with pytest.raises(
        ConfigError, match=r"grpo/seed_0 holds a run by other commands than asked for \(lr=2; see"
    ):
        comparison.run_all(methods, [0], tmp_path, jobs=1)
    assert program.calls() == ["grpo lr=1"]


def test_a_failure_is_told_and_does_not_stop_the_others(
    comparison: Any, program: Program, method: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.failing.touch()
    methods, out = [method("A", "first", "bad", "last"), method("B", "other")], tmp_path / "out"
    [failure] = comparison.run_all(methods, [0], out, jobs=2)
    log = out / "a" / "seed_0" / "log.txt"
    assert failure == f"A, seed 0; log in {log}"
    said = capsys.readouterr()
    assert f"A, seed 0: exit status 3 of: fake bad\nThe end of {log}:\nwhat went wrong\n" in said.err
    assert f"A, seed 0 begins; log in {log}\n" in said.out
    assert sorted(program.calls()) == ["bad", "first", "other"]
    assert comparison.complete_seeds(methods, [0], out) == []
    program.failing.unlink()
    assert comparison.run_all(methods, [0], out, jobs=2) == []
    assert program.calls()[3:] == ["bad", "last"]
    said = capsys.readouterr()
    assert f"A, seed 0 resumes; log in {log}\n" in said.out
    assert "] B, seed 0: finished before\n" in said.out
    [_] = comparison.run_all(
        [comparison.Method("C", lambda *_: [comparison.Command(("no-such-program",), out)])], [0], out, 1
    )
    assert "C, seed 0: no-such-program cannot be started: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_all_and_the_next_call_resumes(
    number: int,
    comparison: Any,
    program: Program,
    method: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a test run may ignore it, as nohup does
    methods = [method("A", "first", "long a"), method("B", "long b"), method("C", "short")]

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while not {"long a", "long b"} <= set(program.calls()) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            comparison.run_all(methods, [0], tmp_path / "out", jobs=2)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ("after their current step" in capsys.readouterr().out) == (number == signal.SIGINT)
    assert sorted(program.calls()) == ["first", "long a", "long b"]
    record = json.loads((tmp_path / "out" / "a" / "seed_0" / "commands.json").read_text())
    assert (record["finished"], len(record["seconds"])) == (1, 2)
    assert not (tmp_path / "out" / "c").exists()
    program.go.touch()
    assert comparison.run_all(methods, [0], tmp_path / "out", jobs=2) == []
    assert sorted(program.calls()[3:]) == ["long a", "long b", "short"]


def test_a_signal_stops_all_where_nobody_reads_the_output(
    comparison: Any, program: Program, method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `| tee log`, where Ctrl-C ends tee too."""
    processes = comparison.Processes()

    def broken(*_: Any, **__: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", broken)
    processes._stop(signal.SIGINT, None)
    assert processes.stopping
    with pytest.raises(comparison.Stopped):
        processes.run(("fake", "first"), tmp_path / "log.txt")
    assert program.calls() == []


def by_step(step: int) -> tuple[float, float]:
    return 30.0 + step, 0.01 * step


def set_seconds(folder: Path, seconds: list[float]) -> None:
    """Set how long the commands of a finished run took."""
    record = json.loads((folder / "commands.json").read_text())
    assert len(record["seconds"]) == len(seconds)
    (folder / "commands.json").write_text(json.dumps({**record, "seconds": seconds}))


def sampled(
    monkeypatch: pytest.MonkeyPatch, comparison: Any, folder: Path, tokens: dict[str, list[int]]
) -> None:
    """Files of answers in ``folder``, of so many tokens each."""

    class Column(list[int]):
        to_pylist = list[int].copy

    (folder / "answers").mkdir(parents=True)
    for name in tokens:
        (folder / "answers" / name).touch()
    monkeypatch.setattr(comparison, "read_rollouts", lambda file: {"tokens": Column(tokens[file.name])})


ROWS: list[dict[str, Any]] = [
    {"step": 0, "eval/heldout/accuracy": 0.25},
    {
        "step": 1,
        "time/step": 2.0,
        "groups/generated": 40.0,
        "groups/kept": 32.0,
        "response/length_mean": 20.0,
    },
    {
        "step": 2,
        "time/step": 3.0,
        "groups/generated": 60.0,
        "groups/kept": 18.0,
        "response/length_mean": 30.5,
    },
    {"step": 2, "eval/heldout/accuracy": 0.75, "time/evaluate": 9.0},
]


def test_an_online_run_counts_all_that_it_generated(
    comparison: Any, program: Program, method: Any, tmp_path: Path
) -> None:
    grpo = method("GRPO", "grpo")
    comparison.run_all([grpo], [5], tmp_path, jobs=1)
    set_seconds(tmp_path / "grpo" / "seed_5", [20.0])
    write_training(
        tmp_path / "grpo/seed_5/0",
        "ladder_dapo",
        ROWS,
        {0: {"p": 0.0, "q": 0.5}, 2: {"p": 1.0, "q": 0.5}},
        by_step,
    )
    [outcome] = comparison.collect([grpo], [5], tmp_path)["GRPO"]
    assert outcome.curve == (
        comparison.Point(0, 0.25, 0, 6.0),
        comparison.Point(2, 0.75, 40 * 8 * 20 + 60 * 8 * 30.5, 11.0),
    ), "20 s, of which 5 in steps and 9 in the evaluation; the others are before the first step"
    assert outcome.end == outcome.curve[1]
    assert (outcome.seed, outcome.before, outcome.after) == (5, {"p": 0.0, "q": 0.5}, {"p": 1.0, "q": 0.5})
    assert (outcome.response_tokens, outcome.truncated_share, outcome.used_share) == (32.0, 0.02, 0.5)


def test_sampled_answers_count_and_rounds_go_on_where_the_last_one_ended(
    comparison: Any, program: Program, method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dpo = method("DPO", "sample", "dpo", "sample", "dpo")
    comparison.run_all([dpo], [0], tmp_path, jobs=1)
    folder = tmp_path / "dpo" / "seed_0"
    set_seconds(folder, [10.0, 9.0, 20.0, 4.0])
    tokens = {"part_00000.parquet": [10, 20], "part_00001.parquet": [30]}
    for number in (0, 2):
        sampled(monkeypatch, comparison, folder / str(number), tokens)
    for number, accuracy in ((1, 0.5), (3, 1.0)):
        rows = [{"step": 0, "eval/heldout/accuracy": accuracy - 0.5}, {"step": 1, "time/step": 2.0}]
        rows.append({"step": 1, "eval/heldout/accuracy": accuracy})
        write_training(
            folder / str(number), "dpo_quickstart", rows, {0: {"p": accuracy - 0.5}, 1: {"p": accuracy}}
        )
    outcome = comparison.read_outcome(dpo, 0, tmp_path)
    assert outcome.curve == (
        comparison.Point(0, 0.0, 60, 17.0),
        comparison.Point(1, 0.5, 60, 19.0),
        comparison.Point(1, 0.5, 120, 41.0),
        comparison.Point(2, 1.0, 120, 43.0),
    )
    assert (outcome.before, outcome.after, outcome.used_share) == ({"p": 0.0}, {"p": 1.0}, None)


def test_what_a_method_needs_costs_it_once(
    comparison: Any, program: Program, method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands of the needed data use one folder of answers; training without an evaluation comes before."""
    data = tmp_path / "data"
    shared = comparison.Method(
        "data", lambda *_: [comparison.Command(("fake", word), data) for word in ("sample", "choose")]
    )
    base = method("PPO", "judge", "ppo")
    ppo = comparison.Method("PPO", base.commands, needs=shared)
    for each in (shared, ppo):
        comparison.run_all([each], [0], tmp_path, jobs=1)
    set_seconds(tmp_path / "data" / "seed_0", [10.0, 5.0])
    set_seconds(tmp_path / "ppo" / "seed_0", [30.0, 20.0])
    sampled(monkeypatch, comparison, data, {"part_00000.parquet": [100, 11]})
    judge, trained = tmp_path / "ppo" / "seed_0" / "0", tmp_path / "ppo" / "seed_0" / "1"
    write_training(judge, "rm_pointwise_quickstart", [{"step": 3, "time/step": 4.0}], {})
    write_training(trained, "ladder_dapo", ROWS, {0: {"p": 0.0}, 2: {"p": 1.0}})
    outcome = comparison.read_outcome(ppo, 0, tmp_path)
    assert outcome.curve == (
        comparison.Point(3, 0.25, 111, 10.0 + 5.0 + 30.0 + 6.0),
        comparison.Point(5, 0.75, 111 + 40 * 8 * 20 + 60 * 8 * 30.5, 56.0),
    )
    assert (outcome.before, outcome.after) == ({"p": 0.0}, {"p": 1.0})


def test_a_run_that_was_not_evaluated_at_its_end_is_refused(
    comparison: Any, program: Program, method: Any, tmp_path: Path
) -> None:
    grpo = method("GRPO", "grpo")
    comparison.run_all([grpo], [0], tmp_path, jobs=1)
    write_training(tmp_path / "grpo/seed_0/0", "ladder_dapo", ROWS[:3], {0: {"p": 0.0}})
    with pytest.raises(DataError, match="the start and the end must both be evaluated"):
        comparison.collect([grpo], [0], tmp_path)
