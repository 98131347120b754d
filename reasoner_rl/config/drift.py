"""Limits of what is watched in a run: when a number has left its course, and what then happens."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from reasoner_rl.config.base import Section

_PAST = "the median of the last drift.window steps"


def _above(default: float | None, what: str) -> Any:
    return Field(
        default, description=f"Alarm where {what} is above this, in whatever step; null: no such limit."
    )


def _below(default: float | None, what: str) -> Any:
    return Field(
        default, description=f"Alarm where {what} is below this, in whatever step; null: no such limit."
    )


def _times(default: float, how: str) -> Any:
    return Field(default, gt=1, description=f"{how} {_PAST}, and `by` is exceeded too, there is an alarm.")


def _by(default: float, unit: str) -> Any:
    return Field(
        default,
        ge=0,
        description=f"Least distance from {_PAST} that counts as a change, in {unit}; null: it is not compared with "
        "earlier steps.",
    )


class GapLimits(Section):
    """Logprobs of generation and of the trainer for the same tokens: policy/rollout_gap_mean."""

    above: float | Literal["auto"] | None = Field(
        "auto",
        description="Alarm where the mean gap in nats per token is above this, in whatever step. auto: 0.01 where both "
        "engines compute in float32, else 0.1; none where sampling leaves tokens out (top_p). null: no such limit.",
    )
    times: float = _times(5.0, "Where it is more than so many times")
    by: float | None = _by(1e-3, "nats per token")


class SyncGapLimits(Section):
    """The fixed text of the check after a weight sync: sync/check_gap; rollout.sync_tolerance is its absolute limit."""

    times: float = _times(5.0, "Where it is more than so many times")
    by: float | None = _by(5e-4, "nats per token")


class EntropyLimits(Section):
    """The policy's entropy: policy/entropy."""

    below: float | None = _below(1e-3, "the entropy in nats per token")
    times: float = _times(4.0, "Where it is more than so many times, or less than this part of,")
    by: float | None = _by(0.05, "nats per token")


class LengthLimits(Section):
    """The mean length of responses: response/length_mean."""

    times: float = _times(3.0, "Where it is more than so many times, or less than this part of,")
    by: float | None = _by(16.0, "tokens")


class TruncationLimits(Section):
    """The share of responses that were cut off: response/truncated_share."""

    above: float | None = _above(None, "the share of truncated responses")
    by: float | None = _by(0.25, "shares of 1")


class DeadGroupLimits(Section):
    """The share of groups whose scores are all equal without all being right: groups/dead_share."""

    above: float | None = _above(None, "the share of such groups")
    by: float | None = _by(0.4, "shares of 1")


class FailureLimits(Section):
    """The share of responses whose verifier timed out or crashed: reward/timeouts and reward/crashes."""

    above: float | None = _above(0.2, "the share of responses whose verifier failed")
    by: float | None = _by(0.05, "shares of 1")


class UnparsedLimits(Section):
    """The share of responses in which the verifier found no answer: reward/unparsed."""

    above: float | None = _above(None, "the share of responses without an answer")
    by: float | None = _by(0.25, "shares of 1")


class HostMemoryLimits(Section):
    """Host memory in use on the fullest machine: memory/host_used_share."""

    above: float | None = _above(0.95, "the share of a machine's memory that is in use")
    full_in_steps: int | None = Field(
        20,
        ge=1,
        description="Alarm where memory would be full within so many steps, if it went on growing as it did on average "
        "(median slope) over the last drift.window steps; null: growth is not watched.",
    )


class DriftConfig(Section):
    """What is watched in a run of kind online; docs/how_to/drift.md."""

    on_alarm: Literal["tell", "stop", "go_back"] = Field(
        "tell",
        description="What an alarm does besides its lines on the console and in events.jsonl. stop: the run ends, and "
        "the state after the step goes to output_dir/alarmed, not to the checkpoints. go_back: the run resumes from "
        "the newest checkpoint before the trend began, with other random numbers for sampling.",
    )
    returns: int = Field(
        2,
        ge=1,
        description="How often a run goes back at most; the next alarm stops it. For on_alarm=go_back.",
    )
    window: int = Field(10, ge=3, description="Earlier steps that a step is compared with.")
    after: int = Field(
        3, ge=1, description="Earlier steps that must be known before one is compared with them."
    )
    deviations: float = Field(
        4.0,
        ge=0,
        description="A change must also be this many standard deviations of the window, estimated by 1.4826 times the "
        "median absolute deviation: where a healthy run changes fast, its limits are wider.",
    )
    gap: GapLimits | None = Field(GapLimits(), description="Gap of logprobs; null: not watched.")
    sync_gap: SyncGapLimits | None = Field(
        SyncGapLimits(), description="Gap after a sync; null: not watched."
    )
    entropy: EntropyLimits | None = Field(EntropyLimits(), description="Entropy; null: not watched.")
    length: LengthLimits | None = Field(LengthLimits(), description="Response length; null: not watched.")
    truncation: TruncationLimits | None = Field(
        TruncationLimits(), description="Truncation; null: not watched."
    )
    dead_groups: DeadGroupLimits | None = Field(
        DeadGroupLimits(), description="Groups that teach nothing; null: not watched."
    )
    failures: FailureLimits | None = Field(
        FailureLimits(), description="Verifiers' failures; null: not watched."
    )
    unparsed: UnparsedLimits | None = Field(
        UnparsedLimits(), description="Responses without an answer; null: not watched."
    )
    host_memory: HostMemoryLimits | None = Field(
        HostMemoryLimits(), description="Host memory; null: not watched."
    )
