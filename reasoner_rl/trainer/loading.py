"""Reading the data of a run, and checking that model, tokenizer and reward functions fit it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from reasoner_rl.config.base import Section, changed_keys
from reasoner_rl.config.data import DatasetConfig, PromptConfig, SftDataConfig
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.ppo import PtxConfig
from reasoner_rl.config.preference import KtoConfig
from reasoner_rl.config.recipes import (
    EvalConfig,
    OnlineConfig,
    PreferenceConfig,
    SftConfig,
)
from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.config.rollout import RolloutConfig, SamplingConfig
from reasoner_rl.config.training_recipe import TrainingRecipe
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.messages import say, show
from reasoner_rl.prompts.judged import read_judged
from reasoner_rl.prompts.judged_samples import describe, judged_samples
from reasoner_rl.prompts.read import Problem, read_problems
from reasoner_rl.prompts.render import MAX_TOKENS, render_prompts
from reasoner_rl.prompts.supervised import supervised_samples
from reasoner_rl.prompts.templates import problem_hash
from reasoner_rl.rewards.contract import RESPONSE_TOKENS, Answer
from reasoner_rl.rewards.process import dry_run
from reasoner_rl.rewards.second_opinion import check_second_opinion
from reasoner_rl.rollout.stop_strings import split_stops
from reasoner_rl.tokenizer import (
    check_ids,
    context_length,
    load_tokenizer,
    require_folder,
    unused_ids,
    vocabulary_size,
)
from reasoner_rl.types import Example, Prompt, TrainSample
from reward_fns.forms import rules_in_force

TRAIN = "data.train"


def load_prompts(
    dataset: DatasetConfig,
    prompts: PromptConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    key: str = TRAIN,
    show_first: bool = False,
) -> list[Prompt]:
    """Read and render a dataset; print what was dropped and, if asked, the first prompt as rendered.

    key: the dataset's place in the recipe, which messages name.
    """
    _, rendered = _read_and_render(dataset, prompts, tokenizer, key)
    if show_first:
        show_first_prompt(prompts, rendered)
    return rendered


def _read_and_render(
    dataset: DatasetConfig, prompts: PromptConfig, tokenizer: PreTrainedTokenizerBase, key: str
) -> tuple[list[Problem], list[Prompt]]:
    problems, read = read_problems(dataset, key)
    rendered, report = render_prompts(problems, tokenizer, prompts)
    say(f"{dataset.label}: {read}; {report}")
    return problems, rendered


def show_first_prompt(prompts: PromptConfig, rendered: Sequence[Prompt]) -> None:
    """Print the first prompt as rendered, and the template's name if it has one."""
    template = "" if prompts.template is None else f" (template {prompts.template})"
    show(f"first prompt, as the model reads it{template}", rendered[0].text)


