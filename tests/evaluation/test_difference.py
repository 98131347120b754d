"""Differences between two evaluations, by hand and by counting all signs."""

from __future__ import annotations

import itertools
import random

import pytest

from reasoner_rl.evaluation.difference import samples_by_problem, set_difference, sign_flip_p_value
from reasoner_rl.evaluation.estimators import ProblemResult, powers_of_two, summarise
from reasoner_rl.evaluation.result import SetReport
from reasoner_rl.evaluation.tables import identity, report_of_set


def report(counts: dict[str, int], k: int, truths: dict[str, str] | None = None) -> SetReport:
    """A set whose problems have so many right of k samples; every right answer is "a", every wrong one "b"."""
    results = [
        ProblemResult(
            accuracies=(1.0,) * right + (0.0,) * (k - right),
            answers=("a",) * right + ("b",) * (k - right),
            response_tokens=(3,) * k,
            truncated=(False,) * k,
        )
        for right in counts.values()
    ]
    identities = [identity(f"set/{name}", name, (truths or {}).get(name, "a")) for name in counts]
    return report_of_set(summarise("set", results), results, identities)


@pytest.mark.parametrize("seed", range(5))
def test_p_value_counts_all_signs(seed: int) -> None:
    rng = random.Random(seed)
    differences = [rng.randint(-3, 4) * 2 for _ in range(9)]
    observed = abs(sum(differences))
    sums = [
        abs(sum(sign * step for sign, step in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=9)
    ]
    expected = sum(total >= observed for total in sums) / len(sums)
    assert sign_flip_p_value(differences) == pytest.approx(expected, abs=1e-12)


def test_p_value_at_its_ends() -> None:
    assert sign_flip_p_value([]) == 1.0
    assert sign_flip_p_value([0, 0]) == 1.0
    assert sign_flip_p_value([1] * 10) == pytest.approx(2 / 2**10)


def test_problems_are_paired_by_their_text() -> None:
    before = report({"p": 0, "q": 2, "r": 4, "x": 4}, 4)
    after = report({"r": 4, "q": 3, "p": 4, "y": 0}, 4, truths={"q": "b"})
    found = set_difference(before, after)
    assert found is not None
    assert (found.problems, found.only_before, found.only_after, found.other_truths) == (3, 1, 1, 1)
    assert not found.same_problems
    assert found.accuracy_before == pytest.approx((0 + 0.5 + 1) / 3)
    assert found.accuracy_after == pytest.approx((1 + 0.75 + 1) / 3)
    assert found.difference.mean == pytest.approx(1.25 / 3)
    assert [(c.uid, c.after - c.before) for c in found.changes] == [("set/p", 1.0), ("set/q", 0.25)]
    assert (found.changes[0].answer_before, found.changes[0].answer_after) == ("b", "a")
    assert found.p_value == 0.5  # of steps 4, 1, 0: 2 of 4 signs reach 5
    assert found.could_be_noise


def test_another_number_of_samples_keeps_the_p_value_exact() -> None:
    found = set_difference(report({"p": 1, "q": 0}, 2), report({"p": 4, "q": 1}, 4))
    assert found is not None
    assert found.difference.mean == pytest.approx((0.5 + 0.25) / 2)
    assert found.p_value == 0.5


def test_many_small_gains_are_no_noise() -> None:
    names = [str(number) for number in range(12)]
    found = set_difference(report(dict.fromkeys(names, 1), 4), report(dict.fromkeys(names, 2) | {"0": 3}, 4))
    assert found is not None
    assert found.could_be_noise is False
    assert found.p_value == pytest.approx(2 / 2**12)


def test_repeated_texts_are_told_apart_by_their_order() -> None:
    def twice(first: int, second: int) -> SetReport:
        made = report({"p": first, "q": second}, 2)
        rows = [row.model_copy(update={"problem_sha256": "same"}) for row in made.table]
        return made.model_copy(update={"table": rows})

    found = set_difference(twice(0, 2), twice(1, 2))
    assert found is not None
    assert [(c.uid, c.before, c.after) for c in found.changes] == [("set/p", 0.0, 0.5)]


def test_unknown_accuracies_and_other_problems_are_not_compared() -> None:
    known = report({"p": 1}, 2)
    unknown = known.model_copy(
        update={"table": [row.model_copy(update={"accuracy": None}) for row in known.table]}
    )
    assert set_difference(known, unknown) is None
    assert set_difference(known, report({"q": 1}, 2)) is None


def test_samples_of_partial_credit_are_not_made_up() -> None:
    """Of 0.5 and 1 a report has one right response and a mean of 0.75, which two samples of 0 and 1 cannot have."""
    result = ProblemResult((0.5, 1.0), ("a", "b"), (3, 3), (False, False))
    partial = report_of_set(summarise("set", [result]), [result], [identity("set/0", "p", "b")])
    with pytest.raises(ValueError, match="responses to set/0 have accuracies between 0 and 1"):
        samples_by_problem(partial)
    whole = samples_by_problem(report({"p": 1, "q": 2}, 2))
    assert {text: sorted(samples) for text, samples in whole.items()} == {
        "p/0": [0.0, 1.0],
        "q/0": [1.0, 1.0],
    }
    found = set_difference(partial, partial)
    assert found is not None
    assert (found.accuracy_before, found.p_value, found.could_be_noise) == (0.75, None, True)


def test_powers_of_two_end_with_k() -> None:
    assert [powers_of_two(k) for k in (1, 2, 6, 32)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8, 16, 32]]
