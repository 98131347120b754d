"""What a run needs to train a reward model, to measure it on held-out pairs, and to be judged by one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from reasoner_rl.batching.reading import EXTRA_TOKENS
from reasoner_rl.config.data import JudgedDatasetConfig
from reasoner_rl.config.reward_model import (
    ComparisonConfig,
    PairwiseConfig,
    PairwiseJudgeConfig,
    PointwiseConfig,
    PointwiseJudgeConfig,
)
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.config.training_recipe import SamplingRecipe
from reasoner_rl.errors import ConfigError
from reasoner_rl.evaluation.calibration import Calibration
from reasoner_rl.evaluation.pairs import PairReport, summarise_pairs
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.reliability import ReliabilityCurve, plot_reliability
from reasoner_rl.observability.summary import write_json, write_jsonl
from reasoner_rl.prompts.judged import read_judged
from reasoner_rl.prompts.judged_samples import describe, judged_samples
from reasoner_rl.reward_models.comparison import Comparer, text_of
from reasoner_rl.reward_models.component import OwnTokens
from reasoner_rl.reward_models.judges import Judge, PairwiseJudge, PointwiseJudge, ScoringModel, as_sampled
from reasoner_rl.reward_models.pairs import JudgedPair, judged_pairs, verdicts
from reasoner_rl.tokenizer import context_length, load_tokenizer, require_folder
from reasoner_rl.trainer.loading import check_context, check_same_tokenizer
from reasoner_rl.types import Example, Prompt

_RETOKENIZE = "; with reward_model.retokenize=true it reads the text of responses in its own tokens"
DESCRIPTION = "reward_model.json"  # in an exported reward model: its kind, and what it reads


@dataclass(frozen=True, slots=True)
class HeldOutPairs:
    """A named set of pairs."""

    name: str
    pairs: Sequence[JudgedPair]


def comparer_of(config: RewardModelConfig, tokenizer: PreTrainedTokenizerBase) -> Comparer | None:
    """What renders comparisons, for a pairwise model."""
    algorithm = config.algorithm
    return Comparer(tokenizer, algorithm.comparison) if isinstance(algorithm, PairwiseConfig) else None


def load_pairs(
    config: RewardModelConfig, dataset: JudgedDatasetConfig, tokenizer: PreTrainedTokenizerBase
) -> list[JudgedPair]:
    """Read and render one file of pairs, telling what was dropped and what they are like."""
    data = config.data.model_copy(update={"train": dataset})
    examples, read = read_judged(dataset, "pairs")
    rendered, report = judged_samples(examples, tokenizer, data)
    say(f"{dataset.label}: {read}; {report}")
    say(f"{dataset.label}: {describe(report, 'pairs')}")
    return judged_pairs(examples, rendered, report.rows)


def check_pairs_fit(
    config: RewardModelConfig, pairs: Sequence[JudgedPair], examples: Sequence[Example]
) -> None:
    """Raise ConfigError naming the row if what the model reads of a pair is longer than its context.

    examples: what the model reads of each pair.
    """
    context = context_length(config.model)
    extra = EXTRA_TOKENS if isinstance(config.algorithm, PointwiseConfig) else 0
    for pair, example in zip(pairs, examples, strict=True):
        longest = max(sample.tokens for sample in example) + extra
        if context is not None and longest > context:
            raise ConfigError(
                f"row {pair.row} of the pairs: what the reward model reads has {longest} tokens, and "
                f"{config.model.path} can read {context} (max_position_embeddings in its config.json): lower "
                "data.max_response_tokens or data.prompts.max_tokens"
            )


class PairEvaluator:
    """Asks a reward model about all held-out pairs; writes what it said of each, and a reliability diagram."""

    def __init__(
        self,
        config: RewardModelConfig,
        held_out: Sequence[HeldOutPairs],
        model: ScoringModel,
        comparer: Comparer | None,
    ) -> None:
        self._config, self._held_out, self._model, self._comparer = config, held_out, model, comparer

    def evaluate(self, step: int) -> list[PairReport]:
        """One report per dataset."""
        output, bins = self._config.run.output_dir, self._config.evaluation.bins
        reports, curves = [], {}
        for held_out in self._held_out:
            found = verdicts(self._model, self._comparer, held_out.pairs)
            calibration = Calibration.of([verdict.probability for verdict in found], bins)
            report = summarise_pairs(held_out.name, found, calibration)
            rows = [verdict._asdict() | {"probability": verdict.probability} for verdict in found]
            write_jsonl(output / "evaluations" / f"step_{step:06d}_{held_out.name}.jsonl", rows)
            label = f"{held_out.name}, step {step}: error {calibration.error:.3f}"
            curves[label] = ReliabilityCurve(calibration.stated, calibration.observed, calibration.shares)
            say(str(report))
            reports.append(report)
        if curves:
            plot_reliability(curves, output / "reliability.png")
        return reports


def write_description(config: RewardModelConfig, folder: Path) -> None:
    """Note beside exported weights what kind of reward model they are, and what it reads."""
    algorithm = config.algorithm
    described: dict[str, Any] = {"kind": algorithm.kind}
    if isinstance(algorithm, PairwiseConfig):
        described["comparison"] = algorithm.comparison.model_dump(mode="json")
    write_json(folder / DESCRIPTION, described)


def choose_judge(
    config: SamplingRecipe, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]
) -> Callable[[ScoringModel], Judge] | None:
    """What the recipe's reward model becomes once its weights are there; None without one.

    tokenizer: the policy's. Raises ConfigError if the model is of another kind, or reads other tokens.
    """
    section, checkpoint = config.reward_model, config.reward_model_checkpoint
    if section is None or checkpoint is None:
        return None
    require_folder("reward_model.path", section.path)
    described = _description(section.path)
    if described.get("kind", section.kind) != section.kind:
        raise ConfigError(
            f"reward_model.kind is {section.kind}, and {section.path} is a {described['kind']} reward model "
            f"({DESCRIPTION})"
        )
    if isinstance(section, PointwiseJudgeConfig) and not section.retokenize:
        check_same_tokenizer("reward_model", checkpoint, tokenizer, _RETOKENIZE)
        check_context(checkpoint, prompts, config.rollout.sampling.max_response_tokens + EXTRA_TOKENS)
        return partial(PointwiseJudge, read=as_sampled)
    own = load_tokenizer(checkpoint, "reward_model")
    if isinstance(section, PairwiseJudgeConfig):
        comparer = Comparer(own, _comparison(section, described))
        texts = {prompt.uid: text_of(prompt.messages) for prompt in prompts}
        return partial(PairwiseJudge, comparer=comparer, config=section, texts=texts, seed=config.run.seed)
    return partial(PointwiseJudge, read=OwnTokens(own, prompts, context_length(checkpoint)))


def _description(path: str) -> dict[str, Any]:
    """What `write_description` wrote into a folder; of other checkpoints nothing is known."""
    file = Path(path) / DESCRIPTION
    if not file.is_file():
        return {}
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if not isinstance(described, dict):
        raise ConfigError(f"{file}: must hold a mapping; it holds {described!r}")
    return described


def _comparison(section: PairwiseJudgeConfig, described: dict[str, Any]) -> ComparisonConfig:
    """What a pairwise model reads: as the recipe says, or as its checkpoint does, which must agree."""
    trained: ComparisonConfig | None = None
    if "comparison" in described:
        try:
            trained = ComparisonConfig.model_validate(described["comparison"])
        except ValidationError as error:
            raise ConfigError(f"{section.path}/{DESCRIPTION}: comparison: {error}") from error
    given = section.comparison
    if given is None and trained is None:
        raise ConfigError(
            f"reward_model.comparison: set it, because {section.path} has no {DESCRIPTION} that says what the model "
            "was trained to read"
        )
    if given is not None and trained is not None and given != trained:
        raise ConfigError(
            f"reward_model.comparison is {given.model_dump()}, and {section.path} was trained with "
            f"{trained.model_dump()}: leave reward_model.comparison out"
        )
    chosen = given or trained
    assert chosen is not None
    return chosen
