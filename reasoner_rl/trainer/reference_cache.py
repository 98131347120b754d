"""Logprobs of the reference, computed once for all data of a run and kept in files: no second model is needed.

The reference is the policy as it is before the first step, so the policy itself computes them. They depend on the
model, the tokens of the data (and so on the template), the number format and LoRA: their folder's name is a hash of
these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from reasoner_rl.algorithms.base import Policy
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.preference import DpoConfig
from reasoner_rl.config.recipes import PreferenceConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.progress import progress_bar
from reasoner_rl.observability.summary import atomic_path
from reasoner_rl.prompts.fingerprint import Fingerprint
from reasoner_rl.types import Example, TrainSample

EXAMPLES_PER_FILE = 1024


def with_precomputed_reference(
    config: PreferenceConfig, examples: Sequence[Example], data: Fingerprint, policy: Policy
) -> list[Example]:
    """Attach the reference's logprobs to all samples, from files where they exist, if the recipe asks for that.

    data: the fingerprint of the examples. ``policy`` must hold the weights of the start, also in a run that is resumed.
    An interruption keeps the files that were finished. Raises DataError for a file that cannot be read, and ConfigError
    for a folder that cannot be made or written to.
    """
    algorithm = config.algorithm
    if not isinstance(algorithm, DpoConfig) or algorithm.reference == "live":
        return list(examples)
    cache = algorithm.reference_cache
    parent = cache or config.run.output_dir / "reference_logprobs"
    chosen = f"algorithm.reference_cache={cache}" if cache else f"run.output_dir={config.run.output_dir}"
    folder = parent / _key(config.model, data)
    starts = range(0, len(examples), EXAMPLES_PER_FILE)
    parts = [examples[start : start + EXAMPLES_PER_FILE] for start in starts]
    files = [folder / f"part_{number:05d}.safetensors" for number in range(len(parts))]
    with _as_config_error(chosen, folder):
        folder.mkdir(parents=True, exist_ok=True)
        missing = sum(not file.exists() for file in files)
    say(f"reference logprobs: {len(files) - missing} of {len(files)} files exist in {folder}")
    attached: list[Example] = []
    with progress_bar(config.logging.progress, "reference logprobs", missing) as advance:
        for part, file in zip(parts, files, strict=True):
            if not file.exists():
                # What must stay together is an example, as in `ExampleStream.take`.
                numbered = [sample.replace(group=n) for n, example in enumerate(part) for sample in example]
                logprobs = policy.logprobs(numbered)
                with _as_config_error(chosen, file):
                    _write(file, logprobs)
                advance(1)
            attached += _attach(part, _read(file, part))
    if cache is None:  # no other run writes here, so that what is left is of a start that was killed
        for left in folder.glob(".part_*.tmp"):
            left.unlink()
    return attached


@contextmanager
def _as_config_error(chosen: str, path: Path) -> Iterator[None]:
    """Make a ConfigError of what the system refuses. chosen: the key that ``path`` comes from, with its value."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{chosen}: {path} cannot be written: {error}") from error


def _write(file: Path, logprobs: Sequence[Tensor]) -> None:
    with atomic_path(file, shared=True) as temporary:  # another run may compute the same
        # Not save_file, whose files only their owner can read.
        temporary.write_bytes(save({"logprobs": torch.cat(list(logprobs)).float().contiguous()}))


def _read(file: Path, part: Sequence[Example]) -> Iterator[Tensor]:
    """The logprobs [R] of each sample."""
    lengths = [len(sample.response_ids) for example in part for sample in example]
    try:
        found = load_file(file)["logprobs"]
    except (OSError, KeyError, SafetensorError) as error:
        raise DataError(f"{file}: cannot be read ({error}): delete it, and it is computed again") from error
    if len(found) != sum(lengths):
        raise DataError(
            f"{file}: holds {len(found)} logprobs, and its answers have {sum(lengths)} tokens: delete it, and it is "
            "computed again"
        )
    # Copies: a view would be sent to a worker with the whole file's numbers.
    return (values.clone() for values in found.split(lengths))


def _attach(part: Iterable[Example], logprobs: Iterator[Tensor]) -> list[Example]:
    def attach(sample: TrainSample) -> TrainSample:
        return sample.replace(reference_logprobs=next(logprobs))

    return [tuple(attach(sample) for sample in example) for example in part]


def _key(model: ModelConfig, data: Fingerprint) -> str:
    """The hash of all that the logprobs depend on. Of a model in a folder it knows names, sizes and times of files."""
    folder = Path(model.path)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    described = {
        "model": [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files] or model.path,
        "settings": model.model_dump(mode="json", exclude={"path", "gradient_checkpointing"}),
        "data": dict(data),
        "examples_per_file": EXAMPLES_PER_FILE,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
