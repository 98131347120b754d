"""Naming reward functions, and the checks before a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy
import pytest

import reward_fns
from reasoner_rl.errors import ConfigError
from reasoner_rl.plugins import load_function
from reasoner_rl.rewards.contract import Answer, FunctionResult, FunctionSpec, read_result, takes_batches
from reasoner_rl.rewards.loading import LoadedFunction, check_function
from reward_fns import math_answer


def loaded(fn: Callable[..., Any], **parameters: Any) -> LoadedFunction:
    return LoadedFunction(fn, FunctionSpec("my.py:score", parameters), takes_batches(fn))


def test_functions_of_modules_and_of_submodules() -> None:
    assert load_function("reward_fns:compute_score", "reward function") is reward_fns.compute_score
    assert (
        load_function("reward_fns.math_answer:compute_score", "reward function") is math_answer.compute_score
    )


def test_functions_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A dataclass needs its module to be registered while it is being imported.
    plugin = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    plugin += "@dataclass\nclass C:\n    x: int\ndef f(**_): return C(3).x\n"
    (tmp_path / "plug").mkdir()
    (tmp_path / "plug" / "mine.py").write_text(plugin)
    (tmp_path / "mine.py").write_text("def f(**_): return 4\n")
    monkeypatch.chdir(tmp_path)
    assert load_function("plug/mine.py:f", "reward function")() == 3
    assert load_function(f"{tmp_path}/plug/mine.py:f", "reward function")() == 3
    assert load_function("mine.py:f", "reward function")() == 4


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        ("reward_fns:compute_scor", "reward_fns has no 'compute_scor'. Did you mean 'compute_score'?"),
        ("reward_fns.math_answr:compute_score", "there is no module 'reward_fns.math_answr'"),
        ("nowhere_at_all.x:f", "there is no module 'nowhere_at_all'"),
        ("nowhere.py:f", "there is no file 'nowhere.py'"),
        ("reward_fns.registry:RULES", "'RULES' is no function but a tuple"),
        ("compute_score", "must read package.module:function or path/to/file.py:function"),
        ("broken.py:f", "importing broken.py failed: ZeroDivisionError: division by zero"),
        ("syntax.py:f", "(syntax.py, line 1)"),
        ("needy.py:f", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("leaving.py:f", "importing leaving.py failed: SystemExit: 2"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(
    fn: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "syntax.py").write_text("def f(:\n")
    (tmp_path / "needy.py").write_text("import nowhere_at_all\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit(2)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        load_function(fn, "reward function")
    assert f"reward function {fn!r}" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("returned", "result"),
    [
        (1, FunctionResult(1.0, None)),
        (-0.5, FunctionResult(-0.5, None)),
        (0.0, FunctionResult(0.0, None)),
        (True, FunctionResult(1.0, 1.0)),
        (numpy.bool_(False), FunctionResult(0.0, 0.0)),
        (Fraction(1, 4), FunctionResult(0.25, None)),
        (numpy.float32(0.5), FunctionResult(0.5, None)),
        ({"score": 1.0, "acc": False}, FunctionResult(1.0, 0.0)),
        ({"score": -1.0, "acc": numpy.bool_(True)}, FunctionResult(-1.0, 1.0)),
        ({"score": 0.2}, FunctionResult(0.2, None)),
        ({"score": True}, FunctionResult(1.0, 1.0)),
        ({"score": 1, "acc": 0.5, "pred": 42}, FunctionResult(1.0, 0.5, "42")),
        (
            {"score": 1, "pred": None, "n": 2, "ok": True, "note": "x"},
            FunctionResult(1.0, None, None, {"n": 2.0, "ok": 1.0}),
        ),
        (
            {"score": 1, "nan": math.nan, "array": numpy.ones(2), "huge": 10**400, "n": 3},
            FunctionResult(1.0, None, None, {"n": 3.0}),
        ),
    ],
)
def test_what_a_function_may_return(returned: object, result: FunctionResult) -> None:
    assert read_result(returned) == result


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "the score must be a number; it is None of type NoneType"),
        ("1.0", "the score must be a number; it is '1.0' of type str"),
        (math.nan, "the score must be finite; it is nan"),
        (10**400, "the score must be finite; it is inf"),
        ({"score": numpy.ones(2)}, "must return a number, or a dict with 'score'"),
        ({"reward": 1.0}, "a dict without 'score'; its keys are ['reward']"),
        ({"score": "1"}, "'score' must be a number"),
        ({"score": 1, "acc": 2}, "'acc' must be a bool or lie in 0 to 1; it is 2.0"),
    ],
)
def test_what_a_function_may_not_return(returned: object, said: str) -> None:
    def fn(**_: Any) -> object:
        return returned

    with pytest.raises(ConfigError) as error:
        check_function(loaded(fn))
    assert said in str(error.value)
    assert "'my.py:score' must return a number, or a dict with 'score'" in str(error.value)


def test_check_passes_the_sample_and_the_parameters() -> None:
    right = check_function(loaded(reward_fns.compute_score, correct_score=0.5))
    assert right == FunctionResult(0.5, 1.0, "42")

    def needs_its_row(
        data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]
    ) -> float:
        return float(extra_info["level"])

    with pytest.raises(
        ConfigError, match=r"raised on a test call: KeyError: 'level' \(.*test_reward_loading"
    ):
        check_function(loaded(needs_its_row))
    row = Answer("x", "", "", {"level": 3})
    assert check_function(loaded(needs_its_row), row).score == 3.0


def test_a_wrong_answer_is_tried_too_but_may_raise() -> None:
    def fn(solution_str: str, **_: Any) -> object:
        return 1.0 if solution_str else "bad"

    def needs_an_answer(solution_str: str, **_: Any) -> float:
        return float(solution_str[0] == "6")

    with pytest.raises(ConfigError, match="it returned 'bad'"):
        check_function(loaded(fn))
    assert check_function(loaded(needs_an_answer)).score == 1.0


def _three_arguments(data_source: str, solution_str: str, ground_truth: str) -> float:
    return 1.0


def _other_names(source: str, text: str, truth: str, extra_info: object) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("fn", "parameters", "said"),
    [
        (_three_arguments, {}, "got an unexpected keyword argument 'extra_info'"),
        (_other_names, {}, "missing a required argument: 'source'"),
        (math_answer.compute_score, {"wrong": 0}, "got an unexpected keyword argument 'wrong'"),
        (math_answer.compute_score, {"ground_truth": "1"}, "multiple values for keyword argument"),
    ],
)
def test_wrong_signatures_are_told_from_the_right_one(
    fn: Callable[..., Any], parameters: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        check_function(loaded(fn, **parameters))
    expected = "fn(data_source=..., solution_str=..., ground_truth=..., extra_info=..., **parameters)"
    assert f"cannot be called as {expected} with parameters {sorted(parameters)}" in str(error.value)
    assert said in str(error.value)


def test_a_wrong_score_that_the_function_does_not_take_is_answered_with_the_recipes_key() -> None:
    def fn(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> float:
        return 0.0

    spec = FunctionSpec("my.py:score", {"wrong_score": -5})
    with pytest.raises(ConfigError, match="what a failure counts as is set by failure_score, beside fn"):
        check_function(LoadedFunction(fn, spec, batch=False))
