"""Every response of a run, for people to read.

output_dir/rollouts/step_000012.jsonl               one line per response that was trained on
output_dir/rollouts/step_000012_dropped.jsonl       those of groups that the filter dropped; the advantage is null
output_dir/evaluations/step_000010_<dataset>.jsonl  likewise
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from reasoner_rl.observability.sinks import read_jsonl
from reasoner_rl.observability.summary import write_jsonl
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup, TrainSample

logger = logging.getLogger(__name__)

RolloutMode = Literal["all", "first_group", "none"]


class RolloutRecorder:
    """Writes one file per step. Files of later steps, which a resumed run will make anew or not reach, go.

    Args:
        folder: the run's output_dir.
        mode: ``logging.rollouts``. Evaluations are recorded in full unless it is ``none``.
    """

    def __init__(self, folder: Path, mode: RolloutMode) -> None:
        self._folder = folder
        self._mode = mode
        self._last: Path | None = None  # file of the previous step

    def rollouts(
        self,
        step: int,
        groups: Sequence[ScoredGroup],
        samples: Sequence[TrainSample] = (),
        dropped: Sequence[ScoredGroup] = (),
    ) -> Path | None:
        """Record the groups of a training step and return the file, or None if nothing is to be recorded.

        ``samples`` are what was made of the responses, in order; the recorded advantage is the mean over a response's
        tokens, and null without samples. ``dropped`` groups have a file of their own, in mode "all".
        """
        if self._mode == "none":
            return None
        kept = slice(1) if self._mode == "first_group" else slice(None)
        path = self._folder / "rollouts" / f"step_{step:06d}.jsonl"
        if self._last is not None and not self._last.exists():
            logger.warning("%s was deleted while the run was writing; later steps are recorded", self._last)
        self._last = path
        responses = sum(len(group.rollouts) for group in groups[kept])
        write_jsonl(path, _lines(step, groups[kept], samples[:responses]))
        if dropped and self._mode == "all":
            write_jsonl(path.with_name(f"{path.stem}_dropped.jsonl"), _lines(step, dropped, ()))
        for folder in ("rollouts", "evaluations"):
            for other in (self._folder / folder).glob("step_*.jsonl"):
                if other.name > f"step_{step + 1:06d}":
                    other.unlink()
        return path

    def evaluation(self, step: int, dataset: str, groups: Sequence[ScoredGroup]) -> Path | None:
        """Record the responses to one held-out dataset after ``step`` training steps."""
        if self._mode == "none":
            return None
        # Quoted, so that no two names share a file, and none is a path.
        path = self._folder / "evaluations" / f"step_{step:06d}_{quote(dataset, safe=' ')}.jsonl"
        write_jsonl(path, _lines(step, groups, ()))
        return path


def missing_records(folder: Path, step: int, mode: RolloutMode) -> list[str]:
    """What a run that resumes after ``step`` should find in its output_dir ``folder`` and does not, for people."""
    missing, metrics = [], folder / "metrics.jsonl"
    steps = [row["step"] for row in read_jsonl(metrics)]
    if not metrics.exists():
        missing.append(f"{metrics} is missing: it begins anew after step {step}")
    elif step > 0 and step not in steps:
        newest = max((found for found in steps if found < step), default=None)
        there = "no row before it" if newest is None else f"its newest row before that is of step {newest}"
        missing.append(f"{metrics} has no row of step {step}; {there}")
    rollouts = folder / "rollouts" / f"step_{step:06d}.jsonl"
    if mode != "none" and step > 0 and not rollouts.exists():
        missing.append(
            f"{rollouts} is missing: the responses of that step were not recorded, or were deleted"
        )
    return missing


def _lines(
    step: int, groups: Sequence[ScoredGroup], samples: Sequence[TrainSample]
) -> Iterator[dict[str, Any]]:
    responses = [
        (group.prompt, rollout, reward)
        for group in groups
        for rollout, reward in zip(group.rollouts, group.rewards, strict=True)
    ]
    known: list[float | None] = [float(sample.advantages.double().mean()) for sample in samples]
    advantages = known[: len(responses)] or [None] * len(
        responses
    )  # of the first groups alone, if not all are recorded
    for (prompt, rollout, reward), advantage in zip(responses, advantages, strict=True):
        yield _line(step, prompt, rollout, reward, advantage)


def _line(
    step: int, prompt: Prompt, rollout: Rollout, reward: Reward, advantage: float | None
) -> dict[str, Any]:
    logprobs = rollout.logprobs
    return {
        "step": step,
        "uid": prompt.uid,
        "data_source": prompt.data_source,
        "prompt": prompt.text,
        "response": rollout.text,
        "ground_truth": prompt.ground_truth,
        "extracted": reward.extracted,
        "accuracy": reward.accuracy,
        "score": reward.score,
        "components": dict(reward.components),
        "status": reward.status,
        "advantage": advantage,
        "trained": reward.trained,
        "tokens": len(rollout.token_ids),
        "finish_reason": rollout.finish_reason,
        "mean_logprob": sum(logprobs) / len(logprobs) if logprobs else None,
        "policy_version": rollout.policy_version,
    }
