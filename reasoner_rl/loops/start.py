"""What every run does first: its folder, its record of what it is, its prompts, a way to stop it."""

from __future__ import annotations

import fcntl
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from reasoner_rl.config.data import DatasetConfig, PromptConfig, SftDataConfig
from reasoner_rl.config.load import dump_recipe
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.recipes import Recipe
from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.config.run import RunConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.observability.summary import atomic_writer, write_json
from reasoner_rl.observability.versions import versions
from reasoner_rl.prompts.read import read_problems
from reasoner_rl.prompts.render import MAX_TOKENS, render_prompts
from reasoner_rl.prompts.supervised import supervised_samples
from reasoner_rl.rewards.contract import RESPONSE_TOKENS, Answer
from reasoner_rl.rewards.process import dry_run
from reasoner_rl.rollout.stop_strings import split_stops
from reasoner_rl.seeding import derive_seed
from reasoner_rl.tokenizer import check_ids, context_length, unused_ids, vocabulary_size
from reasoner_rl.training.disk_space import partial_of
from reasoner_rl.types import Prompt, TrainSample

_CONSOLE = Console()


def say(text: str) -> None:
    """Tell the user something, whole and unstyled."""
    _CONSOLE.print(text, soft_wrap=True, highlight=False, markup=False)


def show(title: str, text: str) -> None:
    """Show the user a text in a frame."""
    _CONSOLE.print(Panel(Text(text), title=title, title_align="left"))


@contextmanager
def output_folder(run: RunConfig) -> Iterator[Path]:
    """Make ``run.output_dir`` and keep other runs out of it while the block runs.

    Raises ConfigError if it cannot be written to, or if another run has it.
    """
    output = run.output_dir
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"run.output_dir={output}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"run.output_dir={output}: another run is writing there; wait for it, or choose another folder"
            ) from error
        except OSError:
            pass  # a file system without locks
        shutil.rmtree(partial_of(output / "final"), ignore_errors=True)  # of an export that was killed
        yield output


def begin_run(config: Recipe) -> None:
    """Set torch's threads and seed."""
    transformers_logging.disable_progress_bar()  # bars of a second, between lines that matter
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    torch.manual_seed(derive_seed(config.run.seed, "torch"))


def record_run(config: Recipe) -> None:
    """Write the resolved recipe and the versions into the output folder, when all that can be refused was checked."""
    output = config.run.output_dir
    with atomic_writer(output / "recipe.yaml") as file:
        file.write(dump_recipe(config))
    write_json(
        output / "run.json", {"started": datetime.now(UTC).isoformat(timespec="seconds"), **versions()}
    )


def load_prompts(
    dataset: DatasetConfig,
    prompts: PromptConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    show_first: bool = False,
) -> list[Prompt]:
    """Read and render a dataset, telling what was dropped and, if asked, showing the first prompt as rendered."""
    problems, read = read_problems(dataset)
    rendered, report = render_prompts(problems, tokenizer, prompts)
    say(f"{dataset.label}: {read}; {report}")
    if show_first:
        show("first prompt, as the model reads it", rendered[0].text)
    return rendered


def load_examples(data: SftDataConfig, tokenizer: PreTrainedTokenizerBase) -> list[TrainSample]:
    """Read and render worked examples, telling what was dropped and showing the first as the model reads it."""
    problems, read = read_problems(data.train)
    samples, report = supervised_samples(problems, tokenizer, data)
    say(f"{data.train.label}: {read}; {report}")
    first = torch.cat([samples[0].prompt_ids, samples[0].response_ids])
    show("first example, as the model reads it", str(tokenizer.decode(first)))
    return samples


def check_context(model: ModelConfig, prompts: Iterable[Prompt], response_tokens: int) -> None:
    """Raise ConfigError if the longest prompt and response do not fit into the model's context together."""
    context, longest = context_length(model), max(len(prompt.token_ids) for prompt in prompts)
    if context is not None and longest + response_tokens > context:
        raise ConfigError(
            f"a prompt of {longest} tokens and a response of up to {response_tokens} do not fit into the {context} "
            f"tokens that {model.path} can read (max_position_embeddings in its config.json): lower {MAX_TOKENS} or "
            "sampling.max_response_tokens"
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


def check_rewards(rewards: RewardConfig, prompt: Prompt) -> None:
    """Call each reward function on a row of the data, so that a mistake shows before models are loaded.

    Tells if the first function does not say whether a response is right. Raises ConfigError naming the function and
    what is wrong with it.
    """
    response = f"Answer: {prompt.ground_truth}"
    extra_info = {RESPONSE_TOKENS: len(response), **prompt.extra_info}
    results = dry_run(rewards, Answer(prompt.data_source, response, prompt.ground_truth, extra_info))
    if results[0].accuracy is None:
        say(
            f"reward function {rewards.functions[0].label!r} returns a score without 'acc': accuracy is not known, and "
            "dynamic sampling keeps the groups whose scores differ. To have accuracy measured, and groups that are all "
            "right told from those that are all wrong, let it return {'score': ..., 'acc': True or False}."
        )


def tell_evaluation_parameters(rewards: RewardConfig) -> None:
    """Say which parameters reward functions have in evaluation and not in training."""
    for function in rewards.functions:
        if function.evaluation_parameters:
            listed = ", ".join(f"{name}={value!r}" for name, value in function.evaluation_parameters.items())
            say(f"in evaluation the reward function {function.label!r} is called with {listed}")


class StopRequest:
    """Set by the first Ctrl-C or SIGTERM: the loop finishes its step, saves and leaves."""

    def __init__(self) -> None:
        self.requested = False
        self.interrupted = False  # by a second one

    def __bool__(self) -> bool:
        return self.requested


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request; a second one interrupts at once.

    Whatever error the block ends in after that is raised as KeyboardInterrupt. An interrupted write ends in an error of
    PyTorch's, which passes from rank to rank without its cause.
    """
    stop = StopRequest()

    def request(number: int, frame: FrameType | None) -> None:
        if stop.requested:
            stop.interrupted = True
            raise KeyboardInterrupt
        stop.requested = True
        say("stopping after this step, with a checkpoint; once more to stop at once")

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except BaseException as error:
        if stop.interrupted and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
