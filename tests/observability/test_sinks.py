from __future__ import annotations

import io
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reasoner_rl.config.run import LoggingConfig, WandbConfig
from reasoner_rl.errors import ConfigError, DataError, MissingExtraError
from reasoner_rl.observability.sinks import (
    ConsoleSink,
    JsonlSink,
    MetricLogger,
    TensorBoardSink,
    WandbSink,
    open_logger,
)

STEP = {
    "reward/accuracy": 0.4531,
    "reward/score": -0.0938,
    "response/length_mean": 1234.4,
    "response/truncated_share": 0.031,
    "groups/kept": 32.0,
    "groups/dropped_right": 7.0,
    "groups/dropped_wrong": 3.0,
    "policy/entropy": 0.4123,
    "policy/clip_fraction_low": 0.0005,
    "policy/clip_fraction_high": 0.0021,
    "train/grad_norm": 0.2134,
    "time/generate": 7.13,
    "time/update": 4.21,
    "time/step": 12.34,
    "speed/generate_tokens_per_second": 5210.4,
    "speed/update_tokens_per_second": 8000.0,
}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def console_line(step: int, values: Mapping[str, float], **options: Any) -> str:
    out = io.StringIO()
    ConsoleSink(100, Console(file=out, **options)).write(step, values)
    return out.getvalue()


