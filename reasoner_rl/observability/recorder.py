"""Every response of a run, for people and for analysis.

output_dir/rollouts/step_000012.parquet             one row per response that was trained on; see `rollout_table`
output_dir/rollouts/step_000012_dropped.parquet     those of groups that the filter dropped; without advantages
output_dir/evaluations/step_000010_<dataset>.parquet  likewise
Files of the same names that end in .jsonl hold one line per response, with means in place of per-token columns.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from reasoner_rl.observability.rollout_rows import record, rows_of_groups
from reasoner_rl.observability.rollout_table import write_rollouts
from reasoner_rl.observability.sinks import read_jsonl
from reasoner_rl.observability.summary import write_jsonl
from reasoner_rl.types import ScoredGroup, TrainSample

logger = logging.getLogger(__name__)

RolloutMode = Literal["all", "first_group", "none"]
RolloutFormat = Literal["parquet", "jsonl", "both"]
_SUFFIXES: dict[RolloutFormat, tuple[str, ...]] = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl",),
    "both": (".jsonl", ".parquet"),
}


class RolloutRecorder:
    """Writes one file per step and format. Files of later steps, which a resumed run will make anew or not reach, go.

    Args:
        folder: the run's output_dir.
        mode: ``logging.rollouts``. Evaluations are recorded in full unless it is ``none``.
        form: ``logging.rollout_format``.
    """

    def __init__(self, folder: Path, mode: RolloutMode, form: RolloutFormat = "both") -> None:
        self._folder = folder
        self._mode = mode
        self._suffixes = _SUFFIXES[form]
        self._last: Path | None = None  # file of the previous step

    def rollouts(
        self,
        step: int,
        groups: Sequence[ScoredGroup],
        samples: Sequence[TrainSample] = (),
        dropped: Sequence[ScoredGroup] = (),
    ) -> Path | None:
        """Record the groups of a training step and return the file, or None if nothing is to be recorded.

        With both formats the file that is returned is the JSONL. ``samples`` are what was made of the responses, in
        order; advantages, loss mask and the trainer's logprobs are null without samples. ``dropped`` groups have a
        file of their own, in mode "all".
        """
        if self._mode == "none":
            return None
        kept = slice(1) if self._mode == "first_group" else slice(None)
        stem = self._folder / "rollouts" / f"step_{step:06d}"
        if self._last is not None and not self._last.exists():
            logger.warning("%s was deleted while the run was writing; later steps are recorded", self._last)
        responses = sum(len(group.rollouts) for group in groups[kept])
        written = self._write(stem, step, groups[kept], samples[:responses])
        self._last = written[0]
        if dropped and self._mode == "all":
            written += self._write(stem.with_name(f"{stem.name}_dropped"), step, dropped)
        for suffix in _SUFFIXES["both"]:
            for other in stem.parent.glob(f"step_*{suffix}"):
                if other.name > stem.name and other not in written:
                    other.unlink()
        self.forget_later_evaluations(step)
        return self._last

    def forget_later_evaluations(self, step: int) -> None:
        """Remove evaluations after later steps than this, which an interrupted run left, unless nothing is recorded."""
        for suffix in _SUFFIXES["both"] if self._mode != "none" else ():
            for other in (self._folder / "evaluations").glob(f"step_*{suffix}"):
                if other.name > f"step_{step + 1:06d}":
                    other.unlink()

    def evaluation(self, step: int, dataset: str, groups: Sequence[ScoredGroup]) -> Path | None:
        """Record the responses to one held-out dataset after ``step`` training steps."""
        if self._mode == "none":
            return None
        # Quoted, so that no two names share a file, and none is a path.
        stem = self._folder / "evaluations" / f"step_{step:06d}_{quote(dataset, safe=' ')}"
        written = self._write(stem, step, groups)
        for suffix in _SUFFIXES["both"]:
            if (other := _file(stem, suffix)) not in written:
                other.unlink(missing_ok=True)
        return written[0]

    def _write(
        self, stem: Path, step: int, groups: Sequence[ScoredGroup], samples: Sequence[TrainSample] = ()
    ) -> list[Path]:
        paths = [_file(stem, suffix) for suffix in self._suffixes]
        for path in paths:
            if path.suffix == ".jsonl":
                write_jsonl(path, map(record, rows_of_groups(step, groups, samples)))
            else:
                write_rollouts(path, step, groups, samples)
        return paths


def _file(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)  # the name of a dataset may hold dots


def missing_records(folder: Path, step: int, mode: RolloutMode, form: RolloutFormat) -> list[str]:
    """What a run that resumes after ``step`` should find in its output_dir ``folder`` and does not, for people."""
    missing, metrics = [], folder / "metrics.jsonl"
    steps = [row["step"] for row in read_jsonl(metrics)]
    if not metrics.exists():
        missing.append(f"{metrics} is missing: it begins anew after step {step}")
    elif step > 0 and step not in steps:
        newest = max((found for found in steps if found < step), default=None)
        there = "no row before it" if newest is None else f"its newest row before that is of step {newest}"
        missing.append(f"{metrics} has no row of step {step}; {there}")
    for suffix in _SUFFIXES[form] if mode != "none" and step > 0 else ():
        rollouts = folder / "rollouts" / f"step_{step:06d}{suffix}"
        if not rollouts.exists():
            missing.append(
                f"{rollouts} is missing: the responses of that step were not recorded, or were deleted"
            )
    return missing
