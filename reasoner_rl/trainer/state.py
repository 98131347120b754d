"""What the driver itself must remember to resume after an interruption; the workers save the rest."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasoner_rl.errors import UserError
from reasoner_rl.observability.summary import write_json

_FILE = "driver.json"
_FORMAT = 3  # of that file, and of the layout of a checkpoint; the first had no number
_LATER = "later.json"  # what happened after the checkpoint, without another step; not in its manifest
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
        write_json(folder / _LATER, {name: getattr(self, name) for name in _LATER_FIELDS})

    @classmethod
    def load(cls, folder: Path) -> DriverState:
        """Read the state back, exactly. Raises UserError if another version of this package wrote it."""
        data = json.loads((folder / _FILE).read_text())
        if (found := data.pop("format", 1)) != _FORMAT:
            raise UserError(
                f"{folder / _FILE} has format {found}, and this version of reasoner_rl resumes from format {_FORMAT}: "
                "finish the run with the version that began it, or choose another run.output_dir for a new run, which "
                "can start from exported weights (model.path)"
            )
        if (folder / _LATER).exists():
            data |= json.loads((folder / _LATER).read_text())
        return cls(**data)


def is_due(step: int, every: int | None) -> bool:
    """Whether something that happens every so many steps happens after ``step``."""
    return every is not None and step % every == 0
