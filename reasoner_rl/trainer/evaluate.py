"""Accuracy on held-out problems."""

from __future__ import annotations

from collections.abc import Sequence

from reasoner_rl.config.recipes import AnsweringConfig, EvalConfig
from reasoner_rl.evaluation.estimators import EvaluationReport, ProblemResult, summarise
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.rollout.engine import Generator
from reasoner_rl.sources.generate import generate_groups
from reasoner_rl.trainer.loading import HeldOut


class Evaluator:
    """Evaluates any generator, with the same random numbers at every call, so that runs can be compared."""

    def __init__(
        self,
        config: AnsweringConfig | EvalConfig,
        held_out: Sequence[HeldOut],
        rewards: RewardRunner,
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
        config, reports = self._config, []
        for held_out in self._held_out:
            groups = generate_groups(
                held_out.prompts,
                generator,
                self._rewards,
                self._sampling,
                config.evaluation.samples_per_prompt,
                seed_parts=(config.run.seed, "evaluation", held_out.name),
                timer=PhaseTimer(),
                progress=config.logging.progress,
            )
            self._recorder.evaluation(step, held_out.name, groups)
            reports.append(summarise(held_out.name, [ProblemResult.from_group(group) for group in groups]))
        return reports
