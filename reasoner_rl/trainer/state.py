"""What the driver itself must remember to resume after an interruption; the workers save the rest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasoner_rl.errors import DataError, UserError
from reasoner_rl.observability.summary import json_ready, write_json

_FILE = "driver.json"
_FORMAT = 3  # of that file, and of the layout of a checkpoint; the first had no number
_LATER = "later.json"  # what happened after the checkpoint, without another step; it has a hash of its own
_HASH = "sha256"
_LATER_FIELDS = ("seconds", "evaluations", "returns")


@dataclass(slots=True)
class DriverState:
    """Progress of a training run; JSON, so that it can be read."""

    step: int = 0  # finished steps
    # Of the policy: training steps that updated a model. It is behind ``step`` where steps were skipped, because their
    # responses are still those of the present weights: by ``step`` they would count as stale and off-policy.
    version: int = 0
    seconds: float = 0.0  # spent in finished steps and evaluations
    returns: int = (
        0  # how often the run went back to a checkpoint after an alarm; enters the seeds of sampling
    )
    source: dict[str, Any] = field(default_factory=dict)  # see Source.state
    algorithm: dict[str, Any] = field(default_factory=dict)  # see Algorithm.state
    # step -> dataset -> report
    evaluations: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)  # dataset -> fingerprint

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint's folder."""
        write_json(folder / _FILE, {"format": _FORMAT, **dataclasses.asdict(self)})

    def save_later(self, folder: Path) -> None:
        """Add to the checkpoint of this step what has happened since, such as an evaluation."""
        later = {name: getattr(self, name) for name in _LATER_FIELDS}
        write_json(folder / _LATER, later | {_HASH: _hash_of(later)})

    @classmethod
    def load(cls, folder: Path) -> DriverState:
        """Read the state back, exactly.

        Raises UserError if another version of this package wrote it, DataError if what was added later has changed.
        """
        data = json.loads((folder / _FILE).read_text())
        if (found := data.pop("format", 1)) != _FORMAT:
            raise UserError(
                f"{folder / _FILE} has format {found}, and this version of reasoner_rl resumes from format {_FORMAT}: "
                "finish the run with the version that began it, or choose another run.output_dir for a new run, which "
                "can start from exported weights (model.path)"
            )
        if (folder / _LATER).exists():
            data |= _read_later(folder / _LATER)
        return cls(**data)


def _read_later(file: Path) -> dict[str, Any]:
    later: dict[str, Any] = json.loads(file.read_text())
    saved = later.pop(_HASH, None)  # earlier versions wrote none
    if saved is not None and saved != _hash_of(later):
        raise DataError(f"{_LATER} has other contents than were saved (SHA-256)")
    return later


def _hash_of(later: dict[str, Any]) -> str:
    """SHA-256 of what is read back, however it is laid out in the file."""
    read = json.loads(json.dumps(json_ready(later)))
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def is_due(step: int, every: int | None) -> bool:
    """Whether something that happens every so many steps happens after ``step``."""
    return every is not None and step % every == 0
