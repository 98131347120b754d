"""Accuracy and calibration of a reward model on pairs, by hand."""

from __future__ import annotations

import math

import pytest

from reasoner_rl.evaluation.calibration import Calibration
from reasoner_rl.evaluation.pairs import PairVerdict, summarise_pairs
from reasoner_rl.metrics import values

pytest.importorskip("sklearn")


def calibrated(found: list[PairVerdict], bins: int) -> Calibration:
    return Calibration.of([verdict.probability for verdict in found], bins)


def test_a_report_by_hand() -> None:
    odds = math.log(3)  # 75 %
    found = [
        PairVerdict(1, odds, 10, 5),
        PairVerdict(2, odds, 10, 5),
        PairVerdict(3, odds, 10, 5),
        PairVerdict(4, -odds, 5, 10),
        PairVerdict(5, 0.0, 7, 7),
    ]
    report = summarise_pairs("held", found, calibrated(found, bins=4))
    assert (report.dataset, report.pairs) == ("held", 5)
    assert report.accuracy == pytest.approx(3.5 / 5), "a tie counts half"
    assert report.ci_low < 0.7 < report.ci_high
    assert report.margin == pytest.approx(2 * odds / 5)
    assert report.longer_is_better == pytest.approx(3.5 / 5)
    assert report.pairs_by_length == {"shorter": 1, "equal": 1, "longer": 3}
    assert report.accuracy_by_length == {"shorter": 0.0, "equal": 0.5, "longer": 1.0}
    # Four pairs of 75 %, of which three come true, and one of 50 %: it says what happens.
    assert report.calibration_error == pytest.approx(0.0, abs=1e-9)
    assert report.brier == pytest.approx((3 * 0.25**2 + 0.75**2 + 0.5**2) / 5)
    metrics = values(report.metrics())
    assert metrics["eval/held/accuracy_chosen_shorter"] == 0.0
    assert "70.0% of 5 pairs right" in str(report)
    assert (
        summarise_pairs("held", found[:3], calibrated(found[:3], bins=4)).accuracy_by_length["equal"] is None
    )


def test_a_model_that_is_too_sure() -> None:
    # It says 90 % of ten pairs, and is right about six: from the other side 10 %, and 40 % come true.
    calibration = Calibration.of([0.9] * 6 + [0.1] * 4, bins=10)
    assert calibration.stated == pytest.approx((0.1, 0.9))
    assert calibration.observed == pytest.approx((0.4, 0.6))
    assert calibration.shares == pytest.approx((0.5, 0.5))
    assert calibration.error == pytest.approx(0.3)
    assert calibration.brier == pytest.approx(0.6 * 0.01 + 0.4 * 0.81)


@pytest.mark.parametrize("lead", [800.0, -800.0, 0.0, 1e-9])
def test_probabilities_of_any_lead(lead: float) -> None:
    assert PairVerdict(1, lead, 1, 1).probability == pytest.approx(
        0.5 if abs(lead) < 1 else float(lead > 0), abs=1e-9
    )
