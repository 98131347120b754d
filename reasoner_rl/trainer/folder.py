"""The folder of a run: kept for one run at a time, with a record of what the run is."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from reasoner_rl.config.kinds import AnyRecipe
from reasoner_rl.config.load import dump_recipe
from reasoner_rl.config.run import RunConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.observability.summary import atomic_writer, write_json
from reasoner_rl.observability.versions import versions
from reasoner_rl.seeding import derive_seed
from reasoner_rl.training.disk_space import partial_of


@contextmanager
def exclusive_folder(folder: Path, key: str) -> Iterator[None]:
    """Make a folder and keep other processes that ask for it out while the block runs.

    key: what the user names the folder by. Raises ConfigError if it cannot be written to, or if another process has it.
    Folders that were made for a block that raises before it writes anything are removed.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"{key}={folder}: must be a folder that can be written to: {error.strerror}"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{key}={folder}: another run is writing there; wait for it, or choose another folder"
            ) from error
        except OSError:
            pass  # a file system without locks
        try:
            yield
        except BaseException:
            if missing:
                _remove_unused(folder, missing)
            raise


def _remove_unused(folder: Path, made: Sequence[Path]) -> None:
    """Remove the folders that were made, from the innermost outwards, unless something was written."""
    with suppress(OSError):
        if [each.name for each in folder.iterdir()] == [".lock"]:
            (folder / ".lock").unlink()
            for each in made:
                each.rmdir()


@contextmanager
def output_folder(run: RunConfig, key: str = "run.output_dir") -> Iterator[Path]:
    """Make ``run.output_dir`` and keep other runs out of it while the block runs; see `exclusive_folder`."""
    output = run.output_dir
    with exclusive_folder(output, key):
        shutil.rmtree(partial_of(output / "final"), ignore_errors=True)  # of an export that was killed
        yield output


def begin_run(config: AnyRecipe) -> None:
    """Set torch's threads and seed."""
    transformers_logging.disable_progress_bar()  # bars of a second, between lines that matter
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    torch.manual_seed(derive_seed(config.run.seed, "torch"))


def record_run(config: AnyRecipe) -> None:
    """Write the resolved recipe and the versions into the output folder, when all that can be refused was checked."""
    output = config.run.output_dir
    with atomic_writer(output / "recipe.yaml") as file:
        file.write(dump_recipe(config))
    write_json(
        output / "run.json", {"started": datetime.now(UTC).isoformat(timespec="seconds"), **versions()}
    )
