"""`reasoner-rl replay`: whether a recorded step can be made again, and what another loss or verifier had given."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy

from reasoner_rl.advantages.filters import teaches
from reasoner_rl.config.load import change_recipe
from reasoner_rl.config.recipes import OnlineConfig, TrainConfig
from reasoner_rl.config.yaml_text import flat_keys
from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.progress import progress_bar
from reasoner_rl.observability.rollout_table import read_rollouts
from reasoner_rl.rewards.process import dry_run
from reasoner_rl.rewards.queueing import answer_of
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.sources.generate import reward_task, score_groups
from reasoner_rl.trainer.replay import (
    Recording,
    Replay,
    ReplayedStep,
    find_recording,
    record_of,
    replaying,
    tell_start,
    trained_roles,
)
from reasoner_rl.types import Reward, ScoredGroup, TrainSample

_CHANGEABLE = ("algorithm", "reward")
_MEASURED = "memory/"  # differs from run to run
_DECISIVE = ("/loss", "/grad_norm")  # ends of names of the metrics that must be as logged
# Of absolute differences below 1 and of relative ones above. In 16 bits kernels may add up in another order.
_TOLERANCES = {"float32": 1e-6, "bfloat16": 1e-2, "float16": 1e-2}


@dataclass(frozen=True, slots=True)
class Compared:
    """A metric of the step."""

    name: str
    logged: float | None  # None: only the changed recipe has it
    again: float | None
    changed: float | None = None  # under the changed recipe

    def agrees(self, tolerance: float) -> bool:
        """Whether the number is as logged."""
        assert self.logged is not None
        assert self.again is not None
        return math.isclose(self.logged, self.again, rel_tol=tolerance, abs_tol=tolerance)


@dataclass(frozen=True, slots=True)
class ChangedVerdict:
    """A response of which other reward functions say something else."""

    uid: str
    response: int  # its number in the group
    before: Reward
    after: Reward


@dataclass(frozen=True, slots=True)
class Changed:
    """What another recipe does in the same step, on the same responses."""

    verdicts: list[ChangedVerdict]
    responses: int  # in the record
    dropped: int  # groups that the filter of dynamic sampling would not have kept
    tokens: int  # response tokens that both recipes train on
    other_sign: int  # of them, those whose advantage has another sign, 0 being a sign of its own
    mean_change: float  # of their advantages, without sign


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """A step that was made again."""

    recording: Recording
    metrics: list[Compared]
    tolerance: float
    differ: list[str]  # decisive metrics that are not as logged, of this step and of those on the way to it
    largest: Mapping[
        str, float
    ]  # differences of per-token columns from the record, in nats or units of the advantage
    changed: Changed | None = None  # where there are responses and another recipe


def replay_step(
    run: Path, step: int, changes: Sequence[str] = (), tolerance: float | None = None
) -> ReplayReport:
    """Make a step again, and once more with changed keys of ``algorithm`` and ``reward``, if there are any.

    tolerance: what counts as equal; by default 1e-6 in float32 and 1e-2 in 16 bits. Raises ConfigError, DataError or
    UserError if the record or a checkpoint is not there or damaged, or if a change does not fit.
    """
    recording = find_recording(run, step)
    limit = _TOLERANCES[recording.config.model.dtype] if tolerance is None else tolerance
    other = _changed_recipe(recording.config, changes) if changes else None
    tell_start(recording)
    with tempfile.TemporaryDirectory(prefix="reasoner_rl_replay_") as folder:
        with replaying(recording) as replay:
            differ = _go_there(replay, recording, limit)
            if other is not None and step > recording.first:
                replay.save(Path(folder))
                recording = replace(recording, checkpoint=(step - 1, Path(folder)))
            again = replay.step()
        compared = _compare(recording.logged[step], again.metrics)
        differ += _different(step, compared, limit)
        largest = _largest_differences(run, step, again)
        if other is None:
            return ReplayReport(recording, compared, limit, differ, largest)
        kept = _kept_under(other, recording.config, again.groups)
        with replaying(replace(recording, config=other), lambda _: list(kept.values())) as replay:
            found = replay.step()
    rows = [replace(row, changed=found.metrics.get(row.name)) for row in compared]
    known = {row.name for row in compared}
    rows += [
        Compared(name, None, None, value)
        for name, value in found.metrics.items()
        if name not in known and not name.startswith(_MEASURED)
    ]
    changed = _changes(again, found, list(kept)) if again.groups else None
    return ReplayReport(recording, rows, limit, differ, largest, changed)


def _changed_recipe(config: TrainConfig, changes: Sequence[str]) -> TrainConfig:
    """The recipe with other keys. Raises ConfigError for a key that would make another run of it."""
    changed = change_recipe(config, changes)
    assert isinstance(changed, type(config))
    old, new = (flat_keys(each.model_dump(mode="json")) for each in (config, changed))
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if not keys:
        raise ConfigError(f"{' '.join(changes)}: the run has these values; name a key that differs")
    for key in keys:
        if not key.startswith(tuple(f"{section}." for section in _CHANGEABLE)):
            raise ConfigError(
                f"{key}: a step is made again on the same models and responses, so that only keys of "
                f"{' and '.join(_CHANGEABLE)} can be changed"
            )
    rescores = any(key.startswith("reward.") for key in keys)
    if rescores and not isinstance(config, OnlineConfig):
        raise ConfigError(f"{keys[-1]}: the run learns from examples, which are not scored")
    if rescores and isinstance(config, OnlineConfig) and config.reward_model is not None:
        raise ConfigError(
            "reward: scores of this run are also a reward model's, which is not asked again; change algorithm alone"
        )
    trained, there = (" and ".join(trained_roles(each)) for each in (changed, config))
    if trained != there:
        raise ConfigError(f"algorithm: the changed one trains {trained}, and the checkpoint has {there}")
    return changed


def _go_there(replay: Replay, recording: Recording, tolerance: float) -> list[str]:
    """Make the steps between checkpoint and step; returns what of them is not as logged."""
    differ: list[str] = []
    between = range(recording.first, recording.step)
    with progress_bar("auto", "steps before", len(between)) as advance:
        for step in between:
            differ += _different(step, _compare(recording.logged[step], replay.step().metrics), tolerance)
            advance(1)
    return differ


def _compare(logged: Mapping[str, float], again: Mapping[str, float]) -> list[Compared]:
    return [
        Compared(name, logged[name], again[name])
        for name in logged
        if name in again and not name.startswith(_MEASURED)
    ]


def _different(step: int, compared: Iterable[Compared], tolerance: float) -> list[str]:
    return [
        f"step {step}: {row.name} is {row.again:.9g}, and {row.logged:.9g} was logged"
        for row in compared
        if row.name.endswith(_DECISIVE) and not row.agrees(tolerance)
    ]


def _largest_differences(run: Path, step: int, again: ReplayedStep) -> dict[str, float]:
    """Of the per-token columns that the record has and the algorithm has prepared."""
    if not again.groups:
        return {}
    table, largest = read_rollouts(record_of(run, step)), dict[str, float]()
    for column, prepared in (
        ("trainer_logprobs", [sample.old_logprobs for sample in again.samples]),
        ("advantages", [sample.advantages for sample in again.samples]),
    ):
        pairs = zip(table[column].to_pylist(), prepared, strict=True)
        found = [
            numpy.abs(numpy.asarray(recorded, numpy.float32) - new.numpy()).max(initial=0.0)
            for recorded, new in pairs
            if recorded is not None and new is not None
        ]
        if found:
            largest[column] = float(max(found))
    return largest


def _kept_under(
    config: TrainConfig, before: TrainConfig, recorded: Sequence[ScoredGroup]
) -> dict[int, ScoredGroup]:
    """The recorded groups as another recipe scores them, by their numbers, less those that its filter would not keep.

    Raises UserError if none is left.
    """
    groups = list(recorded)
    if not (isinstance(config, OnlineConfig) and isinstance(before, OnlineConfig) and groups):
        return dict(enumerate(groups))
    if config.reward != before.reward:
        dry_run(config.reward, answer_of(reward_task(groups[0].prompt, groups[0].rollouts[0])))
        prompts, responses = [group.prompt for group in groups], [group.rollouts for group in groups]
        with RewardRunner(config.reward, config.rollout.sampling.max_response_tokens) as rewards:
            groups = score_groups(prompts, responses, rewards, timer=PhaseTimer(), progress="auto")
    filtered = config.algorithm.dynamic_sampling.enabled
    kept = {number: group for number, group in enumerate(groups) if not filtered or teaches(group)}
    if not kept:
        raise UserError(
            "under the changed recipe no group of the step can be trained on: all responses of each are right, or "
            "all are wrong"
        )
    return kept


def _changes(again: ReplayedStep, found: ReplayedStep, kept: Sequence[int]) -> Changed:
    """What is different under another recipe, which trains on the groups ``kept`` of the step."""
    before = [again.groups[number] for number in kept]
    verdicts = [
        ChangedVerdict(group.prompt.uid, number, old, new)
        for group, other in zip(before, found.groups, strict=True)
        for number, (old, new) in enumerate(zip(group.rewards, other.rewards, strict=True))
        if (old.score, old.accuracy) != (new.score, new.accuracy)
    ]
    then = _advantages([sample for sample in again.samples if sample.group in set(kept)])
    now = _advantages(found.samples)
    return Changed(
        verdicts=verdicts,
        responses=sum(len(group.rollouts) for group in again.groups),
        dropped=len(again.groups) - len(kept),
        tokens=len(then),
        other_sign=int((numpy.sign(then) != numpy.sign(now)).sum()),
        mean_change=float(numpy.abs(then - now).mean()) if len(then) else 0.0,
    )


def _advantages(samples: Sequence[TrainSample]) -> numpy.ndarray[Any, Any]:
    """Of all response tokens, one after the other."""
    columns = [sample.advantages.numpy() for sample in samples]
    return numpy.concatenate(columns) if columns else numpy.empty(0, numpy.float32)
