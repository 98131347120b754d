"""Kinds of functions: sync and async, one answer or a batch; and the dry run, which nothing can hang."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.config.reward import RewardConfig, RewardFunctionConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.rewards.contract import Answer, FunctionResult
from reasoner_rl.rewards.process import dry_run
from reasoner_rl.rewards.runner import RewardRunner, RewardTask

PLUGIN = '''
import asyncio, os, time

def length(data_source, solution_str, ground_truth, extra_info=None):
    return len(solution_str)

async def patient(data_source, solution_str, ground_truth, extra_info, factor=1.0):
    await asyncio.sleep(0.01)
    return {"score": factor * len(solution_str), "pred": id(asyncio.get_running_loop())}

async def hanging(**_):
    await asyncio.sleep(600)

def batch(data_sources, solution_strs, ground_truths, extra_infos, bonus=0.0):
    """verl's batch signature."""
    if "exit" in solution_strs:
        os._exit(3)
    if "raise" in solution_strs:
        raise RuntimeError("one of them")
    if "short" in solution_strs:
        return [0.0] * (len(solution_strs) - 1)
    if "sleep" in solution_strs:
        time.sleep(600)
    return [
        {"score": len(text) + bonus, "acc": text == truth, "size": len(solution_strs), "n": info.get("n", 0)}
        for text, truth, info in zip(solution_strs, ground_truths, extra_infos, strict=True)
    ]

async def together(data_sources, solution_strs, ground_truths, extra_infos):
    async def one(text):
        await asyncio.sleep(0.3)
        return len(text)
    return await asyncio.gather(*map(one, solution_strs))

def by_keyword(**everything):
    return [1.0] * len(everything["solution_strs"])

class Judge:
    def __call__(self, data_source, solution_str, ground_truth, extra_info):
        return 0.5
judge = Judge()

def first_hangs(**_): time.sleep(600)
def first_exits(**_): os._exit(4)
def closes_all(**_): os.closerange(3, 200)
def writes_elsewhere(**_):
    for descriptor in range(3, 100):
        try:
            os.write(descriptor, b"\\x00\\x00\\x00\\x05hello" * 10)
        except OSError:
            pass
def is_killed(**_): os.kill(os.getpid(), 9)
def first_raises(**_): raise RuntimeError("bad")
def interrupts(**_): raise KeyboardInterrupt
def too_big(**_): return bytearray(20 << 30)
def returns_text(**_): return "1.0"
def forks(**_):
    os.fork()
    return 1.0
