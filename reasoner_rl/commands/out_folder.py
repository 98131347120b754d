"""The folder that `--out` names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reasoner_rl.errors import ConfigError

OUT = "--out"


@contextmanager
def naming_out(folder: Path, key: str = OUT) -> Iterator[None]:
    """Raise ConfigError that names the file where the system refuses something in ``folder``, and what chose that."""
    try:
        yield
    except OSError as error:
        named = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if name is not None]
        if not named or not named[-1].is_relative_to(folder):
            raise
        raise ConfigError(f"{key}={folder}: {named[-1]}: {error.strerror}") from error
