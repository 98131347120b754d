"""Groups that are being generated: whole ones by one request, and responses that were begun before by one each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reasoner_rl.observability.rollout_table import groups_of, read_rollouts, write_rollouts
from reasoner_rl.rollout.engine import GenerationRequest, StepOutput
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup

_NOT_JUDGED = Reward(0.0, None, {}, status="undecided")


@dataclass(frozen=True, slots=True)
class Launch:
    """A prompt to answer, and what there is of its responses."""

    index: int  # of the prompt
    prompt: Prompt
    seed: int
    step: int  # whose policy begins it
    rollouts: tuple[Rollout, ...] = ()  # [G]; none: not begun
    rewards: tuple[Reward, ...] = ()  # [G]; none: not judged, because not all responses have ended
    counted: int = 0  # response tokens that metrics of earlier steps include

    @property
    def tokens(self) -> int:
        """Response tokens there are."""
        return sum(len(rollout.token_ids) for rollout in self.rollouts)

    @property
    def group(self) -> ScoredGroup | None:
        """The whole group, if it was judged."""
        return ScoredGroup(self.prompt, self.rollouts, self.rewards) if self.rewards else None

    def unfinished(self, limit: int) -> list[int]:
        """The numbers of responses that have not ended, and have less than ``limit`` tokens."""
        return [
            number
            for number, rollout in enumerate(self.rollouts)
            if rollout.finish_reason == "length" and len(rollout.token_ids) < limit
        ]

    def with_added(self, added: Mapping[int, Rollout]) -> Launch:
        """With what was drawn since, by the number of the response."""
        rollouts = [
            rollout.continued(added[number]) if number in added else rollout
            for number, rollout in enumerate(self.rollouts)
        ]
        return replace(self, rollouts=tuple(rollouts))


class Launches:
    """The prompts that were launched, by position, and which request each response comes from."""

    def __init__(self, samples: int, limit: int, launched: Iterable[Launch] = ()) -> None:
        """samples: responses per prompt, G. limit: tokens. launched: in order; nothing of them is in flight."""
        self._samples, self._limit = samples, limit
        self._launched = list(launched)
        # By position, of those in flight: what was added to each response that was not finished before.
        self._waiting: dict[int, dict[int, Rollout | None]] = {}
        # By number: position, and number of the response, or None for a whole group.
        self._requests: dict[int, tuple[int, int | None]] = {}
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._launched)

    def __iter__(self) -> Iterator[Launch]:
        return iter(self._launched)

    def __getitem__(self, position: int) -> Launch:
        return self._launched[position]

    def __setitem__(self, position: int, launch: Launch) -> None:
        self._launched[position] = launch

    @property
    def in_flight(self) -> bool:
        """Whether responses are to come."""
        return bool(self._requests)

    def stopped(self) -> list[int]:
        """The positions of launches that are not judged, and of which nothing is in flight."""
        return [
            position
            for position, launch in enumerate(self._launched)
            if not launch.rewards and position not in self._waiting
        ]

    def add(self, launch: Launch) -> None:
        """Note a prompt; `start` has it generated."""
        self._launched.append(launch)

    def start(self, position: int, max_tokens: int | None) -> list[GenerationRequest]:
        """The requests that finish a launch, of which nothing is in flight. max_tokens: most to add per response."""
        launch = self._launched[position]
        numbers = launch.unfinished(self._limit)
        self._waiting[position] = dict.fromkeys(numbers)
        if not launch.rollouts:
            return [self._request(position, None, max_tokens)]
        return [self._request(position, number, max_tokens) for number in numbers]

    def _request(self, position: int, number: int | None, max_tokens: int | None) -> GenerationRequest:
        launch, name = self._launched[position], self._numbers
        self._numbers += 1
        self._requests[name] = (position, number)
        request = GenerationRequest(
            launch.prompt.token_ids, self._samples, launch.seed, name, max_tokens=max_tokens
        )
        if number is None:
            return request
        return replace(request, samples=1, first_sample=number, begun=launch.rollouts[number].token_ids)

    def collect(self, output: StepOutput) -> Iterator[int]:
        """Take up what was drawn; the positions of which nothing is in flight any more."""
        for name, rollouts in output.finished:
            position, number = self._requests.pop(name)
            waiting = self._waiting[position]
            if number is None:
                self._launched[position] = replace(self._launched[position], rollouts=tuple(rollouts))
            else:
                waiting[number] = rollouts[0]
            if number is None or all(waiting.values()):
                self._settle(position)
                yield position

    def _settle(self, position: int) -> None:
        added = {number: rollout for number, rollout in self._waiting.pop(position).items() if rollout}
        self._launched[position] = self._launched[position].with_added(added)

    def interrupted(self, output: StepOutput) -> None:
        """Take up what there is of the responses in flight; nothing is in flight afterwards."""
        for name, rollouts in output.interrupted:
            position, number = self._requests[name]
            if number is None:
                self._launched[position] = replace(self._launched[position], rollouts=tuple(rollouts))
            elif len(rollouts[0].token_ids):
                self._waiting[position][number] = rollouts[0]
        for position in list(self._waiting):
            self._settle(position)
        self._requests.clear()

    def without(self, used: Sequence[int]) -> Launches:
        """Those at other positions, which are counted anew; what is in flight stays so."""
        gone = set(used)
        left = [position for position in range(len(self)) if position not in gone]
        places = {position: place for place, position in enumerate(left)}
        later = Launches(self._samples, self._limit, [self._launched[position] for position in left])
        later._waiting = {places[position]: waiting for position, waiting in self._waiting.items()}
        later._requests = {name: (places[old], number) for name, (old, number) in self._requests.items()}
        later._numbers = self._numbers
        return later


def state_of(launches: Sequence[Launch]) -> list[dict[str, Any]]:
    """What `read_launches` needs beside the file, as JSON can hold it."""
    return [
        {
            "index": launch.index,
            "seed": launch.seed,
            "step": launch.step,
            "begun": bool(launch.rollouts),
            "judged": bool(launch.rewards),
            "counted": launch.counted,
        }
        for launch in launches
    ]


def save_launches(path: Path, step: int, launches: Sequence[Launch]) -> None:
    """Write the responses of launches in the format of rollout records. Those that are not judged say so."""
    groups = [
        ScoredGroup(launch.prompt, launch.rollouts, launch.rewards or (_NOT_JUDGED,) * len(launch.rollouts))
        for launch in launches
        if launch.rollouts
    ]
    write_rollouts(path, step, groups)


def read_launches(path: Path, state: Sequence[Mapping[str, Any]], prompts: Sequence[Prompt]) -> list[Launch]:
    """The launches that were saved. Raises DataError if the file cannot be read."""
    groups = iter(groups_of(read_rollouts(path)))
    launches = []
    for each in state:
        index, counted = each["index"], each["counted"]
        launch = Launch(index, prompts[index], each["seed"], each["step"], counted=counted)
        if each["begun"]:
            group = next(groups)
            rewards = group.rewards if each["judged"] else ()
            launch = replace(launch, rollouts=group.rollouts, rewards=rewards)
        launches.append(launch)
    return launches
