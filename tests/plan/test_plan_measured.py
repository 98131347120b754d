"""The plan's memory against a real step on a CPU, with each backend."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from reasoner_rl.commands.probe import probe

LARGEST_GAP = 0.15


@pytest.fixture(scope="module")
def bench(repository: Path) -> ModuleType:
    """scripts/bench/plan_memory.py."""
    file = repository / "scripts" / "bench" / "plan_memory.py"
    spec = importlib.util.spec_from_file_location("plan_memory_bench", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoint(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 million random weights."""
    folder: Path = bench.make_checkpoint(tmp_path_factory.mktemp("plan") / "model", bench.SHAPES["64M"])
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="peaks by phase are read from Linux's /proc")
@pytest.mark.parametrize("backend", ["fsdp", "megatron"])
def test_planned_memory_is_near_the_measured_peaks(
    bench: ModuleType, checkpoint: Path, tmp_path: Path, backend: str
) -> None:
    """Resident memory above that of the imports, of generation, logprobs and two updates."""
    if backend == "megatron":
        pytest.importorskip("megatron.core")
        pytest.importorskip("mbridge")
    data = bench.write_problems(tmp_path / "problems.jsonl")
    config = bench.recipe(checkpoint, data, bench.Case("64M", 4, 64, 4), backend)
    found = list(bench.rows(bench.planned_memory(config), probe(config)))
    assert [phase for phase, _, _ in found] == ["generate", "prepare", "update"]
    for phase, planned, measured in found:
        assert measured > 0.45  # GiB: the model twice, at least
        assert planned == pytest.approx(measured, rel=LARGEST_GAP), phase