def batch_of_none(data_sources, solution_strs, ground_truths, extra_infos): return None
def batch_one_short(data_sources, solution_strs, ground_truths, extra_infos): return [1.0]
def batch_of_text(data_sources, solution_strs, ground_truths, extra_infos): return ["a", "b"]
def batch_other_names(solution_strs, truths): return []
'''
Make = Callable[..., RewardConfig]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes reward configurations of the plug-in's functions."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)

    def make(*functions: str | dict[str, Any], **reward: Any) -> RewardConfig:
        named = [{"fn": f} if isinstance(f, str) else f for f in functions]
        configs = [RewardFunctionConfig(**{**f, "fn": f"{plugin}:{f['fn']}"}) for f in named]
        return RewardConfig(functions=configs, **{"workers": 1, **reward})

    return make


def tasks_of(*responses: str) -> list[RewardTask]:
    """Tasks that are all different."""
    return [
        RewardTask("made_up", response, "right", {"n": number}) for number, response in enumerate(responses)
    ]


def test_async_functions_run_on_one_loop(make: Make) -> None:
    with RewardRunner(make({"fn": "patient", "parameters": {"factor": 2.0}}), 1) as runner:
        rewards = runner.score(tasks_of("a", "bb", "ccc"))
    assert [reward.score for reward in rewards] == [2.0, 4.0, 6.0]
    assert len({reward.extracted for reward in rewards}) == 1  # a client's connections stay open


def test_the_deadline_is_an_async_functions_too(make: Make) -> None:
    with RewardRunner(make("hanging", timeout_seconds=0.5), 1) as runner:
        assert [reward.status for reward in runner.score(tasks_of("a", "b"))] == ["timeout", "timeout"]


def test_a_batch_function_gets_lists_and_its_results_are_put_in_order(make: Make) -> None:
    config = make({"fn": "batch", "parameters": {"bonus": 0.5}}, workers=2, batch_size=8)
    responses = ["x" * number for number in range(1, 41)]
    finished: list[int] = []
    with RewardRunner(config, 1) as runner:
        rewards = runner.score([*tasks_of(*responses), RewardTask("x", "right", "right")], finished.append)
    assert [reward.score for reward in rewards] == [number + 0.5 for number in range(1, 41)] + [5.5]
    assert [reward.components["batch/n"] for reward in rewards] == [*range(40), 0]
    assert [reward.accuracy for reward in rewards] == [0.0] * 40 + [1.0]
    assert {reward.components["batch/size"] for reward in rewards} == {8.0, 1.0}
    assert sum(finished) == 41


def test_a_small_batch_is_shared_among_the_workers(make: Make) -> None:
    with RewardRunner(make("batch", workers=2), 1) as runner:
        rewards = runner.score(tasks_of(*"abcdefgh"))
    assert [reward.components["batch/size"] for reward in rewards] == [4.0] * 8


@pytest.mark.parametrize("misdeed", ["exit", "raise", "short"])
def test_a_batch_that_fails_is_judged_again_one_by_one(misdeed: str, make: Make) -> None:
    with RewardRunner(make("batch", timeout_seconds=20), 1) as runner:
        rewards = runner.score(tasks_of("a", "bb", misdeed, "ccc"))
    assert [reward.status for reward in rewards] == ["ok", "ok", "crash", "ok"]
    assert [reward.score for reward in rewards] == [1.0, 2.0, -1.0, 3.0]


def test_the_deadline_of_a_batch_function_is_the_batchs(make: Make) -> None:
    start = time.monotonic()
    with RewardRunner(make("batch", timeout_seconds=2.0, batch_size=2), 1) as runner:
        rewards = runner.score(tasks_of("a", "sleep", "b", "c"))
    assert [reward.status for reward in rewards] == ["timeout", "timeout", "ok", "ok"]
    assert time.monotonic() - start < 12


def test_an_async_batch_function_works_on_all_at_once(make: Make) -> None:
    start = time.monotonic()
    with RewardRunner(make("together"), 1) as runner:
        rewards = runner.score(tasks_of(*["x"] * 30))
    assert [reward.score for reward in rewards] == [1.0] * 30
    assert time.monotonic() - start < 5  # one after the other: 9 s


def test_kinds_are_mixed_with_weights(make: Make) -> None:
    config = make(
        {"fn": "length", "weight": 2.0},
        {"fn": "batch", "weight": 0.5},
        {"fn": "patient", "weight": 1.0},
        {"fn": "by_keyword", "batch": True, "weight": 10.0},
        {"fn": "judge", "weight": 100.0},
        batch_size=3,
    )
    responses = ["x" * number for number in range(1, 21)]
    with RewardRunner(config, 1) as runner:
        rewards = runner.score(tasks_of(*responses, "exit"))
    assert [reward.score for reward in rewards[:20]] == [3.5 * number + 60 for number in range(1, 21)]
    assert rewards[20].components["length"] == rewards[20].components["patient"] == 4.0
    assert (rewards[20].status, rewards[20].components["batch"]) == ("crash", -1.0)


def test_the_dry_run_returns_what_the_functions_say(make: Make) -> None:
    names = ("length", "patient", "batch", "together", "judge", "forks")
    results = dry_run(make(*names), Answer("x", "four", "four", {"n": 3}))
    assert [result.score for result in results] == [4.0, 4.0, 4.0, 4.0, 0.5, 1.0]
    assert results[2] == FunctionResult(4.0, 1.0, None, {"size": 2.0, "n": 3.0})  # with the empty response


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        ("first_hangs", "took longer than twice reward.timeout_seconds=0.5 on two test calls"),
        ("first_exits", "ended its process on a test call (exit status 4)"),
        ("is_killed", "ended its process on a test call (signal 9)"),
        ("closes_all", "wrote to a file descriptor that is not its own, or closed one on a test call"),
        ("writes_elsewhere", "wrote to a file descriptor that is not its own, or closed one on a test call"),
        ("first_raises", "raised on a test call: RuntimeError: bad ("),
        ("interrupts", "raised on a test call: KeyboardInterrupt"),
        ("too_big", "raised on a test call: MemoryError"),
        ("returns_text", "must return a number, or a dict with 'score'"),
        ("batch_of_none", "must return a list with, for each answer, a number, or a dict"),
        ("batch_of_none", "it returned None of type NoneType"),
        ("batch_one_short", "it returned 1 results for 2 answers"),
        ("batch_of_text", "it returned 'a': the score must be a number"),
        ("batch_other_names", "cannot be called as fn(data_sources=[...], solution_strs=[...]"),
        ("batch_other_names", "missing a required argument: 'truths'"),
    ],
)
def test_the_dry_run_says_what_is_wrong(fn: str, said: str, make: Make) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigError) as error:
        # What ends by itself is not to meet the limit on a busy machine.
        dry_run(make("length", fn, timeout_seconds=0.5 if "took longer" in said else 20.0))
    assert said in str(error.value)
    assert "plugin.py:" + fn in str(error.value)
    assert "length" not in str(error.value)
    assert time.monotonic() - start < 10


def test_the_dry_run_names_file_and_line(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"plugin\.py, line \d+\)"):
        dry_run(make("first_raises"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import os; os._exit(5)", "loading the reward functions ended their process (exit status 5)"),
        ("1 / 0", "ZeroDivisionError"),
        ("def other(): pass", "has no 'f'"),
    ],
)
def test_the_dry_run_of_what_cannot_be_loaded(source: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(source)
    config = RewardConfig(functions=[RewardFunctionConfig(fn=f"{tmp_path}/bad.py:f")])
    with pytest.raises(ConfigError) as error:
        dry_run(config)
    assert said in str(error.value)
