"""Checkpoints that would run code are refused, and those that PyTorch writes are read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_saver import save

from reasoner_rl.training.checked_files import CheckedReader, load_checked


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    state = {
        "weights": torch.arange(6.0).reshape(2, 3),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "rate": 0.5,
    }
    save(state, checkpoint_id=tmp_path / "saved", no_dist=True)
    return tmp_path / "saved"


def test_what_pytorch_writes_is_read(folder: Path) -> None:
    state = {"weights": torch.zeros(2, 3), "half": torch.zeros(2, dtype=torch.bfloat16), "rate": 0.0}
    load_checked(state, CheckedReader(folder), no_dist=True)
    assert torch.equal(state["weights"], torch.arange(6.0).reshape(2, 3))  # type: ignore[arg-type]
    assert state["rate"] == 0.5
    assert CheckedReader(folder).read_metadata().state_dict_metadata.keys() == {"weights", "half", "rate"}


def test_metadata_that_would_run_code_are_refused(folder: Path, tmp_path: Path) -> None:
    file, mark = folder / ".metadata", tmp_path / "mark"
    metadata: Metadata = pickle.loads(file.read_bytes())
    metadata.planner_data = Evil(mark)
    file.write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointException, match=r"\.metadata names pathlib\.Path\.touch"):
        load_checked({"weights": torch.zeros(2, 3)}, CheckedReader(folder), no_dist=True)
    assert not mark.exists()
    pickle.loads(file.read_bytes())
    assert mark.exists(), "the file would have run it"


def test_values_that_would_run_code_are_refused(tmp_path: Path) -> None:
    mark, folder = tmp_path / "mark", tmp_path / "saved"
    save({"rate": Evil(mark)}, checkpoint_id=folder, no_dist=True)
    assert not mark.exists()
    with pytest.raises(CheckpointException, match=r"Weights only|weights_only"):
        load_checked({"rate": 0.0}, CheckedReader(folder), no_dist=True)
    assert not mark.exists()
