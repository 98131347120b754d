"""Which settings of theirs a command is given: files, scripts or overrides, and where the trainer's name stands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasoner_rl.config.base import expand_home
from reasoner_rl.config.explain import show
from reasoner_rl.config.translate.read import (
    is_document,
    overrides_of,
    read_document,
    read_flags,
    read_overrides,
    read_script,
    resolve,
)
from reasoner_rl.config.translate.trl_keys import METHODS
from reasoner_rl.config.yaml_text import flat_keys
from reasoner_rl.errors import ConfigError

_SCRIPT = re.compile(r"(?:^|/)(?P<name>[^/]+)\.py$|^trl\.scripts\.(?P<module>\w+)$")


def verl_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Return verl's settings by dotted path, of files and overrides; the last counts.

    A file is YAML or JSON (a configuration, or a list of overrides) or a shell script; anything else with an
    equals sign is an override. Raises ConfigError if a file cannot be read, or holds none.
    """
    settings: dict[str, Any] = {}
    for argument in arguments:
        path = Path(expand_home(argument))
        if "=" in argument and not path.is_file():
            settings.update(read_overrides([argument], "override"))
        elif is_document(path):
            settings.update(_of_document(read_document(path), path))
        else:
            found = overrides_of(read_script(path))
            if not found:
                raise ConfigError(f"{path}: holds no settings of verl, such as data.train_batch_size=512")
            settings.update(read_overrides(found, str(path)))
    return settings


def trl_settings(path: Path) -> tuple[dict[str, Any], str | None, int | None]:
    """Return TRL's arguments, the trainer and the number of processes, where the file has them.

    path: YAML or JSON of arguments, or a shell script or text with `--flag value`. Raises ConfigError if it cannot be
    read, or holds none.
    """
    if is_document(path):
        tree = read_document(path)
        if not isinstance(tree, Mapping):
            raise ConfigError(f"{path}: must hold arguments by name; it holds {show(tree)}")
        return dict(tree), None, None
    words = read_script(path)
    place, named = _command(words)
    given = read_flags(words[place:])
    if not given:
        raise ConfigError(f"{path}: holds no arguments of TRL, such as --num_generations 8")
    devices = given.pop("num_processes", read_flags(words[:place]).get("num_processes"))  # accelerate's
    config = given.pop("config", None)
    if config is not None:  # what the file says counts less than the flags beside it
        other = Path(expand_home(config))
        place_of = other if other.is_absolute() else path.parent / other
        given = {**trl_settings(place_of)[0], **given}
    return given, named, devices if isinstance(devices, int) else None


def _command(words: Sequence[str]) -> tuple[int, str | None]:
    """Where the arguments of a trainer begin, behind those of a launcher, and the trainer if its name says it."""
    for place, word in enumerate(words):
        script = _SCRIPT.search(word)
        if script is not None:
            name = script["name"] or script["module"]
            return place + 1, name if name in METHODS else None
        if word == "trl" and place + 1 < len(words):
            return place + 2, words[place + 1] if words[place + 1] in METHODS else None
    return 0, None


def _of_document(tree: Any, path: Path) -> dict[str, Any]:
    if isinstance(tree, Mapping):
        return resolve(flat_keys(tree))
    if isinstance(tree, list) and all(isinstance(line, str) for line in tree):
        return read_overrides(tree, str(path))
    raise ConfigError(
        f"{path}: must hold verl's configuration, or a list of overrides; it holds {show(tree)}"
    )
