"""A source whose responses have known lengths, written by no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.rollout.engine import GenerationRequest, StepOutput
from reasoner_rl.sources.base import StepBatch
from reasoner_rl.sources.online import OnlineSource
from reasoner_rl.trainer.train import prompt_sampler
from reasoner_rl.types import Prompt, Reward, Rollout

LIMIT, GROUP = 100, 2


class Writer:
    """Writes responses of known lengths. Token i of a response is i, and its logprob names the policy that drew it."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths  # of the first response to each prompt; the second has 3 tokens
        self.version = 0
        self.works: list[GenerationRequest] = []
        self.longest = 0  # most tokens added to a response since it was set to 0
        self.drawn = 0  # tokens that every response in flight has got when it is interrupted
        self.finish: Callable[[int], int] = lambda waiting: 0

    def submit(self, requests: Sequence[GenerationRequest], sampling: Any) -> None:
        self.works += requests

    def step(self) -> StepOutput:
        request = self.works.pop(self.finish(len(self.works)))
        numbers = range(request.first_sample, request.first_sample + request.samples)
        return StepOutput(
            [(request.number, [self._write(request, number) for number in numbers])], request.samples
        )

    def _write(self, request: GenerationRequest, number: int) -> Rollout:
        begun = len(request.begun)
        assert request.begun == tuple(range(begun))
        length = self.lengths[request.prompt_ids[0]] if number == 0 else 3
        end = min(length, begun + (request.max_tokens or LIMIT), LIMIT)
        self.longest = max(self.longest, end - begun)
        reason = "stop" if end == length else "length"
        tokens = range(begun, end)
        return Rollout(
            tuple(tokens), [-float(self.version)] * len(tokens), reason, self.version, f"{number}:{end}"
        )

    def cancel(self) -> None:
        self.works.clear()

    def interrupt(self) -> StepOutput:
        """Of every request that waits, ``self.drawn`` further tokens are there."""
        output = StepOutput()
        for request in self.works if self.drawn else []:
            numbers = range(request.first_sample, request.first_sample + request.samples)
            begun = replace(request, max_tokens=self.drawn)
            found = request.number, [self._write(begun, number) for number in numbers]
            whole = all(rollout.finish_reason == "stop" for rollout in found[1])
            output = output.followed_by(
                StepOutput([found], len(numbers)) if whole else StepOutput(interrupted=[found])
            )
        self.works.clear()
        return output


class FirstIsRight:
    """In every group the first response is right, but for those to prompts whose ground truth says otherwise."""

    def score(self, tasks: Sequence[Any], progress: Any = None) -> list[Reward]:
        right = [task.ground_truth == "all right" or task.response.startswith("0:") for task in tasks]
        return [Reward(2.0 * each - 1, float(each), {}) for each in right]


class Run:
    """A source over prompts with these lengths of their first response; every fifth prompt is all right."""

    def __init__(
        self,
        lengths: Sequence[int],
        put_off: dict[str, Any] | None = None,
        *,
        goes_on: bool = False,
        **batch: Any,
    ) -> None:
        self.config = OnlineConfig.model_validate(
            {
                "run": {"output_dir": Path("unused"), "seed": 5},
                "model": {"path": "unused"},
                "data": {"train": {"path": "unused.jsonl"}, "shuffle": False},
                "rollout": {"responses_per_prompt": GROUP, "sampling": {"max_response_tokens": LIMIT}},
                "reward": {"overlong": {"buffer_tokens": 10}},
                "algorithm": {
                    "kind": "dapo",
                    "dynamic_sampling": {"max_staleness": batch.pop("max_staleness", 1)},
                },
                "batch": {"prompts_per_step": 4, "prompts_per_update": 4, "put_off": put_off, **batch},
                "logging": {"progress": False},
                "cluster": {"kind": "ray", "generation": {}} if goes_on else {"kind": "local"},
            }
        )
        fates = ["all right" if i % 5 == 4 else "mixed" for i in range(len(lengths))]
        self.prompts = [Prompt(f"p/{i}", (i,), str(i), fate, "test") for i, fate in enumerate(fates)]
        self.writer = Writer(lengths)
        generator: Any = self.writer
        rewards: Any = FirstIsRight()
        sampler = prompt_sampler(self.config, self.prompts)
        self.source = OnlineSource(
            self.config, self.prompts, sampler, generator, rewards, PhaseTimer(), goes_on=goes_on
        )
        self.taken = 0  # prompts of the stream that were begun

    def step(self, step: int) -> StepBatch:
        self.writer.version, self.writer.longest = step - 1, 0
        return self.source.next(step, step - 1)
