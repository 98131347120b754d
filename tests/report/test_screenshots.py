"""scripts/site/screenshots.py takes the documentation's pictures of a run."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: pip install '.[dev]'")
pytest.importorskip("plotly", reason="plotly is not installed: pip install '.[report]'")
pytest.importorskip("sphinxcontrib.katex", reason="sphinxcontrib-katex is not installed")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "site"))

import screenshots

from reasoner_rl.errors import DataError


@pytest.mark.skipif(which("chromium") is None, reason="no Chromium on this machine: apt-get install chromium")
def test_pictures_of_a_run(real_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, str] = {}

    def noting(name: str) -> Callable[..., None]:
        show = getattr(screenshots, name)

        def noted(page: Any, *more: int) -> None:
            show(page, *more)
            shown[name] = page.inner_text("main")

        return noted

    for name in ("show_curves", "show_a_problem_across_steps", "show_a_group"):
        monkeypatch.setattr(screenshots, name, noting(name))
    screenshots.main([str(real_run), "--out", str(tmp_path), "--name", "tiny", "--step", "2"])
    names = ["report_curves.png", "report_rollouts.png", "report_tokens.png", "tiny_curves.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names[:3]:
        png = (tmp_path / name).read_bytes()
        assert struct.unpack(">II", png[16:24]) == (1440, 1060), name
        assert len(png) > 20_000, f"{name} shows nothing"
    assert "Reward (mean score)" in shown["show_curves"]
    across = shown["show_a_problem_across_steps"]
    assert "Step 4" in across
    assert all(f"step {step}: " in across for step in (0, 2, 4))
    assert "Step 2" in shown["show_a_group"]
    assert all(f"response {number}" in shown["show_a_group"] for number in (1, 2, 3, 4))


def test_what_a_run_lacks_is_named(real_run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"step_000099.parquet is missing: choose a recorded step with --step"
    ):
        screenshots.main([str(real_run), "--out", str(tmp_path), "--step", "99"])
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "step_000004.parquet").touch()
    with pytest.raises(DataError, match="holds no held-out responses"):
        screenshots.main([str(tmp_path), "--out", str(tmp_path)])
