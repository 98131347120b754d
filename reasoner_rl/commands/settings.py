"""What a folder's files were made with, so that they are not mixed with files made otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasoner_rl.config.yaml_text import flat_keys
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.summary import write_json

SETTINGS = "settings.json"


def settle(folder: Path, settings: Mapping[str, Any], what: str) -> None:
    """Note what a folder's files depend on, or compare it with what those that are there were made with.

    settings: as JSON can hold it. what: the files, for messages, such as "answers that were sampled".
    Raises ConfigError naming the settings that differ, and DataError if the note cannot be read.
    """
    file = folder / SETTINGS
    if not file.exists():
        write_json(file, settings)
        return
    otherwise = "choose another folder, or delete this one"
    try:
        old = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read ({error}): {otherwise}") from error
    if not isinstance(old, dict):
        raise DataError(f"{file}: must hold a mapping of settings; it is {str(old)[:80]}: {otherwise}")
    before, now = flat_keys(old), flat_keys(settings)
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if changed:
        raise ConfigError(
            f"{folder} holds {what} with other settings ({', '.join(changed)}; see {file}): {otherwise}"
        )
