"""A response as one row, and back: what the record of a run says of it, by the names of the columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy

from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup, TrainSample

Row = dict[str, Any]  # by the columns of `rollout_table.SCHEMA`, with extra_info and components as mappings


def rows_of_groups(
    step: int, groups: Sequence[ScoredGroup], samples: Sequence[TrainSample] = ()
) -> Iterator[Row]:
    """One row per response, group after group. ``samples``: what was made of each, in this order, or none at all.

    Raises ValueError if there are samples, but not as many as responses.
    """
    responses = sum(len(group.rollouts) for group in groups)
    if samples and len(samples) != responses:
        raise ValueError(
            f"there are {len(samples)} samples for {responses} responses; it must be one for each"
        )
    known: Iterator[TrainSample | None] = iter(samples) if samples else itertools.repeat(None)
    for number, group in enumerate(groups):
        prompt_ids = numpy.asarray(group.prompt.token_ids, numpy.int32)  # once for all responses
        for rollout, reward in zip(group.rollouts, group.rewards, strict=True):
            row = _row(group.prompt, rollout, reward, next(known))
            yield {"step": step, "group": number, **row, "prompt_ids": prompt_ids}


def _row(prompt: Prompt, rollout: Rollout, reward: Reward, sample: TrainSample | None) -> Row:
    return {
        "uid": prompt.uid,
        "data_source": prompt.data_source,
        "prompt": prompt.text,
        "response": rollout.text,
        "token_ids": rollout.token_ids,
        "logprobs": rollout.logprobs,
        "trainer_logprobs": sample.old_logprobs if sample else None,
        "entropies": sample.entropies if sample else None,
        "advantages": sample.advantages if sample else None,
        "loss_mask": sample.loss_mask if sample else None,
        "weight": sample.weight if sample else None,
        "ground_truth": prompt.ground_truth,
        "extra_info": prompt.extra_info,
        "score": reward.score,
        "accuracy": reward.accuracy,
        "components": reward.components,
        "status": reward.status,
        "extracted": reward.extracted,
        "second_opinion": reward.second_opinion,
        "trained": reward.trained,
        "tokens": len(rollout.token_ids),
        "finish_reason": rollout.finish_reason,
        "policy_version": rollout.policy_version,
        "policy_switches": [number for switch in rollout.switches for number in switch],
        "seconds": reward.seconds,
    }


def groups_of_rows(rows: Iterable[Row]) -> list[ScoredGroup]:
    """The groups that `rows_of_groups` was given, of one step or several. Lists of numbers are numpy arrays or None."""
    groups = []
    for _, same in itertools.groupby(rows, lambda row: (row["step"], row["group"])):
        members = list(same)
        first = members[0]
        prompt = Prompt(
            uid=first["uid"],
            token_ids=tuple(first["prompt_ids"].tolist()),
            text=first["prompt"],
            ground_truth=first["ground_truth"],
            data_source=first["data_source"],
            extra_info=first["extra_info"],
        )
        groups.append(ScoredGroup(prompt, tuple(map(_rollout, members)), tuple(map(_reward, members))))
    return groups


def _rollout(row: Row) -> Rollout:
    switches = [] if row["policy_switches"] is None else row["policy_switches"].tolist()
    return Rollout(
        token_ids=row["token_ids"],
        logprobs=row["logprobs"],
        finish_reason=row["finish_reason"],
        policy_version=row["policy_version"],
        text=row["response"],
        switches=tuple(zip(switches[::2], switches[1::2], strict=True)),
    )


def _reward(row: Row) -> Reward:
    names = ("score", "accuracy", "components", "status", "extracted", "second_opinion", "trained", "seconds")
    return Reward(**{name: row[name] for name in names})


def record(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as a line of JSONL for people: means in place of the per-token columns, which are null without tokens."""
    names = ("step", "uid", "data_source", "prompt", "response", "ground_truth", "extra_info", "extracted")
    return {
        **{name: row[name] for name in names},
        "accuracy": row["accuracy"],
        "score": row["score"],
        "components": row["components"],
        "status": row["status"],
        "second_opinion": row["second_opinion"],
        "advantage": _mean(row["advantages"]),
        "trained": row["trained"],
        "tokens": row["tokens"],
        "finish_reason": row["finish_reason"],
        "mean_logprob": _mean(row["logprobs"]),
        "policy_version": row["policy_version"],
    }


def _mean(values: Any) -> float | None:
    return None if values is None or len(values) == 0 else float(numpy.asarray(values, numpy.float64).mean())
