"""The order in which requests are started: those first that are expected to take longest.

An engine gives the rows of ended responses to waiting ones, and a pool gives replicas requests as they have room. What
is started last then runs on alone, so the last should be short. That is the longest-processing-time rule, whose time to
finish on equal machines is at most 4/3 of the least possible where durations are known (Graham, 1969). Here they are
estimated from the lengths of the prompt's earlier responses.

Only the order changes: which prompts are started together, their positions and their seeds stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reasoner_rl.rollout.engine import GenerationRequest
from reasoner_rl.types import ScoredGroup

_KEPT = 0.5  # what the responses of one visit to a prompt count at the next, as the policy has changed since


class ExpectedLengths:
    """For each prompt, by index, a running mean of the lengths of its responses."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[float, float]] = {}  # index -> responses and their tokens, with decay

    def of(self, index: int) -> float | None:
        """Response tokens to expect, per response; None for a prompt that was not answered before."""
        if index not in self._known:
            return None
        responses, tokens = self._known[index]
        return tokens / responses

    def learn(self, indices: Sequence[int], groups: Sequence[ScoredGroup]) -> None:
        """Take note of the groups of a step, given the index of each one's prompt."""
        for index, group in zip(indices, groups, strict=True):
            responses, tokens = self._known.get(index, (0.0, 0.0))
            drawn = sum(len(rollout.token_ids) for rollout in group.rollouts)
            self._known[index] = (_KEPT * responses + len(group.rollouts), _KEPT * tokens + drawn)

    def state(self) -> list[list[float]]:
        """What `restore` needs, as JSON can hold it: index, responses and tokens of each prompt."""
        return [[index, *known] for index, known in self._known.items()]

    def restore(self, state: Sequence[Sequence[float]]) -> None:
        """Continue from a saved `state`."""
        self._known = {int(index): (responses, tokens) for index, responses, tokens in state}


def longest_first(
    requests: Sequence[GenerationRequest], expected: Mapping[int, float | None]
) -> list[GenerationRequest]:
    """The same requests, the longest expected first; equals stay in their order.

    expected: by the request's number, tokens per response. A request that continues a response comes first: it was
    put off for its length. Where nothing is expected of a request, it counts as the mean of the others.
    """
    known = [length for length in expected.values() if length is not None]
    mean = sum(known) / max(len(known), 1)

    def key(request: GenerationRequest) -> tuple[bool, float]:
        length = expected.get(request.number)
        return len(request.begun) == 0, -(mean if length is None else length)

    return sorted(requests, key=key)
