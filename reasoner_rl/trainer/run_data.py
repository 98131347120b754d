"""What a run reads before it starts: prompts or examples, held-out data, and the checks that all of it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain

from transformers import PreTrainedTokenizerBase

from reasoner_rl.algorithms.build import build_algorithm, check_custom_parts
from reasoner_rl.config.arithmetic import arithmetic_lines
from reasoner_rl.config.iterated import IteratedConfig
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.preference import KtoConfig
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig, TrainConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.distributed.hub import models_of
from reasoner_rl.errors import require_package
from reasoner_rl.observability.messages import say
from reasoner_rl.prompts.fingerprint import Fingerprint, fingerprint
from reasoner_rl.reward_models.comparison import Comparer
from reasoner_rl.reward_models.judges import Judge, ScoringModel
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.loading import (
    HeldOut,
    check_context,
    check_examples_fit,
    check_other_model,
    check_rewards,
    check_same_tokenizer,
    check_vocabulary,
    load_examples,
    load_held_out,
    load_judged,
    load_mixed_in,
    load_prompts,
    show_example,
    tell_evaluation_parameters,
    tell_passes,
    tell_rules,
    tell_switched_off,
    tell_unused_sections,
)
from reasoner_rl.trainer.resume import MIXED_IN_DATA, TRAINING_DATA
from reasoner_rl.trainer.reward_models import (
    HeldOutPairs,
    check_pairs_fit,
    choose_judge,
    comparer_of,
    load_pairs,
)
from reasoner_rl.types import Example, Prompt


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run reads before it starts."""

    rows: list[Prompt] | list[Example]  # prompts to answer, or examples
    held_out: list[HeldOut]
    mixed_in: list[Example] = field(default_factory=list)  # examples of algorithm.ptx
    held_out_pairs: list[HeldOutPairs] = field(default_factory=list)  # of a reward model
    comparer: Comparer | None = None  # what renders pairs for a pairwise reward model
    # What a reward model's weights become, where one judges.
    judge: Callable[[ScoringModel], Judge] | None = None

    @property
    def examples(self) -> list[Example]:
        """The rows of a run that learns from examples."""
        return [row for row in self.rows if not isinstance(row, Prompt)]

    def fingerprints(self) -> dict[str, Fingerprint]:
        """By the name that a message gives the data."""
        found = {TRAINING_DATA: fingerprint(self.rows)}
        if self.mixed_in:
            found[MIXED_IN_DATA] = fingerprint(self.mixed_in)
        held_out: dict[str, list[Prompt] | list[Example]] = {
            each.name: list(each.prompts) for each in self.held_out
        }
        held_out |= {each.name: [pair.example(None) for pair in each.pairs] for each in self.held_out_pairs}
        return found | {f"evaluation.datasets {name}": fingerprint(rows) for name, rows in held_out.items()}


def tell_recipe(config: TrainConfig | IteratedConfig) -> None:
    """Print which keys have no effect, and the arithmetic of a step."""
    if not isinstance(config, RewardModelConfig):
        tell_switched_off(config)
    if isinstance(config, OnlineConfig):
        for line in arithmetic_lines(config):
            say(line)


def check_run(config: TrainConfig) -> None:
    """Print and check everything that a run does before it loads weights, without its output folder."""
    tell_recipe(config)
    load_data(config, load_tokenizer(config.model))
    build_algorithm(config)
    check_custom_parts(config)


def load_data(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> RunData:
    """Read training and held-out data, and check that the model, its context and the reward functions fit them."""
    if isinstance(config, RewardModelConfig):
        return _load_pair_data(config, tokenizer)
    mixed_in, judge = list[Example](), None
    if isinstance(config, OnlineConfig):
        prompts = load_prompts(config.data.train, config.data.prompts, tokenizer, show_first=True)
        check_context(config.model, prompts, config.rollout.sampling.max_response_tokens)
        limit = config.rollout.sampling.max_response_tokens
        for section, model in _other_models(config).items():
            check_other_model(section, model, config.model, tokenizer)
            check_context(model, prompts, limit)
        if config.teacher_model is not None:
            check_same_tokenizer("teacher", config.teacher_model, tokenizer)
        if config.algorithm.ptx is not None:
            mixed_in = load_mixed_in(config.algorithm.ptx, config.model, tokenizer)
        judge = choose_judge(config, tokenizer, prompts)
        rows: list[Prompt] | list[Example] = prompts
    else:
        if isinstance(config, PreferenceConfig):
            examples = load_judged(config, tokenizer)
        else:
            examples = load_examples(config.data, tokenizer)
        rows = examples
        mismatched = isinstance(config.algorithm, KtoConfig)
        check_examples_fit(config.model, examples, mismatched=mismatched)
        for section, model in _other_models(config).items():
            check_other_model(section, model, config.model, tokenizer)
            check_same_tokenizer(section, model, tokenizer)
            check_examples_fit(model, examples, mismatched=mismatched)
        tell_unused_sections(config)
        tell_passes(config.run.steps, config.batch.examples_per_step, len(rows))
    held_out = load_held_out(config.evaluation.datasets, config.data.prompts, tokenizer)
    for problems in held_out:
        check_context(config.model, problems.prompts, config.evaluation_sampling.max_response_tokens)
    tokens = chain(
        _token_ids(rows), _token_ids(mixed_in), *(_token_ids(problems.prompts) for problems in held_out)
    )
    samplings = (config.rollout.sampling, config.evaluation_sampling) if config.generates else ()
    check_vocabulary(config.model, tokenizer, set(tokens), samplings)
    judged = [row for row in rows if isinstance(row, Prompt)]
    judged += [prompt for each in held_out for prompt in each.prompts]
    if judged:
        check_rewards(config.reward, judged[0])
        tell_rules(config.reward, judged)
    if held_out:
        tell_evaluation_parameters(config.reward)
    return RunData(rows, held_out, mixed_in, judge=judge)


def _load_pair_data(config: RewardModelConfig, tokenizer: PreTrainedTokenizerBase) -> RunData:
    """The pairs of a reward model's recipe."""
    comparer, datasets = comparer_of(config, tokenizer), config.evaluation.datasets
    if datasets:
        require_package("sklearn", "scikit-learn", "preferences", "evaluation.datasets of a reward model")
    pairs = load_pairs(config, config.data.train, tokenizer)
    held_out = [HeldOutPairs(file.label, load_pairs(config, file, tokenizer)) for file in datasets]
    examples = [pair.example(comparer) for pair in pairs]
    check_pairs_fit(config, pairs, examples)
    for each in held_out:
        check_pairs_fit(config, each.pairs, [pair.example(comparer) for pair in each.pairs])
    for number, sample in enumerate(examples[0]):
        show_example(f"first pair, sample {number + 1} of 2", sample, tokenizer)
    tell_passes(config.run.steps, config.batch.examples_per_step, len(examples))
    check_vocabulary(config.model, tokenizer, set(_token_ids(examples)))
    return RunData(examples, [], held_out_pairs=held_out, comparer=comparer)


def _other_models(config: TrainConfig) -> dict[str, ModelConfig]:
    """The checkpoints beside the policy's, by section, but for the reward model, which may read other tokens."""
    others = models_of(config).items()
    return {section: model for section, model in others if section not in ("model", "reward_model")}


def _token_ids(rows: Iterable[Prompt | Example]) -> Iterable[int]:
    for row in rows:
        if isinstance(row, Prompt):
            yield from row.token_ids
        else:
            for sample in row:
                yield from sample.prompt_ids.tolist()
                yield from sample.response_ids.tolist()
