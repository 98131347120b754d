from __future__ import annotations

import itertools
import math

import pytest

from reasoner_rl.evaluation.estimators import (
    ProblemResult,
    clustered_standard_error,
    majority_at_k,
    mean_at_k,
    pass_at_k,
    summarise,
    wilson_interval,
)
from reasoner_rl.evaluation.intervals import confidence_interval
from reasoner_rl.metrics import values
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup


def test_mean_at_k_averages_within_problems_first() -> None:
    assert mean_at_k([[1, 0, 0, 0], [1, 1, 1, 0]]) == 0.5
    assert mean_at_k([[1], [1, 0, 0, 0]]) == (1 + 0.25) / 2  # not 2 of 5


@pytest.mark.parametrize("n", [1, 2, 5])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int) -> None:
    for c in range(n + 1):
        samples = [1] * c + [0] * (n - c)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(samples, k))
            expected = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_worked_example() -> None:
    assert pass_at_k(4, 1, 2) == 0.5  # 1 - C(3,2)/C(4,2) = 1 - 3/6
    assert pass_at_k(200, 0, 100) == 0.0
    assert pass_at_k(200, 1, 200) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_pass_at_k_refuses_what_cannot_be(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"n={n}, c={c}, k={k}"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("answers", "accuracies", "expected"),
    [
        (["3", "4", "4"], [0, 1, 1], 1.0),
        (["3", "3", "4"], [0, 0, 1], 0.0),
        (["4", "3", "3", "4"], [1, 0, 0, 1], 1.0),  # tie: 4 was seen first
        (["3", "4", "4", "3"], [0, 1, 1, 0], 0.0),  # tie: 3 was seen first
        ([None, None, None, "4"], [0, 0, 0, 1], 1.0),  # no answer is no vote
        ([None, None], [0, 0], 0.0),
    ],
)
def test_majority_at_k(answers: list[str | None], accuracies: list[float], expected: float) -> None:
    assert majority_at_k(answers, accuracies) == expected


def test_wilson_interval_worked_examples() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3: 81/263, 15/148, 0/20 and 1/29.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0 / 20, 20) == pytest.approx((0.0000, 0.1611), abs=5e-5)
    assert wilson_interval(1 / 29, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_clustered_standard_error_by_hand() -> None:
    # Problem means 0, 1/2, 1: variance ((1/2)^2 + 0 + (1/2)^2) / 2 = 1/4, over 3 problems.
    assert clustered_standard_error([[0, 0], [1, 0], [1, 1]]) == pytest.approx(math.sqrt(0.25 / 3))


RESULTS = [
    ProblemResult((1.0, 0.0, 1.0, 0.0), ("4", "5", "4", None), (10, 20, 30, 40), (False, False, False, True)),
    ProblemResult((0.0, 0.0, 0.0, 0.0), ("7", "7", "8", None), (20, 20, 20, 40), (False, False, False, True)),
]


def test_summarise_reports_every_number() -> None:
    report = summarise("aime", RESULTS)
    assert report.accuracy == 0.25
    assert (report.ci_low, report.ci_high) == confidence_interval([r.accuracies for r in RESULTS])
    assert report.pass_at == {
        1: 0.25,
        2: (1 - 1 / 6) / 2,
        4: 0.5,
    }  # of 4 samples 2 are right: 1 - C(2,2) / C(4,2)
    assert (report.problems, report.samples_per_problem) == (2, 4)
    assert (report.pass_at_k, report.majority_at_k) == (0.5, 0.5)
    assert (report.mean_response_tokens, report.truncated_share, report.unanswered_share) == (
        25.0,
        0.25,
        0.25,
    )


def test_report_as_metrics_row_and_json() -> None:
    report = summarise("aime", RESULTS)
    numbers = values(report.metrics())
    assert numbers["eval/aime/accuracy"] == 0.25
    assert numbers["eval/aime/pass_at_k"] == 0.5
    assert report.row()["accuracy"] == "0.250"
    assert report.row()["truncated"] == "25.0%"
    assert report.to_json()["majority_at_k"] == 0.5


def test_without_accuracy_a_report_says_so_and_gives_the_score() -> None:
    known = ProblemResult((1.0, 0.0), ("4", "5"), (10, 20), (False, False), (1.0, 0.5))
    unknown = ProblemResult((1.0, None), ("4", "5"), (30, 40), (False, False), (1.0, 0.1))
    report = summarise("aime", [known, unknown])
    made_of_accuracies = ("accuracy", "ci_low", "ci_high", "pass_at_k", "pass_at", "majority_at_k")
    assert {name: report.to_json()[name] for name in made_of_accuracies} == dict.fromkeys(made_of_accuracies)
    assert report.mean_score == pytest.approx(2.6 / 4)
    numbers = values(report.metrics())
    assert numbers["eval/aime/score"] == pytest.approx(0.65)
    assert numbers["eval/aime/response_length_mean"] == 25.0
    assert not [name for name in numbers if "accuracy" in name or "pass_at_k" in name]
    row = report.row()
    assert (row["accuracy"], row["95 % interval"], row["mean score"]) == ("unknown", "unknown", "0.650")
    assert "mean score" not in summarise("aime", [known]).row()


def test_single_samples_report_no_pass_at_k_metric() -> None:
    numbers = values(summarise("aime", [ProblemResult((1.0,), ("4",), (3,), (False,))]).metrics("final"))
    assert numbers["final/aime/accuracy"] == 1.0
    assert "final/aime/pass_at_k" not in numbers


def test_summarise_refuses_uneven_or_missing_samples() -> None:
    with pytest.raises(ValueError, match=r"aime.*\[1, 4\]"):
        summarise("aime", [*RESULTS, ProblemResult((1.0,), ("4",), (3,), (False,))])
    with pytest.raises(ValueError, match=r"\[\]"):
        summarise("aime", [])


def test_result_from_group() -> None:
    group = ScoredGroup(
        Prompt("p0", (1, 2), "1+1?", "2", "sums"),
        (Rollout((5, 6), (-0.1, -0.2), "stop", 0, "2"), Rollout((5, 6, 7), (-0.1,) * 3, "length", 0, "11")),
        (Reward(1.0, 1.0, {}, extracted="2"), Reward(-1.0, 0.0, {})),
    )
    assert ProblemResult.from_group(group) == ProblemResult(
        (1.0, 0.0), ("2", None), (2, 3), (False, True), scores=(1.0, -1.0)
    )
