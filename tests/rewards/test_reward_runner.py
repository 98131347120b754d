"""The pool of verifier processes under functions that behave badly."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.config.reward import OverlongConfig, RewardConfig, RewardFunctionConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.rewards.process import dry_run
from reasoner_rl.rewards.runner import RewardRunner, RewardTask
from reasoner_rl.types import Reward

# Does what the response says.
PLUGIN = """
    import os, signal, subprocess, sys, time

    def obey(data_source, solution_str, ground_truth, extra_info, tail="", wrong_score=-1.0):
        word, _, rest = solution_str.partition(" ")
        if word == "sleep":
            time.sleep(float(rest))
        elif word == "spawn":
            child = subprocess.Popen(["sleep", "600"])
            with open(rest, "w") as file:
                file.write(f"{os.getpid()} {child.pid}")
            time.sleep(600)
        elif word == "exit":
            os._exit(int(rest))
        elif word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "sys.exit":
            sys.exit(1)
        elif word == "raise":
            raise RuntimeError(rest)
        elif word == "nothing":
            return None
        elif word == "print":
            print("x" * 100_000, flush=True)
            os.write(1, b"raw")
        elif word == "read":
            return {"score": 1.0, "pred": repr(sys.stdin.read())}
        elif word == "torch":
            return float("torch" in sys.modules)
        elif word == "level":
            return extra_info["level"]
        elif word == "pid":
            return {"score": 1.0, "pred": os.getpid()}
        return {"score": 1.0, "acc": solution_str == ground_truth, "pred": solution_str + tail}

    def length(data_source, solution_str, ground_truth, extra_info):
        return len(solution_str)
"""

RunnerFactory = Callable[..., RewardRunner]


@pytest.fixture
def runner_of(tmp_path: Path) -> Any:
    """Makes runners of the plug-in above, closed at the end."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(textwrap.dedent(PLUGIN))
    made: list[RewardRunner] = []

    def make(
        *functions: dict[str, Any],
        workers: int = 1,
        timeout: float = 30.0,
        reward: dict[str, Any] | None = None,
        **overlong: Any,
    ) -> RewardRunner:
        configs = [
            RewardFunctionConfig(**({"fn": f"{plugin}:obey"} | function)) for function in functions or ({},)
        ]
        config = RewardConfig(
            functions=configs,
            workers=workers,
            timeout_seconds=timeout,
            overlong=OverlongConfig(**overlong),
            **(reward or {}),
        )
        made.append(RewardRunner(config, max_response_tokens=100))
        return made[-1]

    yield make
    for runner in made:
        runner.close()


def tasks_of(*responses: str) -> list[RewardTask]:
    """Tasks that are all different, if only by a number that the plug-in does not read."""
    return [
        RewardTask("made_up", response, "right", {"number": number})
        for number, response in enumerate(responses)
    ]


def outcomes(rewards: list[Reward]) -> list[tuple[str, float, float | None]]:
    return [(reward.status, reward.score, reward.accuracy) for reward in rewards]