class TestJsonl:
    def test_a_file_that_is_deleted_meanwhile_comes_back_whole(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "run" / "metrics.jsonl"
        sink = JsonlSink(path)
        sink.write(1, {"x": 1.0})
        shutil.rmtree(path.parent)
        sink.write(2, {"x": 2.0})
        path.unlink()
        sink.write(3, {"x": 3.0})
        sink.close()
        assert rows(path) == [{"step": step, "x": float(step)} for step in (1, 2, 3)]
        assert "metrics.jsonl was deleted or replaced" in caplog.text

    def test_lines_are_readable_while_the_run_continues(self, tmp_path: Path) -> None:
        sink = JsonlSink(tmp_path / "metrics.jsonl")
        sink.write(1, {"reward/score": 0.1})
        assert rows(tmp_path / "metrics.jsonl") == [{"step": 1, "reward/score": 0.1}]
        sink.write(2, {"reward/score": float("inf")})
        assert rows(tmp_path / "metrics.jsonl")[1] == {"step": 2, "reward/score": None}
        sink.close()

    def test_resume_drops_later_steps_and_a_torn_line(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        path.write_text("".join(f'{{"step": {n}, "x": {n / 3}}}\n' for n in range(5)) + '{"step": 5, "x": 0.')
        sink = JsonlSink(path, resume_step=2)
        assert rows(path) == [{"step": n, "x": n / 3} for n in range(3)]
        sink.write(3, {"x": 9.0})
        sink.close()
        assert rows(path)[2:] == [{"step": 2, "x": 2 / 3}, {"step": 3, "x": 9.0}]
        assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]

    def test_resume_of_a_torn_line_before_the_step(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        path.write_bytes(b'{"step": 1, "x": 1.0}\n{"st')
        JsonlSink(path, resume_step=7).close()
        assert path.read_text() == '{"step": 1, "x": 1.0}\n'

    def test_a_whole_last_line_without_newline_is_kept_apart(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        path.write_text('{"step": 1, "x": 1.0}')
        with MetricLogger([JsonlSink(path, resume_step=1)]) as logger:
            logger.write(2, {"x": 2.0})
        assert [row["step"] for row in rows(path)] == [1, 2]

    def test_a_broken_line_in_the_middle_is_an_error_and_nothing_is_lost(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        text = '{"step": 1}\n[1]\n{"step": 2}\n'
        path.write_text(text)
        with pytest.raises(DataError, match=r"metrics\.jsonl, line 2: '\[1\]'"):
            JsonlSink(path, resume_step=1)
        assert path.read_text() == text

    def test_a_new_run_starts_an_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        path.write_text('{"step": 1}\n')
        JsonlSink(path).close()
        assert path.read_text() == ""


class TestTensorBoard:
    def test_events_and_resume(self, tmp_path: Path) -> None:
        first = TensorBoardSink(tmp_path)
        for step in (1, 2, 3):
            first.write(step, {"reward/score": float(step)})
        first.close()
        time.sleep(
            1.0
        )  # files of the same second are read in the order of a process's counter, as text: 10 before 9
        second = TensorBoardSink(tmp_path, resume_step=1)
        second.write(2, {"reward/score": 20.0})
        second.close()
        events = EventAccumulator(str(tmp_path))
        events.Reload()
        assert [(e.step, e.value) for e in events.Scalars("reward/score")] == [(1, 1.0), (2, 20.0)]


class FakeRun:
    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.id = options["id"] or "abc123"
        self.logged: list[dict[str, float]] = []
        self.finished = False

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        pass

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished = True


class TestWandb:
    def test_missing_package_names_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(MissingExtraError, match=r"logging\.wandb.*pip install 'reasoner_rl\[wandb\]'"):
            WandbSink(WandbConfig(), tmp_path)

    def test_a_resumed_run_keeps_its_id(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        runs: list[FakeRun] = []

        def init(**options: Any) -> FakeRun:
            runs.append(FakeRun(options))
            return runs[-1]

        monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
        folder = tmp_path / "my_run"
        for resume_step in (None, 3, None):
            sink = WandbSink(WandbConfig(project="maths"), folder, resume_step)
            sink.write(4, {"reward/score": 1.0})
            sink.close()
        assert [run.options["id"] for run in runs] == [None, "abc123", None]
        assert (runs[0].options["project"], runs[0].options["name"]) == ("maths", "my_run")
        assert runs[0].logged == [{"step": 4, "reward/score": 1.0}]
        assert runs[0].finished
        assert runs[0].options["mode"] is None

    def test_without_a_key_the_way_out_is_told_and_offline_needs_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("wandb")
        for name in ("WANDB_API_KEY", "WANDB_MODE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / "none"))
        with pytest.raises(
            ConfigError, match=r"No API key.*[^.]\. Log in with `wandb login`.*logging\.wandb\.mode=offline"
        ):
            WandbSink(WandbConfig(), tmp_path / "run")
        sink = WandbSink(WandbConfig(mode="disabled"), tmp_path / "run")
        sink.write(1, {"reward/score": 1.0})
        sink.close()


class TestConsole:
    def test_one_plain_line_without_a_terminal_fits_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("COLUMNS", raising=False)
        assert console_line(12, STEP, width=40) == (
            "step  12/100  accuracy 0.453  reward -0.094  length 1234 (3% cut)  groups 32 kept 10 dropped  "
            "entropy 0.412  clip 0.05% low 0.21% high  grad norm 0.213  12.3 s\n"
        )

    @pytest.mark.parametrize(
        ("columns", "shown"),
        [
            (
                "155",
                "length 1234 (3% cut)  groups 32 kept 10 dropped  entropy 0.412  clip 0.05% low 0.21% high  "
                "grad norm 0.213",
            ),
            ("130", "length 1234 (3% cut)  groups 32 kept 10 dropped  entropy 0.412"),
            ("100", "length 1234 (3% cut)  groups 32 kept 10 dropped"),
            ("70", "length 1234 (3% cut)"),
            ("20", ""),
        ],
    )
    def test_the_least_important_parts_go_first_on_a_narrow_terminal(
        self, columns: str, shown: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", columns)
        always = "step  12/100  accuracy 0.453  reward -0.094"
        for options in ({"force_terminal": True, "color_system": None}, {}):
            line = console_line(12, STEP, **options)
            assert line == "  ".join(filter(None, (always, shown))) + "\n"
            assert len(line) <= int(columns) + 1 or not shown

    def test_all_of_a_line_on_a_wide_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "300")
        assert console_line(12, STEP) == (
            "step  12/100  accuracy 0.453  reward -0.094  length 1234 (3% cut)  groups 32 kept 10 dropped  "
            "entropy 0.412  clip 0.05% low 0.21% high  grad norm 0.213  12.3 s (generate 7.1, update 4.2)  "
            "tokens/s generate 5,210, update 8,000\n"
        )

    def test_only_every_so_many_steps_evaluations_and_the_end_have_a_line(self) -> None:
        out = io.StringIO()
        sink = ConsoleSink(7, Console(file=out), every=3)
        sink.write(0, {"eval/aime/accuracy": 0.25})
        for step in range(1, 8):
            sink.write(step, {"sft/loss": 1.0 / step})
        sink.write(4, {"eval/aime/accuracy": 0.5})
        assert [line[:8] for line in out.getvalue().splitlines()] == [f"step {n}/7" for n in (0, 3, 6, 7, 4)]

    def test_missing_keys_are_left_out(self) -> None:
        assert console_line(1, {"sft/loss": 1.23456}) == "step   1/100  loss 1.2346\n"
        assert console_line(0, {"eval/aime/accuracy": 0.25}) == "step   0/100  aime accuracy 0.250\n"
        assert console_line(1, {"groups/kept": 4.0}) == "step   1/100  groups 4 kept\n"
        assert console_line(1, {"memory/host_gib": 4.0}) == ""

    def test_colours_on_a_terminal(self) -> None:
        line = console_line(1, {"reward/accuracy": 0.5}, force_terminal=True, color_system="standard")
        assert "\x1b[1;32maccuracy 0.500" in line


class Failing:
    def write(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        raise OSError("disk full")


class Remembering:
    def __init__(self) -> None:
        self.written: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.written.append((step, dict(values)))

    def close(self) -> None:
        self.closed = True


class TestMetricLogger:
    def test_every_sink_gets_everything_but_nan(self) -> None:
        sinks = [Remembering(), Remembering()]
        with MetricLogger(sinks) as logger:
            logger.write(1, {"a": 1.0, "b": float("nan")})
        assert [sink.written for sink in sinks] == [[(1, {"a": 1.0})]] * 2
        assert all(sink.closed for sink in sinks)

    def test_all_are_closed_though_one_fails(self) -> None:
        first, last = Remembering(), Remembering()
        with pytest.raises(OSError, match="disk full"), MetricLogger([first, Failing(), last]):
            pass
        assert first.closed
        assert last.closed

    def test_open_logger_writes_what_the_config_asks_for(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with open_logger(LoggingConfig(tensorboard=False), tmp_path, total_steps=5) as logger:
            logger.write(1, {"sft/loss": 2.0})
        assert rows(tmp_path / "metrics.jsonl") == [{"step": 1, "sft/loss": 2.0}]
        assert capsys.readouterr().out == "step 1/5  loss 2.0000\n"
        assert not (tmp_path / "tensorboard").exists()
        open_logger(LoggingConfig(), tmp_path, total_steps=5, resume_step=1).close()
        assert len(rows(tmp_path / "metrics.jsonl")) == 1
        assert list((tmp_path / "tensorboard").iterdir())
