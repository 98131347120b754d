"""Files of data sets on the Hugging Face hub, or in this machine's cache of it.

HF_HOME, HF_HUB_CACHE, HF_ENDPOINT (a mirror), HF_TOKEN and HF_HUB_OFFLINE mean what they mean to huggingface_hub.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from reasoner_rl.errors import DataError

_SHARD = re.compile(r"-of-(\d+)\.(?:parquet|jsonl)\Z")
_SHOWN_FILES = 12


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Files of one state of a repository."""

    paths: tuple[Path, ...]
    commit: str


def fetch(repository: str, pattern: str, revision: str | None = None) -> HubFiles:
    """Download the files of a repository of data sets that a pattern names, unless the cache has them.

    pattern: such as ``data/train-*.parquet``; ``*`` stands for any text, slashes too. revision: a branch, tag or
    commit. Raises DataError that says which file is missed, what the hub or the system answered, which cache was looked
    at, and how to do without the hub.
    """
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repository, repo_type="dataset", allow_patterns=[pattern], revision=revision
            )
        )
    except (OSError, ValueError, huggingface_hub.errors.EntryNotFoundError) as error:
        raise DataError(_unreachable(repository, pattern, error)) from error
    held = sorted(file for file in folder.rglob("*") if file.suffix in (".parquet", ".jsonl"))
    wanted = re.compile(re.escape(pattern).replace(r"\*", ".*"))
    paths = [file for file in held if wanted.fullmatch(file.relative_to(folder).as_posix())]
    if not paths or (missing := _missing_shards(paths)):
        what = f"{missing} of the files {pattern} are missing" if paths else f"no file fits {pattern}"
        names = [file.relative_to(folder).as_posix() for file in held]
        more = ", ..." if len(names) > _SHOWN_FILES else ""
        listed = ", ".join(names[:_SHOWN_FILES]) + more if names else "no .parquet or .jsonl file"
        raise DataError(
            f"{repository} (revision {folder.name}): {what}; {folder} holds {listed}. {_remedy(repository, pattern)}"
        )
    return HubFiles(tuple(paths), folder.name)


def _missing_shards(paths: list[Path]) -> int:
    """How many of the files that the names count, as in ``train-00000-of-00010``, are not there."""
    totals = [int(shard[1]) for path in paths if (shard := _SHARD.search(path.name))]
    return max(totals) - len(totals) if totals else 0


def _unreachable(repository: str, pattern: str, error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    offline = ", and HF_HUB_OFFLINE is set" if huggingface_hub.constants.is_offline_mode() else ""
    return (
        f"{pattern} of the hub's data set {repository} cannot be fetched from {huggingface_hub.constants.ENDPOINT} "
        f"({reason}){offline}, and it is not in the cache {huggingface_hub.constants.HF_HUB_CACHE}. "
        f"{_remedy(repository, pattern)}"
    )


def _remedy(repository: str, pattern: str) -> str:
    return (
        f"Where there is a network: `hf download --repo-type dataset {repository} --include '{pattern}'`; then copy "
        "the cache (HF_HOME), or give the files by --local-path FILE. HF_ENDPOINT names a mirror, HF_TOKEN a token"
    )