def gone(pid: int, within: float = 5.0) -> bool:
    """Whether a process ends (or is a zombie nobody reaped) in time, with all its threads."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            threads = list(Path(f"/proc/{pid}/task").iterdir())
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z" and len(threads) == 1:
            return True
        time.sleep(0.02)
    return False


def test_order_is_kept_and_progress_adds_up() -> None:
    responses = [f"Answer: {i}" for i in range(500)]
    tasks = [RewardTask("gsm8k", response, str(i - i % 2)) for i, response in enumerate(responses)]
    finished: list[int] = []
    with RewardRunner(RewardConfig(workers=2), max_response_tokens=100) as runner:
        rewards = runner.score(tasks, finished.append)
        assert runner.score([]) == []
    assert [reward.extracted for reward in rewards] == [str(i) for i in range(500)]
    assert [reward.accuracy for reward in rewards] == [1.0, 0.0] * 250
    assert sum(finished) == 500
    assert min(finished) > 0
    with pytest.raises(RuntimeError, match="closed"):
        runner.score(tasks)


def test_every_failure_touches_only_its_own_answer(
    runner_of: RunnerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    runner = runner_of(workers=2, timeout=0.5)
    bad = ["sleep 600", "exit 3", "kill", "raise oh", "sys.exit", "nothing", "exit 0"]
    responses = [word for index in range(7) for word in ("right", "print", bad[index], "wrong")]
    with caplog.at_level(logging.WARNING):
        rewards = runner.score(tasks_of(*responses))
    expected = {
        "right": ("ok", 1.0, 1.0),
        "wrong": ("ok", 1.0, 0.0),
        "print": ("ok", 1.0, 0.0),
        "sleep 600": ("timeout", -1.0, 0.0),
    }
    assert outcomes(rewards) == [expected.get(response, ("crash", -1.0, 0.0)) for response in responses]
    assert [r.extracted for r in rewards if r.status == "ok"] == [r for r in responses if r not in bad]
    warnings = [record.getMessage() for record in caplog.records]
    assert any("'obey' took longer than 0.5 s" in text for text in warnings)
    assert any("'obey' ended its process (exit status 3)" in text for text in warnings) or any(
        "'obey' ended its process (signal 9)" in text for text in warnings
    )
    assert any("'obey' raised RuntimeError: oh (" in text for text in warnings)
    assert outcomes(runner.score(tasks_of("right"))) == [("ok", 1.0, 1.0)]


def test_a_kind_of_failure_is_logged_once(runner_of: RunnerFactory, caplog: pytest.LogCaptureFixture) -> None:
    runner = runner_of()
    with caplog.at_level(logging.WARNING):
        runner.score(tasks_of(*[f"raise {i}" for i in range(20)]))
        runner.score(tasks_of("raise again"))
    assert len(caplog.records) == 1
    assert "raised RuntimeError: 0 (" in caplog.records[0].getMessage()
    assert "reward/crashes" in caplog.records[0].getMessage()


def test_the_deadline_is_one_answers_and_not_the_chunks(runner_of: RunnerFactory) -> None:
    runner = runner_of(timeout=0.6)
    start = time.monotonic()
    rewards = runner.score(tasks_of(*["sleep 0.1"] * 16))
    assert time.monotonic() - start > 1.6  # in chunks of 8, which take longer than the deadline
    assert {reward.status for reward in rewards} == {"ok"}


def test_a_verdict_that_was_late_does_not_count_however_late_it_is_read(runner_of: RunnerFactory) -> None:
    pauses = iter([1.2])

    def slow_reader(_: int) -> None:
        time.sleep(next(pauses, 0.0))

    rewards = runner_of(timeout=0.5).score(tasks_of("right", "sleep 0.8", "right", "right"), slow_reader)
    assert [reward.status for reward in rewards] == ["ok", "timeout", "ok", "ok"]


def test_a_starting_process_holds_nobody_up(runner_of: RunnerFactory, tmp_path: Path) -> None:
    runner = runner_of(workers=2, timeout=0.5)
    with (tmp_path / "plugin.py").open("a") as plugin:
        plugin.write("\nimport time; time.sleep(3)\n")  # when it is loaded again
    start = time.monotonic()
    late, right, *ended = runner.score(tasks_of("sleep 1.5", "right", "exit 1", "exit 1"))
    assert time.monotonic() - start < 8, "replacements started one after the other, four in all"
    assert (late.status, right.status, {reward.status for reward in ended}) == ("timeout", "ok", {"crash"})


def test_a_function_that_no_longer_loads_ends_the_call(runner_of: RunnerFactory, tmp_path: Path) -> None:
    runner = runner_of()
    (tmp_path / "plugin.py").write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(ConfigError, match="ZeroDivisionError"):
            runner.score(tasks_of("exit 1", "right"))


def test_the_same_processes_serve_responses_of_another_length(runner_of: RunnerFactory) -> None:
    runner = runner_of(buffer_tokens=20)
    task = RewardTask("x", "pid", "", response_tokens=90)
    (short,), (long,) = runner.score([task]), runner.for_evaluation(1000).score([task])
    assert (short.components["overlong"], long.components["overlong"]) == (-0.5, 0.0)
    assert short.extracted == long.extracted
    other = runner.for_evaluation(1000)
    runner.close()
    with pytest.raises(RuntimeError, match="closed"):
        other.score([task])


def test_weights_parameters_and_overlong(runner_of: RunnerFactory, tmp_path: Path) -> None:
    runner = runner_of(
        {"weight": 2.0, "parameters": {"tail": "!"}},
        {"fn": f"{tmp_path}/plugin.py:length", "name": "size", "weight": 0.5},
        buffer_tokens=20,
        mask_truncated=True,
    )
    (reward,) = runner.score([RewardTask("x", "right", "right", {}, response_tokens=90, truncated=True)])
    assert reward == Reward(
        score=2.0 + 0.5 * 5 - 0.5,
        accuracy=1.0,
        components={"obey": 1.0, "size": 5.0, "overlong": -0.5},
        extracted="right!",
        trained=False,
    )


def test_a_failing_function_leaves_the_others_results(runner_of: RunnerFactory, tmp_path: Path) -> None:
    length = {"fn": f"{tmp_path}/plugin.py:length"}
    runner = runner_of(length, {"parameters": {"wrong_score": -3.0}}, timeout=0.5)
    rewards = runner.score(tasks_of("raise x", "exit 1", "sleep 9"))
    assert outcomes(rewards) == [("crash", 4.0, None), ("crash", 3.0, None), ("timeout", 4.0, None)]
    assert rewards[0].components == {"length": 7.0, "obey": -3.0, "overlong": 0.0}
    # Those behind a failing one run too, after a death in the next process.
    runner = runner_of({}, length)
    assert outcomes(runner.score(tasks_of("raise x", "exit 1"))) == [
        ("crash", 6.0, 0.0),
        ("crash", 5.0, 0.0),
    ]


def test_a_failure_never_scores_above_the_verdicts_of_its_group(
    runner_of: RunnerFactory, tmp_path: Path
) -> None:
    """Scores far below -1, as of a verifier that gives -5 for wrong and 0 for right."""
    (tmp_path / "deep.py").write_text(
        "def deep(solution_str, **_):\n"
        "    if solution_str == 'raise':\n        raise RuntimeError\n"
        "    return {'score': 0.0 if solution_str == 'right' else -5.0, 'acc': solution_str == 'right'}\n"
    )
    texts = ["wrong", "raise", "wrong", "right", "raise", "right", "raise"]
    groups = [0, 0, 0, 1, 1, 2, None]
    tasks = [RewardTask("x", text, "t", group=group) for text, group in zip(texts, groups, strict=True)]
    deep = {"fn": f"{tmp_path}/deep.py:deep"}
    assert [reward.score for reward in runner_of(deep).score(tasks)] == [-5, -5, -5, 0, -1, 0, -1]
    deep = {**deep, "failure_score": -7.0}
    assert [reward.score for reward in runner_of(deep).score(tasks)] == [-5, -7, -5, 0, -7, 0, -7]


def test_what_a_worker_sees(runner_of: RunnerFactory) -> None:
    runner = runner_of()
    torch, stdin, level = runner.score(
        [*tasks_of("torch", "read"), RewardTask("x", "level", "", extra_info={"level": 4})]
    )
    assert torch.score == 0.0  # a worker that imports torch takes seconds to start
    assert stdin.extracted == "''"
    assert level.score == 4.0


def test_workers_persist_and_one_that_died_idle_costs_no_answer(runner_of: RunnerFactory) -> None:
    runner = runner_of()
    first, second = runner.score(tasks_of("pid", "pid"))
    (third,) = runner.score(tasks_of("pid"))
    assert first.extracted == second.extracted == third.extracted
    pid = int(third.extracted or 0)
    os.kill(pid, signal.SIGINT)  # Ctrl-C is for the parent
    assert runner.score(tasks_of("pid"))[0].extracted == str(pid)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    (after,) = runner.score(tasks_of("pid"))
    assert after.status == "ok"
    assert after.extracted != str(pid)


def test_a_deadline_takes_along_what_the_function_started(runner_of: RunnerFactory, tmp_path: Path) -> None:
    (reward,) = runner_of(timeout=0.5).score(tasks_of(f"spawn {tmp_path}/pids"))
    assert reward.status == "timeout"
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_an_interrupted_call_leaves_nothing_to_the_next(runner_of: RunnerFactory) -> None:
    runner = runner_of(workers=2)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.score(tasks_of(*["wrong"] * 50), interrupt)
    assert {reward.extracted for reward in runner.score(tasks_of(*["right"] * 50))} == {"right"}


@pytest.mark.parametrize(
    ("source", "fn", "said"),
    [
        ("def score(**_): return 1", "scor", "Did you mean 'score'?"),
        ("import os; os._exit(5)", "f", "ended their process (exit status 5)"),
        ("def score(**_): return 1", "score", "'score' is the name of a metric"),
    ],
)
def test_functions_that_cannot_be_used_are_refused_at_the_start(
    source: str, fn: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.py").write_text(source)
    config = RewardConfig(functions=[RewardFunctionConfig(fn=f"{tmp_path}/bad.py:{fn}")])
    with pytest.raises(ConfigError) as error:
        RewardRunner(config, 100)
    assert said in str(error.value)


def test_workers_die_with_their_parent(runner_of: RunnerFactory, tmp_path: Path) -> None:
    runner_of()  # writes the plug-in
    program = f"""
        import sys
        sys.path[:] = {sys.path!r}
        from reasoner_rl.config.reward import RewardConfig, RewardFunctionConfig
        from reasoner_rl.rewards.runner import RewardRunner, RewardTask
        function = RewardFunctionConfig(fn="{tmp_path}/plugin.py:obey")
        runner = RewardRunner(RewardConfig(functions=[function], workers=1, timeout_seconds=600), 100)
        runner.score([RewardTask("x", "spawn {tmp_path}/pids", "")])
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    try:
        pids = tmp_path / "pids"
        end = time.monotonic() + 60
        while not (pids.exists() and " " in pids.read_text()):
            assert parent.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def third(config: RewardConfig) -> tuple[float | None, float | None]:
    """Accuracy of 0.333333 for 1/3, in training and in evaluation."""
    task = RewardTask("aime", "Answer: 0.333333", "1/3", {})
    with RewardRunner(config, 100) as runner:
        (trained,), (evaluated,) = runner.score([task]), runner.for_evaluation(100).score([task])
        assert runner.score([task])[0].accuracy == trained.accuracy
    return trained.accuracy, evaluated.accuracy


