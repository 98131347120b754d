"""What the driver itself must remember to resume after an interruption; the workers save the rest."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasoner_rl.observability.summary import write_json
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup

_FILE = "driver.json"
_LATER = "later.json"  # what happened after the checkpoint, without another step; not in its manifest
_LATER_FIELDS = ("seconds", "evaluations")


@dataclass(slots=True)
class DriverState:
    """Progress of an online run; JSON, so that it can be read."""

    step: int = 0  # finished steps
    version: int = 0  # of the policy: publications of updated weights
    seconds: float = 0.0  # spent in finished steps and evaluations
    sampler: dict[str, Any] = field(default_factory=dict)
    surplus: list[ScoredGroup] = field(default_factory=list)
    all_right: list[str] = field(default_factory=list)  # see GroupCollector
    evaluations: dict[str, dict[str, dict[str, Any]]] = field(
        default_factory=dict
    )  # step -> dataset -> report
    data: dict[str, dict[str, Any]] = field(default_factory=dict)  # dataset -> fingerprint

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint's folder."""
        write_json(folder / _FILE, dataclasses.asdict(self))

    def save_later(self, folder: Path) -> None:
        """Add to the checkpoint of this step what has happened since, such as an evaluation."""
        write_json(folder / _LATER, {name: getattr(self, name) for name in _LATER_FIELDS})

    @classmethod
    def load(cls, folder: Path) -> DriverState:
        """Read the state back, exactly."""
        data = json.loads((folder / _FILE).read_text())
        if (folder / _LATER).exists():
            data |= json.loads((folder / _LATER).read_text())
        return cls(**{**data, "surplus": [_group(item) for item in data["surplus"]]})


def _group(data: dict[str, Any]) -> ScoredGroup:
    prompt = {**data["prompt"], "token_ids": tuple(data["prompt"]["token_ids"])}
    rollouts = (
        Rollout(**{**item, "token_ids": tuple(item["token_ids"]), "logprobs": tuple(item["logprobs"])})
        for item in data["rollouts"]
    )
    rewards = (Reward(**item) for item in data["rewards"])
    return ScoredGroup(Prompt(**prompt), tuple(rollouts), tuple(rewards))


def is_due(step: int, every: int | None) -> bool:
    """Whether something that happens every so many steps happens after ``step``."""
    return every is not None and step % every == 0
