"""The report of a run on real word problems with SmolLM2-135M, where one is: it takes half an hour on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from opened import check_report


def test_the_report_of_word_problems(browser: Any, repository: Path, tmp_path: Path) -> None:
    runs = repository / "runs"
    places = [runs / "word_problems" / "dapo", *sorted(runs.glob("reference_word_problems/*/seed_*/train"))]
    finished = [run for run in places if (run / "summary.json").is_file()]
    if not finished:
        pytest.skip("no finished run of the recipe word_problems is in runs")
    check_report(browser, finished[0], tmp_path / "report.html")
