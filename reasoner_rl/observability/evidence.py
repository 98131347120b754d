"""Which responses of a step show most what an alarm is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

import numpy

from reasoner_rl.observability.token_gaps import Floats
from reasoner_rl.observability.trends import Alarm, Evidence
from reasoner_rl.types import Reward, Rollout, ScoredGroup

MOST_RESPONSES, MOST_TOKENS = 5, 5


@dataclass(frozen=True, slots=True)
class Response:
    """A response of the step, and where it is recorded."""

    uid: str
    sample: int  # number in its group
    rollout: Rollout
    reward: Reward
    group: ScoredGroup
    file: str | None  # from the run's folder
    row: int | None
    gaps: Floats | None = None  # [R] nats: how far the trainer's logprob of each token is from the engine's


def responses_of(
    groups: Sequence[ScoredGroup], file: str | None, recorded: int, gaps: Sequence[Floats | None] = ()
) -> list[Response]:
    """The responses of groups that are recorded in one file.

    file: from the run's folder; None: they are not recorded. recorded: how many of them are. gaps: of each response, or
    of none.
    """
    found: list[Response] = []
    for group in groups:
        for sample, (rollout, reward) in enumerate(zip(group.rollouts, group.rewards, strict=True)):
            row = len(found) if file is not None and len(found) < recorded else None
            gap = gaps[len(found)] if gaps else None
            place = file if row is not None else None
            found.append(Response(group.prompt.uid, sample, rollout, reward, group, place, row, gap))
    return found


def evidence_for(alarm: Alarm, responses: Sequence[Response]) -> tuple[Evidence, ...]:
    """The responses that show most what an alarm is about, at most `MOST_RESPONSES`; none for host memory."""
    return tuple(islice(_SHOWN[alarm.trend](responses, alarm.rising), MOST_RESPONSES))


_Shown = Callable[[Sequence[Response], bool], Iterable[Evidence]]


def _evidence(response: Response, text: str, positions: Sequence[int] = ()) -> Evidence:
    return Evidence(response.uid, response.sample, text, response.file, response.row, tuple(positions))


def _gaps(responses: Sequence[Response], _: bool) -> Iterable[Evidence]:
    """Those with the largest mean gap, and their worst tokens."""

    def show(pair: tuple[float, Response, Floats]) -> Evidence:
        mean, response, gaps = pair
        worst = numpy.argsort(-gaps, kind="stable")[:MOST_TOKENS].tolist()
        tokens = ", ".join(f"{position} ({gaps[position]:.2g})" for position in worst)
        return _evidence(response, f"mean gap {mean:.3g} nats; worst tokens {tokens}", worst)

    known = [(float(r.gaps.mean()), r, r.gaps) for r in responses if r.gaps is not None and len(r.gaps)]
    return map(show, sorted(known, key=lambda pair: -pair[0]))


def _surprise(responses: Sequence[Response], rising: bool) -> Iterable[Evidence]:
    """The least certain, or the most certain, by the mean of the logprobs that they were sampled with."""

    def show(pair: tuple[float, Response]) -> Evidence:
        return _evidence(pair[1], f"mean logprob {pair[0]:.3g} over {len(pair[1].rollout.token_ids)} tokens")

    known = [(fmean(r.rollout.logprobs), r) for r in responses if len(r.rollout.logprobs)]
    return map(show, sorted(known, key=lambda pair: pair[0] if rising else -pair[0]))


def _lengths(responses: Sequence[Response], rising: bool) -> Iterable[Evidence]:
    def show(response: Response) -> Evidence:
        rollout = response.rollout
        cut = ", cut off" if rollout.finish_reason == "length" else ""
        return _evidence(response, f"{len(rollout.token_ids)} tokens{cut}")

    sign = -1 if rising else 1
    return map(show, sorted(responses, key=lambda r: sign * len(r.rollout.token_ids)))


def _truncated(responses: Sequence[Response], rising: bool) -> Iterable[Evidence]:
    return _lengths([r for r in responses if r.rollout.finish_reason == "length"], rising)


def _dead_groups(responses: Sequence[Response], _: bool) -> Iterable[Evidence]:
    """The first response of each group."""

    def show(response: Response) -> Evidence:
        rewards = response.group.rewards
        return _evidence(
            response, f"all {len(rewards)} responses of the group have score {rewards[0].score:.3g}"
        )

    return map(show, (r for r in responses if r.sample == 0 and r.group.is_dead))


def _with_status(*statuses: str) -> _Shown:
    def shown(responses: Sequence[Response], _: bool) -> Iterable[Evidence]:
        failed = (r for r in responses if r.reward.status in statuses)
        return (_evidence(r, f"status {r.reward.status}, {r.reward.seconds:.2g} s") for r in failed)

    return shown


def _nothing(responses: Sequence[Response], _: bool) -> Iterable[Evidence]:
    del responses
    return ()


_SHOWN: Mapping[str, _Shown] = {
    "gap": _gaps,
    "sync_gap": _gaps,
    "entropy": _surprise,
    "length": _lengths,
    "truncation": _truncated,
    "dead_groups": _dead_groups,
    "failures": _with_status("timeout", "crash"),
    "unparsed": _with_status("unparsed"),
    "host_memory": _nothing,
}
