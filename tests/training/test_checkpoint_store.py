"""Checkpoint folders: whole or absent, whatever interrupts."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from torch.distributed.checkpoint.api import CheckpointException

from reasoner_rl.errors import DiskFullError, UserError
from reasoner_rl.training.checkpoint import CheckpointStore, reading, verify
from reasoner_rl.training.disk_space import amount
from reasoner_rl.training.manifest import verify_manifest


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
    assert names(tmp_path) == ["latest", "step_000001"], "nothing of the failed write fills the disk"
    assert store.latest() == (1, tmp_path / "step_000001")
    assert (tmp_path / "step_000001" / "inner" / "state").read_text() == "one"
    assert (tmp_path / "latest").read_text() == "step_000001\n"
    store.save(2, writes("two"))
    assert names(tmp_path) == ["latest", "step_000002"]
    assert names(tmp_path / "step_000002") == ["inner", "manifest.json"], "nothing of the failed write got in"


def test_leftovers_of_a_killed_write_are_ignored_then_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    store.save(1, writes("one"))
    for leftover in (".partial_000002", ".partial_000007"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "half").write_text("written")
    assert CheckpointStore(tmp_path, keep_last=2).latest() == (1, tmp_path / "step_000001")
    store.save(2, writes("two"))
    assert names(tmp_path) == ["latest", "step_000001", "step_000002"]
    assert names(tmp_path / "step_000002") == ["inner", "manifest.json"]


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


def test_a_file_with_a_checkpoints_name_is_none(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    store.save(3, writes("three"))
    (tmp_path / "step_000050").write_text("stray")
    assert store.latest() == (3, tmp_path / "step_000003")
    store.save(4, writes("four"))
    assert (tmp_path / "step_000050").read_text() == "stray"
    with pytest.raises(UserError, match=r"step_000050 is a file, where the checkpoint of step 50 belongs"):
        store.save(50, writes("fifty"))


def test_a_kill_between_rename_and_pointer_is_made_good(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    for step in (1, 2):
        store.save(step, writes(str(step)))
    shutil.copytree(tmp_path / "step_000002", tmp_path / "step_000003")
    (tmp_path / ".partial_000004").mkdir()
    assert (tmp_path / "latest").read_text() == "step_000002\n"
    store.tidy()
    assert names(tmp_path) == ["latest", "step_000002", "step_000003"]
    assert (tmp_path / "latest").read_text() == "step_000003\n"


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_manifest_holds_length_and_hash_of_every_file(tmp_path: Path) -> None:
    folder = CheckpointStore(tmp_path, keep_last=2).save(1, writes("abc"))
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180-2
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == {"files": {"inner/state": {"bytes": 3, "sha256": sha256}}}
    verify_manifest(folder)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip_a_bit, "inner/state has other contents than were saved"),
        (lambda path: path.write_text("fou"), "inner/state has 3 bytes, and 4 were saved"),
        (Path.unlink, "inner/state is missing"),
        (lambda path: (path.parent.parent / "manifest.json").write_text(""), "manifest.json cannot be read"),
    ],
)
def test_a_damaged_file_is_named_and_the_whole_checkpoint_before_it_offered(
    damage: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    store = CheckpointStore(tmp_path, keep_last=3)
    folders = [store.save(step, writes("four")) for step in (8, 9, 10)]
    for folder in folders:
        verify(folder)
    damage(folders[2] / "inner" / "state")
    with pytest.raises(UserError, match=rf"checkpoint .*step_000010 is damaged: {said}.* from step_000009"):
        verify(folders[2])
    flip_a_bit(folders[1] / "inner" / "state")
    with pytest.raises(UserError, match="Delete step_000010, and the same command resumes from step_000008"):
        verify(folders[2])
    flip_a_bit(folders[0] / "inner" / "state")
    with pytest.raises(UserError, match="There is none before it that is whole"):
        verify(folders[2])


def test_an_interruption_of_a_write_stays_one_however_it_is_wrapped(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("a library's own error") from error

    with pytest.raises(KeyboardInterrupt):
        CheckpointStore(tmp_path, keep_last=1).save(1, write)
    assert names(tmp_path) == []
    with pytest.raises(KeyboardInterrupt), reading(tmp_path):
        write(tmp_path)


def test_room_is_checked_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    store.save(1, writes("x" * 3000))
    usage = shutil._ntuple_diskusage(10_000, 8_000, 2_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)

    def write(folder: Path) -> None:
        raise AssertionError("written to")

    with pytest.raises(DiskFullError) as raised:
        store.save(2, write)
    text = str(raised.value)
    assert text.startswith(
        f"the checkpoint of step 2 does not fit on the disk of {tmp_path}: it needs at least 3.1 KiB"
    )
    assert "and 2.0 KiB are free" in text
    assert "the same command resumes from step_000001" in text
    assert names(tmp_path) == ["latest", "step_000001"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if mount is None or subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_while_writing_is_told_and_freed(small_disk: Path) -> None:
    store = CheckpointStore(small_disk, keep_last=2)
    store.save(1, writes("x" * 400_000))

    def write(folder: Path) -> None:
        (folder / "state").write_bytes(b"x" * 900_000)

    with pytest.raises(DiskFullError) as raised:
        store.save(2, write)
    free = re.fullmatch(
        rf"the checkpoint of step 2 does not fit on the disk of {small_disk}: it needs more than the ([\d.]+ KiB) that "
        r"are free \(\[Errno 28\] No space left on device\)\. Make room there, .*; the same command resumes from "
        "step_000001",
        str(raised.value),
    )
    assert free, raised.value
    assert free[1] == amount(shutil.disk_usage(small_disk).free)
    assert names(small_disk) == ["latest", "step_000001"]
    assert shutil.disk_usage(small_disk).free > 500_000
    verify(small_disk / "step_000001")
    store.save(2, writes("x" * 400_000))
    with pytest.raises(DiskFullError, match=r"the checkpoint of step 3 does not fit .* from step_000002"):
        store.save(3, writes("x" * 400_000))
    assert names(small_disk) == ["latest", "step_000001", "step_000002"], "nothing older is deleted before"


def fill_up(disk: Path) -> None:
    """Leave no room for a single page."""
    with (disk / "fill").open("wb") as file, suppress(OSError):
        while True:
            os.write(file.fileno(), b"x" * 4096)
    assert shutil.disk_usage(disk).free == 0


def test_a_full_disk_is_left_as_it_was_by_a_start(small_disk: Path) -> None:
    store = CheckpointStore(small_disk, keep_last=2)
    store.save(1, writes("x" * 1000))
    fill_up(small_disk)
    store.tidy()
    assert names(small_disk) == ["fill", "latest", "step_000001"]
    (small_disk / "latest").unlink()
    (small_disk / "step_000001" / "more").write_bytes(b"x" * 4096)  # takes the page of the pointer
    with pytest.raises(OSError, match="No space left"):
        store.tidy()
    assert names(small_disk) == ["fill", "step_000001"], "no empty pointer is left behind"


def test_a_checkpoint_takes_its_place_only_if_there_is_room_to_name_it(small_disk: Path) -> None:
    store = CheckpointStore(small_disk, keep_last=1)
    store.save(1, writes("x" * 1000))

    def write(folder: Path) -> None:
        writes("x" * 1000)(folder)
        (folder / "manifest.json").write_bytes(b"x" * 4096)  # its page is there, and none for a pointer
        fill_up(small_disk)

    with pytest.raises(DiskFullError, match="the same command resumes from step_000001"):
        store.save(2, write)
    assert names(small_disk) == ["fill", "latest", "step_000001"]
    assert (small_disk / "latest").read_text() == "step_000001\n"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        CheckpointException("", {0: (OSError(errno.ENOSPC, "full"), None)}),  # type: ignore[dict-item]
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError(
            "[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/3"
        ),
    ],
)
def test_libraries_errors_of_a_full_disk_are_understood(error: BaseException, tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        raise error

    with pytest.raises(
        DiskFullError, match=r"the checkpoint of step 1 does not fit .* nothing was saved before"
    ):
        CheckpointStore(tmp_path, keep_last=1).save(1, write)
