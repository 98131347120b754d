"""Small records: JSON files, versions, the progress bar."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import reasoner_rl
from reasoner_rl.observability import progress
from reasoner_rl.observability.progress import progress_bar
from reasoner_rl.observability.summary import write_json, write_jsonl
from reasoner_rl.observability.versions import versions


def test_write_json_is_valid_json_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "summary.json"
    write_json(path, {"accuracy": 0.5, "loss": float("nan"), "nested": [{"x": float("inf")}], "name": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "accuracy": 0.5,
        "loss": None,
        "nested": [{"x": None}],
        "name": "é",
    }
    with pytest.raises(TypeError):
        write_json(path, {"a": 1, "b": object()})
    assert json.loads(path.read_text(encoding="utf-8"))["accuracy"] == 0.5
    assert list(path.parent.iterdir()) == [path]


def test_text_that_utf8_cannot_hold_survives(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "a\ud800b\nc"}])
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == [
        {"text": "a\ud800b\nc"}
    ]


def test_versions_name_what_is_installed_and_only_that() -> None:
    found = versions()
    assert found["reasoner_rl"] == reasoner_rl.__version__
    assert found["python"] == platform.python_version()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert int(found["cpu_count"]) >= 1
    assert all(isinstance(value, str) for value in found.values())


def test_versions_import_nothing_heavy() -> None:
    code = (
        "import sys; from reasoner_rl.observability.versions import versions; versions(); "
        "assert not {'torch', 'transformers', 'vllm', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("enabled", [True, False, "auto"])
def test_without_a_terminal_there_is_a_line_now_and_then(
    enabled: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 129.0, 131.0, 160.0, 191.0, 3700.0])
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    with progress_bar(enabled, "generating", 1000) as advance:
        for amount, tokens in ((0, 900), (0, 2200), (100, 900), (200, 5100), (900, 0)):
            advance(amount, tokens, 1200)  # more was begun than was known at first
    captured = capsys.readouterr()
    lines = [
        "  generating: 0 of 1,200, 3,100 tokens (100 per second), 0:00:31 passed",
        "  generating: 300 of 1,200, 9,100 tokens (100 per second), 0:01:31 passed, about 0:04:33 left",
        "  generating: 1,200 of 1,200, 9,100 tokens (3 per second), 1:00:00 passed",
    ]
    assert captured.out == ""
    assert captured.err == ("" if enabled is False else "".join(f"{line}\n" for line in lines))


def test_short_work_leaves_a_log_file_clean(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("auto", "scoring", 4) as advance:
        advance(4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("enabled", "shown"), [("auto", True), (True, True), (False, False)])
def test_bar_on_a_terminal(
    enabled: bool, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress_bar(enabled, "generating", 3) as advance:
        advance(3, tokens=1200, total=4)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert all((part in captured.err) is shown for part in ("generating", "3/4", "1,200 tokens ("))
