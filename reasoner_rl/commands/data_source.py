"""The source of `reasoner-rl data prepare`: a known set by its name, a file, or a repository on the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reasoner_rl.config.data import ColumnMap
from reasoner_rl.datasets.card import Origin
from reasoner_rl.datasets.catalog import CATALOG, NamedSet, split_of
from reasoner_rl.datasets.hub import HubFiles, fetch
from reasoner_rl.errors import ConfigError, did_you_mean
from reasoner_rl.observability.messages import say

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_ENDINGS = (".parquet", ".jsonl")


@dataclass(frozen=True, slots=True)
class Source:
    """Files, and what is known of them."""

    stem: str  # name of what is made of them
    paths: tuple[Path, ...]
    origin: Origin  # without files
    columns: ColumnMap | None = None  # of flat rows as published
    data_source: str | None = None  # of flat rows
    expected: int | None = None  # problems


def find_source(
    given: str,
    *,
    local: Sequence[Path] = (),
    split: str | None = None,
    file: str | None = None,
    revision: str | None = None,
) -> Source:
    """Find the files that a name, a path or a repository stands for, and download them if they are on the hub.

    local: files to read instead of the hub's. split: of a named set. file: pattern of files in a repository.
    revision: of the repository. Raises ConfigError for what is none of the three, and for flags without effect;
    DataError if the hub does not give the files.
    """
    if given in CATALOG:
        _refuse("--file", file, f"{given}, whose files are known: --split chooses between them")
        return _named(CATALOG[given], local, split, revision)
    _refuse("--split", split, "a set that is not one of the known ones")
    if given.endswith(_ENDINGS) or Path(given).exists():
        _refuse("--local-path", local and local[0], "a file, which is local")
        _refuse("--file", file, "a file of this machine")
        _refuse("--revision", revision, "a file of this machine")
        path = Path(given).expanduser()
        return Source(path.stem, (path,), _origin(path.name))
    if _REPOSITORY.fullmatch(given):
        _refuse("--local-path", local and local[0], "a repository: give the file in its place")
        if not file:
            raise ConfigError(
                f"{given}: which of its files? Such as --file 'data/train-*.parquet'; those of several splits would be "
                "read as one set"
            )
        found = _fetch(given, file, revision)
        stem = given.partition("/")[2]
        return Source(stem, found.paths, _origin(given, repository=given, commit=found.commit))
    raise ConfigError(
        f"{given!r} is no file (.parquet or .jsonl), no repository of the hub (owner/name), and none of the known "
        f"sets: {', '.join(CATALOG)}.{did_you_mean(given, CATALOG)}"
    )


def _named(entry: NamedSet, local: Sequence[Path], split: str | None, revision: str | None) -> Source:
    chosen = split_of(entry, split)
    commit = None
    paths = tuple(local)
    if not local:
        found = _fetch(entry.repository, entry.files[chosen], revision)
        paths, commit = found.paths, found.commit
    else:
        _refuse("--revision", revision, "files of --local-path")
    origin = Origin(
        title=entry.title,
        repository=entry.repository,
        commit=commit,
        split=chosen,
        reference=entry.reference,
        licence=entry.licence,
        used_for=entry.used_for,
        files=(),
    )
    return Source(
        entry.stem(chosen), paths, origin, entry.columns, entry.data_source, entry.problems.get(chosen)
    )


def _fetch(repository: str, pattern: str, revision: str | None) -> HubFiles:
    say(f"{repository}: fetching {pattern}, unless the cache has it")
    return fetch(repository, pattern, revision)


def _origin(title: str, repository: str | None = None, commit: str | None = None) -> Origin:
    return Origin(title, repository, commit, None, None, None, None, ())


def _refuse(flag: str, value: object, what: str) -> None:
    if value:
        raise ConfigError(f"{flag} {value} has no effect on {what}")
