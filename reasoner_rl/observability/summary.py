"""Files that are either whole or absent, and JSON that any reader takes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of the block name ``path`` if it names no file: writing to an open file does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_path(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path whose file takes its place at ``path`` when the block ends without an error.

    shared: other processes may write the same file meanwhile, so the temporary one has this process's number.

    Whoever reads ``path`` meanwhile, or after a crash, finds the previous file or none. An OSError of the block that
    names no file, as of a full disk, gets the name of ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if shared else f".{path.name}.tmp")
    try:
        with naming(path):
            yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_writer(path: Path) -> Iterator[TextIO]:
    """Open a text file for writing that takes its place as `atomic_path` says."""
    # A lone surrogate, which UTF-8 cannot hold, becomes \udxxx: inside a JSON string that is the same
    # character.
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        yield file
        file.flush()
        os.fsync(file.fileno())


def json_ready(data: Any) -> Any:
    """Replace NaN and infinities, which JSON does not know, by null."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: json_ready(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [json_ready(value) for value in data]
    return data


def write_json(path: Path, data: Any) -> None:
    """Write one indented JSON document, such as summary.json."""
    with atomic_writer(path) as file:
        json.dump(json_ready(data), file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line."""
    with atomic_writer(path) as file:
        for row in rows:
            file.write(json.dumps(json_ready(row), ensure_ascii=False, allow_nan=False) + "\n")
