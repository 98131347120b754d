"""The watch over a run's trends: alarms with their evidence, and the way back to the last healthy checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from reasoner_rl.config.drift import DriftConfig
from reasoner_rl.config.recipes import OnlineConfig, TrainConfig
from reasoner_rl.errors import DriftError, GoBackError
from reasoner_rl.observability.events import EventLog
from reasoner_rl.observability.evidence import Response, evidence_for, responses_of
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.sinks import read_jsonl
from reasoner_rl.observability.token_gaps import Floats, gaps_of
from reasoner_rl.observability.trends import Alarm, Evidence, Row, Watched, is_of_a_step, needed_rows, replay
from reasoner_rl.sources.base import StepBatch
from reasoner_rl.trainer.state import DriverState
from reasoner_rl.training.checkpoint import CheckpointStore
from reasoner_rl.types import TrainSample

GAP_OF_FLOAT32, GAP_OF_BFLOAT16 = 0.01, 0.1  # nats per token
RETURNS = "returns"  # in a run's folder: what was recorded of the steps that a run went back from
_OF_GAPS = {"gap", "sync_gap"}
Logprobs = Callable[[Sequence[TrainSample]], list[Tensor]]


def limits_of(config: OnlineConfig) -> DriftConfig | None:
    """The recipe's limits, with numbers where it says auto.

    Where sampling leaves tokens out, the engine's logprobs are higher than the trainer's: there auto is no limit.
    """
    drift = config.drift
    if drift is None or drift.gap is None or drift.gap.above != "auto":
        return drift
    exact = {config.model.dtype, config.rollout.engine.dtype or config.model.dtype} == {"float32"}
    sampling = config.rollout.sampling
    cut = sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_response_tokens > 0
    above = None if cut else GAP_OF_FLOAT32 if exact else GAP_OF_BFLOAT16
    return drift.model_copy(update={"gap": drift.gap.model_copy(update={"above": above})})


@dataclass(frozen=True, slots=True)
class Watch:
    """Watches the steps of a run; what happens at an alarm is `on_alarm`'s.

    alarmed: where the state after a step whose alarm stops the run is written.
    """

    watched: Watched
    output: Path
    records: Literal["all", "first_group", "none"]
    suffix: str  # of the records that alarms point to
    events: EventLog
    store: CheckpointStore
    alarmed: CheckpointStore

    @property
    def config(self) -> DriftConfig:
        """The limits, and what an alarm does."""
        return self.watched.config

    def alarms(self, step: int, numbers: Mapping[str, float]) -> list[Alarm]:
        """The alarms of a step, from what was logged of it; without evidence as yet."""
        return self.watched.add({"step": step, **numbers})

    def needs_logprobs(self, alarms: Sequence[Alarm], samples: Sequence[TrainSample]) -> bool:
        """Whether the trainer's logprobs are wanted for evidence, and the step did not need them itself.

        With one update per step, or with those of generation in their place, they are not known.
        """
        own = all(s.old_logprobs is None or s.old_logprobs is s.rollout_logprobs for s in samples)
        return bool(samples) and own and any(alarm.trend in _OF_GAPS for alarm in alarms)

    def tell(
        self,
        alarms: Sequence[Alarm],
        batch: StepBatch,
        samples: Sequence[TrainSample],
        logprobs: Sequence[Tensor],
    ) -> list[Alarm]:
        """Print and record alarms with the responses that show them; returns them with this evidence.

        samples: what was trained on. logprobs: by the trainer after the step, if its own did not need them.
        """
        responses = self._responses(alarms[0].step, batch, _gaps(samples, logprobs))
        shown = [replace(alarm, evidence=evidence_for(alarm, responses)) for alarm in alarms]
        for alarm in shown:
            self.events.write("alarm", str(alarm), asdict(alarm))
            say(f"alarm: step {alarm.step}: {alarm}")
            for each in alarm.evidence[:2]:
                say(f"  {describe(each)}")
        healthy = self.last_healthy(shown)
        place = f"the newest checkpoint before it: {healthy[1]}" if healthy else "no checkpoint is older"
        say(f"  began at step {_began(shown)}; {place}; more evidence in {self.output / 'events.jsonl'}")
        return shown

    def forget_alarmed(self) -> None:
        """Remove the state after an earlier alarm, which has another past, whatever its step."""
        shutil.rmtree(self.alarmed.folder, ignore_errors=True)

    def last_healthy(self, alarms: Sequence[Alarm]) -> tuple[int, Path] | None:
        """The newest checkpoint before the first of the trends began."""
        older = [(step, folder) for step, folder in self.store.all() if step < _began(alarms)]
        return older[-1] if older else None

    def end_of_attempt(self, alarms: Sequence[Alarm], returns: int) -> DriftError | GoBackError:
        """The error that ends the run, or this attempt at it. returns: how often it has gone back already."""
        why, healthy = f"step {alarms[0].step}: {alarms[0]}", self.last_healthy(alarms)
        if self.config.on_alarm == "go_back" and healthy is not None and returns < self.config.returns:
            return GoBackError(why, healthy, returns + 1)
        reason = "drift.on_alarm is stop"
        if self.config.on_alarm == "go_back":
            reason = (
                f"the run went back {returns} times (drift.returns)" if healthy else "there is no way back"
            )
        newest = self.store.latest()
        if healthy is None:
            way = f"There is no checkpoint before step {_began(alarms)}"
        else:
            way = f"The last healthy checkpoint is {healthy[1]}"
        if newest is not None and newest != healthy:
            way += f"; the same command resumes from {newest[1].name}, made since"
        folder = self.alarmed.folder_of(alarms[0].step)
        return DriftError(
            f"{why}. The run stops, because {reason}. {way}. The state after the step is in {folder}, and the evidence "
            f"in {self.output / 'events.jsonl'}. drift.on_alarm=tell goes on"
        )

    def _responses(self, step: int, batch: StepBatch, gaps: Sequence[Floats | None]) -> list[Response]:
        stem, everything = f"rollouts/step_{step:06d}", self.records == "all"
        file = None if self.records == "none" else f"{stem}{self.suffix}"
        recorded = sum(len(group.rollouts) for group in batch.groups[: None if everything else 1])
        dropped = f"{stem}_dropped{self.suffix}" if everything else None
        count = sum(len(group.rollouts) for group in batch.dropped)
        return [
            *responses_of(batch.groups, file, recorded, gaps),
            *responses_of(batch.dropped, dropped, count),
        ]


def watch_of(
    config: TrainConfig, output: Path, step: int, events: EventLog, store: CheckpointStore
) -> Watch | None:
    """The watch over a run that goes on after ``step``, with the rows of metrics.jsonl up to there as its past."""
    limits = limits_of(config) if isinstance(config, OnlineConfig) else None
    if limits is None or not isinstance(config, OnlineConfig):
        return None
    rows: list[Row] = [*filter(is_of_a_step, read_jsonl(output / "metrics.jsonl"))]
    rows = [row for row in rows if row["step"] <= step]
    watched = Watched(limits, config.rollout.responses_per_prompt, rows[-needed_rows(limits) :])
    suffix = ".jsonl" if config.logging.rollout_format == "jsonl" else ".parquet"
    alarmed = CheckpointStore(output / "alarmed", 1)
    return Watch(watched, output, config.logging.rollouts, suffix, events, store, alarmed)


def recorded_alarms(config: OnlineConfig, metrics: Path) -> list[Alarm]:
    """The alarms that the steps of a run's metrics.jsonl raise under a recipe's limits, without evidence."""
    limits = limits_of(config)
    return replay(read_jsonl(metrics), limits, config.rollout.responses_per_prompt) if limits else []


def describe(evidence: Evidence) -> str:
    """One line on a response that shows an alarm."""
    place = "not recorded" if evidence.file is None else f"{evidence.file} row {evidence.row}"
    return f"{evidence.uid}, response {evidence.sample} ({place}): {evidence.text}"


def go_back(back: GoBackError, output: Path, store: CheckpointStore) -> None:
    """Make a checkpoint the newest, so that the run resumes from it, and count the return there.

    The records of later steps are moved to ``returns/N`` in the run's folder, and later checkpoints are deleted.
    """
    step, folder = back.checkpoint
    kept = output / RETURNS / str(back.returns)
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(output / "metrics.jsonl", kept / "metrics.jsonl")
    for file in sorted((output / "rollouts").glob("step_*")):
        if file.name > f"step_{step + 1:06d}":
            (kept / "rollouts").mkdir(exist_ok=True)
            file.replace(kept / "rollouts" / file.name)
    state = DriverState.load(folder)
    state.returns = back.returns
    state.save_later(folder)
    for later, gone in store.all():
        if later > step:
            shutil.rmtree(gone)
            say(f"  deleted {gone}, made since")
    store.tidy()
    say(
        f"going back to step {step} for the {back.returns}. time, with other random numbers for sampling; records of "
        f"later steps are in {kept}"
    )


def _began(alarms: Sequence[Alarm]) -> int:
    return min(alarm.since for alarm in alarms)


def _gaps(samples: Sequence[TrainSample], logprobs: Sequence[Tensor]) -> list[Floats | None]:
    """By sample, |trainer - engine| of each response token, [R]; None for those of an earlier policy."""
    known: list[Tensor | None] = [*logprobs] if logprobs else [sample.old_logprobs for sample in samples]
    return [
        None if trainer is None or not sample.on_policy else gaps_of(trainer, sample.rollout_logprobs)
        for sample, trainer in zip(samples, known, strict=True)
    ]
