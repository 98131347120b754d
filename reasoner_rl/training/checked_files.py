"""Reading torch.distributed.checkpoint's folders without running code that somebody may have put into them.

PyTorch reads ``.metadata``, and every value that is no tensor, with pickle, and a pickle can name any function to call.
Here the first may name the classes that PyTorch itself writes there and nothing else, and the others are read as
``torch.load(weights_only=True)`` reads them. Tensors are read so by PyTorch itself.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load

_ALLOWED = {
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        *("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta"),
        *("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _ALLOWED.get(module, ()) or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f".metadata names {module}.{name}, which PyTorch does not write there")


class CheckedReader(FileSystemReader):
    """Reads the folder of a checkpoint. ``.metadata``, where all tensors are, is read once and not per tensor."""

    _described: Metadata | None = None

    def read_metadata(self, *args: Any, **options: Any) -> Metadata:
        """See FileSystemReader. Raises UnpicklingError if ``.metadata`` names anything unexpected."""
        if self._described is None:
            with (Path(self.path) / ".metadata").open("rb") as file:
                _Unpickler(file).load()
            self._described = super().read_metadata(*args, **options)  # reads it again
        return self._described


class _CheckedPlanner(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)  # raises UnpicklingError
        value.seek(0)
        super().load_bytes(read_item, value)


def load_checked(state: dict[str, Any], reader: CheckedReader, *, no_dist: bool = False) -> None:
    """Load a checkpoint into ``state``, in place; see torch.distributed.checkpoint.load."""
    load(state, storage_reader=reader, planner=_CheckedPlanner(), no_dist=no_dist)
