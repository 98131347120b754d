"""Tables and contrasts of a comparison, by hand, and the files of a report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, as the scripts import it."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import comparison_report

    return comparison_report


def outcome(report: Any, after: dict[str, float], tokens: int = 2000, **changes: Any) -> Any:
    """A run that starts with one of two problems right."""
    before = {"p": 1.0, "q": 0.0}
    curve = (
        report.Point(0, sum(before.values()) / 2, 0, 0.0),
        report.Point(9, sum(after.values()) / 2, tokens, 60.0),
    )
    numbers = {"seed": 0, "response_tokens": 30.0, "truncated_share": 0.01, "used_share": 1.0}
    return report.Outcome(curve=curve, before=before, after=after, **{**numbers, **changes})


def results(report: Any) -> Any:
    return {
        "GRPO": [
            outcome(report, {"p": 1.0, "q": 0.0}),
            outcome(report, {"p": 0.5, "q": 0.25}, seed=1, response_tokens=33.0),
        ],
        "DPO": [
            outcome(report, {"p": 1.0, "q": 1.0}, 2600, used_share=None),
            outcome(report, {"p": 0.5, "q": 0.75}, 2400, seed=1, used_share=None),
        ],
    }


def test_the_table_averages_over_seeds(report: Any) -> None:
    assert report.markdown_table(results(report)).splitlines()[2:] == [
        "| warm start | 50.0% | 50.0%, 50.0% | | | | | |",
        "| GRPO | 43.8% | 50.0%, 37.5% | 31.5 | 1.0% | 2,000 | 100% | 60 |",
        "| DPO | 81.2% | 100.0%, 62.5% | 30.0 | 1.0% | 2,500 |  | 60 |",
    ]


def test_a_contrast_pairs_seeds_and_problems(report: Any) -> None:
    found = report.contrast(results(report), "GRPO", "DPO")
    # By seed: 0.5 and 0.25. By problem over both seeds: p 0, q (1 + 0.5) / 2.
    half = 12.7062 * math.sqrt(0.25**2 / 2) / math.sqrt(2)
    assert found.seeds.mean == found.problems.mean == 0.375
    assert (found.seeds.low, found.seeds.high) == (pytest.approx(0.375 - half), pytest.approx(0.375 + half))
    assert found.problems.high - 0.375 == pytest.approx(1.959964 * 0.375, abs=1e-6)  # sqrt(2 * 0.375^2 / 2)
    assert (found.tokens.mean, found.tokens.low) == (500, pytest.approx(500 - 12.7062 * 100, abs=0.1))
    [line] = report.contrast_table([found]).splitlines()[2:]
    assert line == "| DPO | GRPO | +37.5 | -121.3 to +196.3 | -36.0 to +111.0 | +500 | -771 to +1,771 |"


def test_a_gain_is_over_the_start_of_the_same_run(report: Any) -> None:
    found = report.gain(results(report), "DPO")
    assert (found.before, found.after, found.seeds.mean, found.tokens.mean) == ("start", "DPO", 0.3125, 2500)
    one_seed = report.gain({"GRPO": [outcome(report, {"p": 1.0, "q": 0.0})]}, "GRPO")
    assert report.contrast_table([one_seed]).splitlines()[2] == (
        "| GRPO | start | +0.0 | unknown | +0.0 to +0.0 | +2,000 | unknown |"
    )


def test_the_report_is_written_whole(report: Any, tmp_path: Path) -> None:
    runs = results(report)
    contrasts = [report.contrast(runs, "GRPO", "DPO")]
    tables = report.write_report(runs, contrasts, tmp_path, "methods", {"task": "ladder"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["methods.json", "methods.md", "methods.png"]
    assert (tmp_path / "methods.md").read_text() == tables
    assert tables.count("| DPO |") == 2
    data = json.loads((tmp_path / "methods.json").read_text())
    assert data["task"] == "ladder"
    assert data["runs"]["DPO"][1]["curve"][-1] == {
        "step": 9,
        "accuracy": 0.625,
        "tokens": 2400,
        "seconds": 60.0,
    }
    assert data["contrasts"][0]["seeds"]["mean"] == 0.375
    assert (tmp_path / "methods.png").read_bytes().startswith(b"\x89PNG")
