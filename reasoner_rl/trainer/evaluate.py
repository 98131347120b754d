"""Accuracy on held-out problems."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from reasoner_rl.config.recipes import AnsweringConfig, EvalConfig
from reasoner_rl.evaluation.estimators import EvaluationReport, ProblemResult, summarise
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.rewards.base import Rewards
from reasoner_rl.rollout.engine import Generator
from reasoner_rl.sources.agreement import names_of_answers
from reasoner_rl.sources.generate import generate_groups
from reasoner_rl.trainer.loading import HeldOut
from reasoner_rl.types import ScoredGroup


class Evaluator:
    """Evaluates any generator, with the same random numbers at every call, so that runs can be compared."""

    def __init__(
        self,
        config: AnsweringConfig | EvalConfig,
        held_out: Sequence[HeldOut],
        rewards: Rewards,
        recorder: RolloutRecorder,
    ) -> None:
        self._config = config
        self._sampling = (
            config.rollout.sampling if isinstance(config, EvalConfig) else config.evaluation_sampling
        )
        self._held_out = held_out
        self._rewards = rewards.for_evaluation(self._sampling.max_response_tokens)
        self._recorder = recorder

    def evaluate(self, generator: Generator, step: int) -> list[EvaluationReport]:
        """One report per dataset; all responses are recorded."""
        reports = []
        for held_out in self._held_out:
            groups = self.answer(generator, held_out, 0, len(held_out.prompts))
            self.record(step, held_out, groups)
            reports.append(summarise(held_out.name, self.results(groups)))
        return reports

    def answer(self, generator: Generator, held_out: HeldOut, start: int, stop: int) -> list[ScoredGroup]:
        """Draw and score the responses to problems ``start`` to ``stop`` - 1 of a set, by the whole set's seeds."""
        config = self._config
        return generate_groups(
            held_out.prompts[start:stop],
            generator,
            self._rewards,
            self._sampling,
            config.evaluation.samples_per_prompt,
            seed_parts=(config.run.seed, "evaluation", held_out.name),
            timer=PhaseTimer(),
            progress=config.logging.progress,
            first=start,
        )

    def record(self, step: int, held_out: HeldOut, groups: Sequence[ScoredGroup]) -> None:
        """Write the responses to a whole set."""
        self._recorder.evaluation(step, held_out.name, groups)

    def results(self, groups: Sequence[ScoredGroup]) -> list[ProblemResult]:
        """The results by problem; see `results_of_groups`."""
        return results_of_groups(groups, self._rewards)


def results_of_groups(groups: Sequence[ScoredGroup], rewards: Rewards) -> list[ProblemResult]:
    """The results by problem. Answers that the verifier finds equal get one text, so that they vote together."""
    results = [ProblemResult.from_group(group) for group in groups]
    if all(len(group.rollouts) == 1 for group in groups):
        return results  # nothing to vote on
    return [
        dataclasses.replace(
            result, answers=tuple(None if answer is None else names[answer] for answer in result.answers)
        )
        for result, names in zip(results, names_of_answers(groups, rewards), strict=True)
    ]
