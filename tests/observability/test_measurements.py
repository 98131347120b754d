from __future__ import annotations

import time
from pathlib import Path

import pytest

from reasoner_rl.hybrid.meter import SwitchMeter
from reasoner_rl.metrics import merge, values
from reasoner_rl.observability import measurements
from reasoner_rl.observability.measurements import (
    PhaseTimer,
    host_used_share,
    memory_metrics,
    rollout_metrics,
)
from reasoner_rl.types import FinishReason, Prompt, Reward, Rollout, ScoredGroup


def group(*responses: tuple[int, float, FinishReason]) -> ScoredGroup:
    return ScoredGroup(
        Prompt("p", (1,), "?", "1", "sums"),
        tuple(Rollout((9,) * length, (0.0,) * length, finish, 0, "") for length, _, finish in responses),
        tuple(Reward(accuracy, accuracy, {}) for _, accuracy, _ in responses),
    )


def test_rollout_metrics_by_hand() -> None:
    groups = [group((10, 1.0, "stop"), (20, 0.0, "stop")), group((30, 1.0, "stop"), (60, 0.0, "length"))]
    assert values(rollout_metrics(groups)) == {
        "response/length_mean": 30.0,
        "response/length_max": 60.0,
        "response/truncated_share": 0.25,
        "response/right_length_mean": 20.0,
        "response/wrong_length_mean": 40.0,
    }


def test_rollout_metrics_of_only_wrong_responses_or_none() -> None:
    numbers = values(rollout_metrics([group((10, 0.5, "stop"))]))
    assert numbers["response/wrong_length_mean"] == 10.0
    assert "response/right_length_mean" not in numbers
    assert rollout_metrics([]) == {}


def test_memory_is_in_gib() -> None:
    numbers = values(memory_metrics())
    assert 0.01 < numbers["memory/host_gib"] < 64
    assert numbers["memory/host_peak_gib"] >= 0.9 * numbers["memory/host_gib"]
    assert 0 < numbers["memory/host_used_share"] < 1


def test_the_limit_of_a_control_group_counts_without_what_can_be_dropped(tmp_path: Path) -> None:
    own, folder = tmp_path / "cgroup", tmp_path / "sys" / "job"
    folder.mkdir(parents=True)
    own.write_text("4:memory:/else\n0::/job\n")
    assert host_used_share(tmp_path / "sys", own) == pytest.approx(host_used_share(tmp_path, own), abs=0.1)
    (folder / "memory.max").write_text("1000\n")
    (folder / "memory.current").write_text("1099\n")
    (folder / "memory.stat").write_text("anon 900\ninactive_file 100\n")
    assert host_used_share(tmp_path / "sys", own) == 0.999
    (folder / "memory.max").write_text("max\n")
    assert host_used_share(tmp_path / "sys", own) < 0.999


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock whose time is the first item."""
    now = [100.0]
    monkeypatch.setattr(measurements.time, "perf_counter", lambda: now[0])
    return now


def test_timer_adds_up_phases_and_speeds(clock: list[float]) -> None:
    timer = PhaseTimer()
    with timer("step"):
        for seconds in (1.5, 2.5):
            with timer("generate"):
                clock[0] += seconds
        with timer("update"):
            clock[0] += 1.0
    assert values(timer.metrics({"generate": 800, "update": 50, "sync": 7})) == {
        "time/step": 5.0,
        "time/generate": 4.0,
        "time/update": 1.0,
        "speed/generate_tokens_per_second": 200.0,
        "speed/update_tokens_per_second": 50.0,
    }


def test_timer_counts_a_phase_that_fails_and_resets(clock: list[float]) -> None:
    timer = PhaseTimer()

    def crash() -> None:
        with timer("reward"):
            clock[0] += 2.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert values(timer.metrics()) == {"time/reward": 2.0}
    timer.reset()
    assert timer.metrics() == {}


def test_merged_over_ranks(clock: list[float]) -> None:
    parts = []
    for seconds, tokens in ((1.0, 100), (3.0, 100)):
        timer = PhaseTimer()
        with timer("generate"):
            clock[0] += seconds
        parts.append(timer.metrics({"generate": tokens}))
    assert values(merge(parts)) == {"time/generate": 3.0, "speed/generate_tokens_per_second": 50.0}


def test_a_phase_ends_when_the_device_has_done_its_work(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels are queued, and run when the device is waited for: those of before are no part of a phase."""
    queued: list[float] = []

    class Stream:
        def synchronize(self) -> None:
            clock[0] += sum(queued)
            queued.clear()

    monkeypatch.setattr("torch.cuda.current_stream", Stream)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for used, seconds in ((True, 3.0), (False, 0.0)):
        monkeypatch.setattr("torch.cuda.is_initialized", lambda used=used: used)
        timer = PhaseTimer()
        queued.append(10.0)
        with timer("update"):
            queued.append(3.0)
        assert values(timer.metrics()) == {"time/update": seconds}
    queued.clear()
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    meter = SwitchMeter()
    monkeypatch.setattr("reasoner_rl.hybrid.meter._memory_gib", dict)
    with meter.change("sync"), meter.part("sync_load"):
        queued.append(2.0)
    metrics = values(meter.take())
    assert (metrics["time/sync"], metrics["time/sync_load"]) == (2.0, 2.0)


def test_timer_with_a_clock_of_its_own() -> None:
    times = iter([5.0, 7.5])
    timer = PhaseTimer(lambda: next(times))
    with timer("generate"):
        pass
    assert values(timer.metrics()) == {"time/generate": 2.5}


def test_timer_uses_real_time() -> None:
    timer = PhaseTimer()
    with timer("generate"):
        time.sleep(0.02)
    assert 0.015 < values(timer.metrics())["time/generate"] < 5
