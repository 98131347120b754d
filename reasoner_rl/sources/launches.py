"""Groups that are being generated: whole ones by one request, and responses that were begun before by one each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reasoner_rl.config.rollout import SamplingConfig
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
    rollouts: tuple[Rollout, ...] = ()  # [G]; none: not begun

    @property
    def tokens(self) -> int:
        """Response tokens there are."""
        return sum(len(rollout.token_ids) for rollout in self.rollouts)

    def unfinished(self, limit: int) -> list[int]:
        """The numbers of responses that have not ended, and have less than ``limit`` tokens."""
        return [
            number
            for number, rollout in enumerate(self.rollouts)
            if rollout.finish_reason == "length" and len(rollout.token_ids) < limit
        ]


class Launches:
    """What a step has launched, by position, and which request each response comes from."""

    def __init__(self, samples: int, sampling: SamplingConfig) -> None:
        """samples: responses per prompt, G."""
        self._samples = samples
        self._limit = sampling.max_response_tokens
        self._launched: list[Launch] = []
        self._waiting: list[
            dict[int, Rollout | None]
        ] = []  # by position: number of the response -> what was added
        self._requests: list[
            tuple[int, int | None]
        ] = []  # by number: position, and number of the response or None

    def __len__(self) -> int:
        return len(self._launched)

    def __getitem__(self, position: int) -> Launch:
        return self._launched[position]

    def add(self, launch: Launch, max_tokens: int | None) -> list[GenerationRequest]:
        """Note a launch; returns the requests that generate it. max_tokens: most to add to each response."""
        position = len(self._launched)
        self._launched.append(launch)
        numbers = launch.unfinished(self._limit)
        self._waiting.append(dict.fromkeys(numbers))
        if not launch.rollouts:
            return [self._request(position, None, max_tokens)]
        return [self._request(position, number, max_tokens) for number in numbers]

    def _request(self, position: int, number: int | None, max_tokens: int | None) -> GenerationRequest:
        launch, place = self._launched[position], len(self._requests)
        self._requests.append((position, number))
        request = GenerationRequest(
            launch.prompt.token_ids, self._samples, launch.seed, place, max_tokens=max_tokens
        )
        if number is None:
            return request
        return replace(request, samples=1, first_sample=number, begun=launch.rollouts[number].token_ids)

    def collect(self, output: StepOutput) -> Iterator[tuple[int, Launch]]:
        """The launches of which nothing is in flight any more, by position, with what was drawn."""
        for place, rollouts in output.finished:
            position, number = self._requests[place]
            launch, waiting = self._launched[position], self._waiting[position]
            if number is None:
                yield position, replace(launch, rollouts=tuple(rollouts))
                continue
            waiting[number] = rollouts[0]
            if all(waiting.values()):
                yield position, replace(launch, rollouts=_continued(launch.rollouts, waiting))


def _continued(rollouts: Sequence[Rollout], added: dict[int, Rollout | None]) -> tuple[Rollout, ...]:
    whole = list(rollouts)
    for number, rollout in added.items():
        assert rollout is not None
        whole[number] = whole[number].continued(rollout)
    return tuple(whole)


def state_of(launches: Sequence[Launch]) -> list[dict[str, int]]:
    """What `read_launches` needs beside the file, as JSON can hold it."""
    return [{"index": launch.index, "seed": launch.seed} for launch in launches]


def save_launches(path: Path, step: int, launches: Sequence[Launch]) -> None:
    """Write the responses of launches in the format of rollout records. They are not judged as yet."""
    groups = [
        ScoredGroup(launch.prompt, launch.rollouts, (_NOT_JUDGED,) * len(launch.rollouts))
        for launch in launches
    ]
    write_rollouts(path, step, groups)


def read_launches(path: Path, state: Sequence[Mapping[str, int]], prompts: Sequence[Prompt]) -> list[Launch]:
    """The launches that were saved. Raises DataError if the file cannot be read."""
    groups = groups_of(read_rollouts(path))
    return [
        Launch(each["index"], prompts[each["index"]], each["seed"], group.rollouts)
        for each, group in zip(state, groups, strict=True)
    ]
