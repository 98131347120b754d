"""Checkpoint folders: whole or absent, whatever interrupts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reasoner_rl.training.checkpoint import CheckpointStore


def writes(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "state").write_text(text)

    return write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_saved_folders_are_found_newest_last(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=3)
    assert store.latest() is None
    assert store.save(9, writes("nine")) == tmp_path / "checkpoints" / "step_000009"
    store.save(10, writes("ten"))
    assert store.latest() == (10, tmp_path / "checkpoints" / "step_000010")
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_000010\n"
    assert (tmp_path / "checkpoints" / "step_000010" / "inner" / "state").read_text() == "ten"
    assert names(tmp_path / "checkpoints") == ["latest", "step_000009", "step_000010"]


def test_steps_are_compared_as_numbers(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=5)
    for step in (999_999, 1_000_000):
        store.save(step, writes(str(step)))
    assert store.latest() == (1_000_000, tmp_path / "step_1000000")


def test_only_the_last_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    for step in (1, 2, 3, 4):
        store.save(step, writes(str(step)))
    assert names(tmp_path) == ["latest", "step_000003", "step_000004"]


def test_a_write_that_raises_leaves_the_previous_checkpoint_the_latest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    store.save(1, writes("one"))

    def fails(folder: Path) -> None:
        (folder / "half").write_text("written")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.save(2, fails)
    assert not (tmp_path / "step_000002").exists()
    assert store.latest() == (1, tmp_path / "step_000001")
    assert (tmp_path / "step_000001" / "inner" / "state").read_text() == "one"
    assert (tmp_path / "latest").read_text() == "step_000001\n"
    store.save(2, writes("two"))
    assert names(tmp_path) == ["latest", "step_000002"]
    assert names(tmp_path / "step_000002") == ["inner"], "nothing of the failed write got in"


def test_leftovers_of_a_killed_write_are_ignored_then_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    store.save(1, writes("one"))
    for leftover in (".partial_000002", ".partial_000007"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "half").write_text("written")
    assert CheckpointStore(tmp_path, keep_last=2).latest() == (1, tmp_path / "step_000001")
    store.save(2, writes("two"))
    assert names(tmp_path) == ["latest", "step_000001", "step_000002"]
    assert names(tmp_path / "step_000002") == ["inner"]


def test_other_files_are_none_of_its_business(tmp_path: Path) -> None:
    (tmp_path / "step_12").mkdir()
    (tmp_path / "step_000005.bak").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    store = CheckpointStore(tmp_path, keep_last=1)
    assert store.latest() is None
    store.save(1, writes("one"))
    assert names(tmp_path) == ["latest", "notes.txt", "step_000001", "step_000005.bak", "step_12"]


def test_a_step_that_is_saved_already_is_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    store.save(1, writes("old"))
    store.save(1, writes("new"))
    assert (tmp_path / "step_000001" / "inner" / "state").read_text() == "old"
    assert names(tmp_path) == ["latest", "step_000001"]
