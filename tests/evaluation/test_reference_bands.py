"""Bands around the curves of several seeds, and when a curve has left one."""

from __future__ import annotations

import random

import pytest

from reasoner_rl.evaluation.reference import Curves, Watch, curves_of, expected_range

# d2 of control charts (Montgomery, Introduction to Statistical Quality Control, appendix VI).
MEAN_RANGE = {3: 1.6926, 4: 2.0588, 5: 2.3259, 10: 3.0775}


def test_the_mean_range_of_normal_draws() -> None:
    assert {n: round(expected_range(n), 4) for n in MEAN_RANGE} == MEAN_RANGE


def test_a_band_by_hand() -> None:
    curves = Curves((1, 2, 3), ((0.1, 0.2, 0.5), (0.2, 0.4, 0.5), (0.4, 0.3, 0.8)))
    # Distances 0.3, 0.2 and 0.3; all three steps are neighbours.
    margin = (3.5 / MEAN_RANGE[3] - 0.5) * (0.3 + 0.2 + 0.3) / 3
    assert curves.band(1) == pytest.approx((0.1 - margin, 0.4 + margin), rel=1e-3)
    assert curves.band(3) == pytest.approx((0.5 - margin, 0.8 + margin), rel=1e-3)
    assert curves.band(4) is None


def test_only_near_steps_widen_a_band() -> None:
    steps = tuple(range(1, 21))
    wide_at_the_end = tuple(tuple(0.1 * seed * (step > 10) for step in steps) for seed in range(3))
    assert Curves(steps, wide_at_the_end).band(7) == (0, 0)
    margin = (3.5 / MEAN_RANGE[3] - 0.5) * 0.2 / 7
    assert Curves(steps, wide_at_the_end).band(8) == pytest.approx((-margin, margin), rel=1e-3)


def flat(points: int) -> dict[str, Curves]:
    return {"x": Curves(tuple(range(points)), tuple((level,) * points for level in (0.4, 0.5, 0.6)))}


def test_three_points_in_a_row_on_one_side_leave_the_band() -> None:
    watch = Watch(flat(12))  # band 0.0864 to 0.9136
    for step, value in enumerate([1.0, 1.0, 0.5, 1.0, 0.0, 1.0, 1.0]):
        assert watch.see(step, {"x": value, "unknown": 1.0}) == []
    (departure,) = watch.see(7, {"x": 0.92})
    assert (departure.metric, departure.step, departure.value) == ("x", 5, 1.0)
    assert str(departure) == "x left the reference's band at step 5: 1 is above 0.08643 to 0.9136"
    assert watch.see(8, {"x": 1.0}) == [], "it is said once"
    assert watch.see(50, {"x": 9.0}) == [], "the reference has no such step"
    assert watch.compared == {"x": 9}
    assert list(watch.departed) == ["x"]


def test_a_curve_of_two_points_has_left_with_both() -> None:
    watch = Watch(flat(2))
    assert watch.see(0, {"x": 0.0}) == []
    assert [each.step for each in watch.see(1, {"x": 0.05})] == [0]


def test_curves_have_what_all_runs_have() -> None:
    runs = [{"x": {1: 0.1, 2: 0.2, 3: 0.3}, "y": {1: 1.0}}, {"x": {1: 0.2, 3: 0.4}}, {"x": {3: 0.5, 1: 0.3}}]
    assert curves_of(runs) == {"x": Curves((1, 3), ((0.1, 0.3), (0.2, 0.4), (0.3, 0.5)))}
    with pytest.raises(ValueError, match="at least 3 runs; there are 2"):
        curves_of(runs[:2])
    with pytest.raises(ValueError, match="no metric and step in common"):
        curves_of([{"x": {1: 1.0}}, {"x": {2: 1.0}}, {"x": {3: 1.0}}])


def test_seeds_of_the_same_kind_seldom_leave_and_other_learning_does() -> None:
    """4 seeds of rising, noisy curves make a band: few further seeds leave it, all that learn half as fast do."""

    def run(rng: random.Random, speed: float) -> list[float]:
        level = rng.gauss(0, 0.03)
        return [min(0.9, 0.2 + speed * 0.02 * step) + level + rng.gauss(0, 0.02) for step in range(44)]

    rng, left = random.Random(0), {1.0: 0, 0.5: 0}
    for _ in range(50):
        seeds = [dict(enumerate(run(rng, 1.0))) for _ in range(4)]
        curves = curves_of([{"x": seed} for seed in seeds])
        for speed in left:
            watch = Watch(curves)
            for step, value in enumerate(run(rng, speed)):
                watch.see(step, {"x": value})
            left[speed] += bool(watch.departed)
    assert left[1.0] <= 4
    assert left[0.5] == 50