def test_evaluation_has_parameters_of_its_own(tmp_path: Path) -> None:
    assert third(RewardConfig(workers=1)) == (0.0, 1.0)
    strict = RewardFunctionConfig(fn="reward_fns:compute_score", evaluation_parameters={})
    assert third(RewardConfig(functions=[strict], workers=1)) == (0.0, 0.0)
    own = tmp_path / "own.py"
    own.write_text(
        "def judge(data_source, solution_str, ground_truth, extra_info, right=False):\n"
        "    return {'score': 1.0 if right else 0.0, 'acc': right}\n"
    )
    mine = RewardFunctionConfig(fn=f"{own}:judge")
    assert mine.evaluation_parameters == {}
    assert third(RewardConfig(functions=[mine], workers=1)) == (0.0, 0.0)
    mine = RewardFunctionConfig(fn=f"{own}:judge", evaluation_parameters={"right": True})
    assert third(RewardConfig(functions=[mine], workers=1)) == (0.0, 1.0)


def test_parameters_for_evaluation_that_a_function_does_not_take_are_an_error(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("def judge(data_source, solution_str, ground_truth, extra_info):\n    return 1.0\n")
    function = RewardFunctionConfig(fn=f"{own}:judge", evaluation_parameters={"long_decimals": True})
    with pytest.raises(ConfigError, match="long_decimals"):
        dry_run(RewardConfig(functions=[function]))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ({"fn": "reward_fns:compute_score"}, {"long_decimals": True}),
        ({"fn": "reward_fns.math_answer:compute_score"}, {"long_decimals": True}),
        ({"fn": "reward_fns:compute_score", "parameters": {"long_decimals": False}}, {}),
        ({"fn": "reward_fns:compute_score", "evaluation_parameters": {}}, {}),
        ({"fn": "reward_fns.countdown:compute_score"}, {}),
        ({"fn": "own.py:compute_score"}, {}),
    ],
)
def test_which_functions_are_lenient_in_evaluation(
    function: dict[str, Any], expected: dict[str, Any]
) -> None:
    made = RewardFunctionConfig(**function)
    assert made.evaluation_parameters == expected
    assert RewardFunctionConfig.model_validate(made.model_dump()) == made
    config = RewardConfig(functions=[made])
    assert config.functions[0].parameters == function.get("parameters", {})
    assert config.for_evaluation().functions[0].parameters == {**function.get("parameters", {}), **expected}
