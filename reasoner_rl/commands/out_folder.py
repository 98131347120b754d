"""The folder that `--out` names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reasoner_rl.errors import ConfigError


@contextmanager
def naming_out(folder: Path) -> Iterator[None]:
    """Raise ConfigError that names --out and the file where the system refuses something in ``folder``."""
    try:
        yield
    except OSError as error:
        named = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if name is not None]
        if not named or not named[-1].is_relative_to(folder):
            raise
        raise ConfigError(f"--out={folder}: {named[-1]}: {error.strerror}") from error