def load_examples(data: SftDataConfig, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Read and render worked examples; print what was dropped, and the first as the model reads it."""
    problems, read = read_problems(data.train, TRAIN)
    samples, report = supervised_samples(problems, tokenizer, data)
    say(f"{data.train.label}: {read}; {report}")
    show_example("first example", samples[0], tokenizer)
    return [(sample,) for sample in samples]


def load_judged(config: PreferenceConfig, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Read and render judged answers, telling what was dropped and what they are like, and showing the first.

    Raises DataError if they cannot be learnt from, as where all labels are the same.
    """
    data, kind = config.data, config.algorithm.data
    judged, read = read_judged(data.train, kind)
    examples, report = judged_samples(judged, tokenizer, data)
    say(f"{data.train.label}: {read}; {report}")
    say(f"{data.train.label}: {describe(report, kind)}")
    names = ("first chosen answer", "first rejected answer") if kind == "pairs" else ("first answer",)
    for name, sample in zip(names, examples[0], strict=True):
        show_example(name, sample, tokenizer)
    if isinstance(config.algorithm, KtoConfig):
        _check_labels(config.algorithm, examples, data.train.path)
    return examples


def _check_labels(config: KtoConfig, examples: Sequence[Example], path: Path) -> None:
    """Say which weights balance good and bad answers. Raises DataError if there is one kind alone."""
    good = sum(sample.reward > 0.5 for example in examples for sample in example)
    bad = len(examples) - good
    if not good or not bad:
        raise DataError(
            f"{path}: all {len(examples):,} answers are {'good' if good else 'bad'}, and KTO needs both kinds"
        )
    if all(torch.equal(example[0].prompt_ids, examples[0][0].prompt_ids) for example in examples):
        raise DataError(
            f"{path}: all answers are to the same prompt, and KTO compares with answers to other prompts"
        )
    balanced = config.desirable_weight * good / bad
    ratio = config.desirable_weight * good / (config.undesirable_weight * bad)
    say(
        f"KTO: desirable_weight x good / (undesirable_weight x bad) = {ratio:.3g}, and the paper asks for 1 to 4/3: "
        f"with desirable_weight={config.desirable_weight:g}, undesirable_weight from {0.75 * balanced:.3g} to "
        f"{balanced:.3g}"
    )


def tell_passes(steps: int, per_step: int, examples: int) -> None:
    """Say how often a run reads its examples."""
    say(f"{steps} steps of {per_step} examples: {steps * per_step / examples:.2f} passes over {examples}")


def show_example(title: str, sample: TrainSample, tokenizer: PreTrainedTokenizerBase) -> None:
    """Print an example as the model reads it."""
    whole = torch.cat([sample.prompt_ids, sample.response_ids])
    show(f"{title}, as the model reads it", str(tokenizer.decode(whole)))


def load_mixed_in(ptx: PtxConfig, model: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Read and render the examples of algorithm.ptx, and check that they fit into the model's context.

    Raises DataError or ConfigError, as for an SFT recipe's data, saying that the keys are those of algorithm.ptx.
    """
    try:
        examples = load_examples(ptx.data, tokenizer)
        check_examples_fit(model, examples)
    except (DataError, ConfigError) as error:
        raise type(error)(f"algorithm.ptx: {error} (data stands for algorithm.ptx.data)") from error
    return examples


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A named set of prompts."""

    name: str
    prompts: Sequence[Prompt]
    problem_hashes: Mapping[str, str] = field(default_factory=dict)  # by uid; see `problem_hash`


def load_held_out(
    datasets: Sequence[DatasetConfig], prompts: PromptConfig, tokenizer: PreTrainedTokenizerBase
) -> list[HeldOut]:
    """Read and render evaluation datasets."""
    held_out = []
    for number, dataset in enumerate(datasets):
        problems, rendered = _read_and_render(dataset, prompts, tokenizer, held_out_key(number))
        hashes = {problem.uid: problem_hash(problem) for problem in problems}
        held_out.append(HeldOut(dataset.label, rendered, hashes))
    return held_out


def held_out_key(number: int) -> str:
    """The place in the recipe of an evaluation dataset, counted from 0."""
    return f"evaluation.datasets.{number}"


def check_context(model: ModelConfig, prompts: Iterable[Prompt], response_tokens: int) -> None:
    """Raise ConfigError if the longest prompt and response do not fit into the model's context together."""
    context, longest = context_length(model), max(len(prompt.token_ids) for prompt in prompts)
    if context is not None and longest + response_tokens > context:
        raise ConfigError(
            f"a prompt of {longest} tokens and a response of up to {response_tokens} do not fit into the {context} "
            f"tokens that {model.path} can read (max_position_embeddings in its config.json): lower {MAX_TOKENS} or "
            "rollout.sampling.max_response_tokens"
        )


def check_examples_fit(model: ModelConfig, examples: Iterable[Example], *, mismatched: bool = False) -> None:
    """Raise ConfigError if the longest example does not fit into the model's context.

    mismatched: whether prompts are also read with the answers to other prompts.
    """
    samples = [sample for example in examples for sample in example]
    context, longest, what = context_length(model), max(sample.tokens for sample in samples), "an example"
    if mismatched:
        what = (
            "KTO reads prompts with the answers to other prompts, and the longest prompt and answer together,"
        )
        longest = max(len(s.prompt_ids) for s in samples) + max(len(s.response_ids) for s in samples)
    if context is not None and longest > context:
        raise ConfigError(
            f"{what} of {longest} tokens does not fit into the {context} tokens that {model.path} can read "
            f"(max_position_embeddings in its config.json): lower {MAX_TOKENS} or data.max_response_tokens"
        )


def check_other_model(
    section: str, model: ModelConfig, policy: ModelConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise ConfigError if a checkpoint beside the policy's cannot read all tokens that the policy can.

    section: of the recipe, critic, teacher or reference.
    """
    require_folder(f"{section}.path", model.path)
    size = vocabulary_size(policy) or 0
    check_ids(model, tokenizer, (token for token in tokenizer.get_vocab().values() if token < size))


def check_same_tokenizer(
    section: str, model: ModelConfig, tokenizer: PreTrainedTokenizerBase, remedy: str = ""
) -> None:
    """Raise ConfigError if a model's own tokenizer has other tokens: it would be asked about other texts.

    section: of the recipe: teacher, reference or reward_model. remedy: what the message says at its end.
    """
    own = load_tokenizer(model.model_copy(update={"tokenizer": None}), section)
    if (theirs := own.get_vocab()) != (ours := tokenizer.get_vocab()):
        token = min((ours.items() ^ theirs.items()), key=lambda item: item[1])
        raise ConfigError(
            f"{section}.path={model.path}: its tokenizer differs from the policy's, first at id {token[1]} "
            f"({token[0]!r}), and a {section} must read the policy's tokens{remedy}"
        )


def check_vocabulary(
    model: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    token_ids: Iterable[int],
    samplings: Iterable[SamplingConfig] = (),
) -> None:
    """Check that the model has an embedding for all ``token_ids`` of the data, and for ``samplings``' stop tokens.

    Tells how many ids of the model no token has. Raises ConfigError for a token that the model lacks, and for a stop
    text that can never be found.
    """
    stops = [token for sampling in samplings for token in split_stops(tokenizer, sampling.stop)[0]]
    check_ids(model, tokenizer, chain(token_ids, stops))
    if unused := unused_ids(model, tokenizer):
        say(
            f"vocabulary: the tokenizer has no token for {len(unused)} of the model's {vocabulary_size(model)} ids "
            f"(the first is {unused[0]}); they are given no probability"
        )


def check_generation(
    config: EvalConfig, prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Check that model and sampling of a command that only generates fit its prompts.

    Raises ConfigError as `check_context` and `check_vocabulary` do.
    """
    check_context(config.model, prompts, config.rollout.sampling.max_response_tokens)
    token_ids = (token for prompt in prompts for token in prompt.token_ids)
    check_vocabulary(config.model, tokenizer, token_ids, [config.rollout.sampling])


def check_rewards(rewards: RewardConfig, prompt: Prompt) -> None:
    """Call each reward function on a row of the data, so that a mistake shows before models are loaded.

    Tells if the first function does not say whether a response is right. Raises ConfigError naming the function and
    what is wrong with it.
    """
    response = f"Answer: {prompt.ground_truth}"
    extra_info = {RESPONSE_TOKENS: len(response), **prompt.extra_info}
    answer = Answer(prompt.data_source, response, prompt.ground_truth, extra_info)
    results = dry_run(rewards, answer)
    check_second_opinion(rewards, answer)
    if results[0].accuracy is None:
        say(
            f"reward function {rewards.functions[0].label!r} returns a score without 'acc': accuracy is not known, and "
            "dynamic sampling keeps the groups whose scores differ. To have accuracy measured, and groups that are all "
            "right told from those that are all wrong, let it return {'score': ..., 'acc': True or False}."
        )


def tell_rules(rewards: RewardConfig, prompts: Iterable[Prompt]) -> None:
    """Say by which rule the first function, which decides accuracy, judges each data source, and what it counts."""
    first = rewards.functions[0]
    for line in rules_in_force(first.fn, first.parameters, (prompt.data_source for prompt in prompts)):
        say(line)


def tell_unused_sections(config: SftConfig | PreferenceConfig) -> None:
    """Say which sections about generation were changed and have no effect, because nothing is evaluated."""
    given = {"rollout": (config.rollout, RolloutConfig()), "reward": (config.reward, RewardConfig())}
    unused = [name for name, (section, default) in given.items() if section != default]
    if unused and not config.generates:
        say(f"evaluation.datasets is empty, so nothing is generated and {' and '.join(unused)} has no effect")


def tell_switched_off(config: TrainingRecipe) -> None:
    """Say which keys have no effect because what they belong to is switched off, as by an override of one key."""
    reward, evaluation, logging = config.reward, config.evaluation, config.logging
    sections: list[tuple[str, Section, bool, str]] = [
        ("reward.overlong", reward.overlong, reward.overlong.buffer_tokens == 0, "buffer_tokens penalty"),
        ("evaluation", evaluation, not evaluation.datasets, "datasets samples_per_prompt sampling"),
        ("logging", logging, logging.rollouts == "none", "rollouts rollout_format"),
    ]
    if isinstance(config, OnlineConfig):
        dynamic, loss = config.algorithm.dynamic_sampling, config.algorithm.loss
        caps = "enabled max_generation_batches when_exhausted max_staleness"
        price = config.algorithm.kl_in_reward
        sections += [
            ("algorithm.dynamic_sampling", dynamic, not dynamic.enabled, caps),
            ("algorithm.loss.kl", loss.kl, loss.kl.coefficient == 0, "coefficient estimator"),
            ("algorithm.kl_in_reward", price, price.coefficient == 0, "coefficient estimator"),
        ]
    for path, section, off, keys in sections:
        switch, *others = keys.split()
        for key, value in changed_keys(section, others).items() if off else ():
            say(f"{path}.{key}={value!r} has no effect: {path}.{switch} is {getattr(section, switch)!r}")


def tell_evaluation_parameters(rewards: RewardConfig) -> None:
    """Say which parameters reward functions have in evaluation and not in training."""
    for function in rewards.functions:
        if changed := function.changed_in_evaluation:
            listed = ", ".join(f"{name}={value!r}" for name, value in changed.items())
            say(f"in evaluation the reward function {function.label!r} is called with {listed}")
