#!/usr/bin/env python3
"""Time a training step of reasoner_rl, phase by phase, and of TRL's GRPOTrainer on the same work.

The work: a tiny Qwen2 with random weights and the quickstart's tokenizer (or a checkpoint) answers 32 prompts of about
20 tokens 8 times each, every response exactly 64 tokens long, at temperature 1; a trivial reward; one AdamW update of
the whole batch with DAPO's loss, without KL, in float32, gradient norm clipped at 1. Neither side computes old
logprobs (the ratio is exactly 1), logs, saves, or checkpoints activations. TRL is timed with the whole batch at once
and in four parts, and the faster counts; reasoner_rl takes the micro-batches it is given. Each side runs in a process
of its own, one after the other, as often as --rounds says (A B C A B C ...); the first step of each process is not
counted. With --clock cpu one thread is used and the seconds are the process's CPU time, which other processes on the
machine change little; that of the verifiers, which are other processes, is not in it.

Phases:
  generate  prompts to responses and their text
  reward    the reward function; reasoner_rl calls it in verifier processes that can be killed, TRL in its own
  prepare   advantages, old and reference logprobs; nothing to compute here
  update    all the rest: advantages, batching, forward, backward, clipping, optimizer
  sync      handing the new weights to generation; TRL generates with the weights that it trains
  total     the whole step

    python scripts/bench/step_time.py --json step_time.json         TRL is skipped where it is not installed
"""

# Verifier processes import this file for its reward function, so everything heavy is imported where it is used.
from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from reasoner_rl.config.recipes import OnlineConfig

ROOT = Path(__file__).resolve().parents[2]
PHASES = ("generate", "reward", "prepare", "update", "sync", "total")
PACKAGES = ("torch", "transformers", "trl", "accelerate")
SHAPES: dict[str, dict[str, Any]] = {
    "2.5m": {"num_hidden_layers": 6, "hidden_size": 192, "intermediate_size": 512},
    "0.8m": {"num_hidden_layers": 4, "hidden_size": 128, "intermediate_size": 384},
}
LEARNING_RATE, BETAS, GRAD_CLIP, CLIP_LOW, CLIP_HIGH = 1e-4, (0.9, 0.999), 1.0, 0.2, 0.28

Times = dict[str, float]  # seconds of one step, by phase


@dataclass(frozen=True)
class Work:
    """The work that both sides do in every step."""

    model: str
    prompts: int  # a step
    responses: int  # to each prompt
    tokens: int  # of each response
    steps: int  # timed, after one that is not
    threads: int
    seed: int
    micro_batch_tokens: int  # of reasoner_rl
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of passes; master weights of both sides are float32
    clock: Literal["wall", "cpu"] = "wall"  # cpu: of the process

    @property
    def now(self) -> Callable[[], float]:
        """Seconds by the clock."""
        return time.process_time if self.clock == "cpu" else time.perf_counter

    def prompt_texts(self) -> list[str]:
        """Sums of 7 to 9 digits, about 20 tokens, for all steps."""
        rng = random.Random(self.seed)
        sums = (
            "+".join(str(rng.randint(0, 9)) for _ in range(rng.randint(7, 9)))
            for _ in range(self.prompts * (self.steps + 1))
        )
        return [f"Compute {text} ?\n" for text in sums]


def odd_share(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]
) -> dict[str, float]:
    """The reward: the share of characters with an odd code. Any two responses differ in it, and it costs nothing."""
    return {
        "score": sum(ord(character) % 2 for character in solution_str) / max(1, len(solution_str)),
        "acc": 0.0,
    }


def embedded_engine(folder: Path, rows: int, threads: int) -> Any:
    """The embedded rollout engine of a checkpoint, on the CPU, in this process. rows: responses side by side."""
    import torch

    from reasoner_rl.config.model import ModelConfig
    from reasoner_rl.config.rollout import HfEngineConfig
    from reasoner_rl.rollout.hf_engine import build_hf_engine
    from reasoner_rl.tokenizer import load_tokenizer

    torch.set_num_threads(threads)
    model = ModelConfig(path=str(folder))
    return build_hf_engine(
        model, HfEngineConfig(max_batch_sequences=rows), load_tokenizer(model), torch.device("cpu")
    )


def make_checkpoint(work: Work, folder: Path) -> int:
    """Write the model and its tokenizer. Returns the number of parameters."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from reasoner_rl.commands.make_tiny_model import build_tokenizer

    if work.model not in SHAPES:
        given = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32)
        given.save_pretrained(folder)
        AutoTokenizer.from_pretrained(work.model).save_pretrained(folder)
        return given.num_parameters()
    torch.manual_seed(work.seed)
    tokenizer = build_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SHAPES[work.model],
    )
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


def our_recipe(work: Work, folder: Path) -> OnlineConfig:
    """The work as a recipe; the checkpoint is in ``folder``."""
    from reasoner_rl.config.recipes import OnlineConfig

    return OnlineConfig.model_validate(
        {
            "run": {"output_dir": folder, "steps": work.steps + 1, "seed": work.seed},
            "model": {"path": str(folder), "dtype": work.dtype},
            "data": {"train": {"path": folder / "none.jsonl"}, "prompts": {"max_tokens": 64}},
            "rollout": {
                "responses_per_prompt": work.responses,
                "sampling": {"max_response_tokens": work.tokens, "min_response_tokens": work.tokens},
            },
            "reward": {"functions": [{"fn": f"{__file__}:odd_share"}]},
            "algorithm": {
                "kind": "dapo",
                "loss": {"clip_low": CLIP_LOW, "clip_high": CLIP_HIGH},
                "dynamic_sampling": {"enabled": False},
            },
            "batch": {
                "prompts_per_step": work.prompts,
                "prompts_per_update": work.prompts,
                "micro_batch_tokens": work.micro_batch_tokens,
            },
            "training": {
                "optimizer": {
                    "lr": LEARNING_RATE,
                    "betas": BETAS,
                    "weight_decay": 0.0,
                    "grad_clip": GRAD_CLIP,
                }
            },
        }
    )


def time_ours(work: Work, folder: Path) -> list[Times]:
    """Time steps of reasoner_rl with its embedded rollout engine."""
    return [read_times(measured) for measured in run_steps(our_recipe(work, folder), work)]


def run_steps(config: OnlineConfig, work: Work) -> list[dict[str, float]]:
    """Make steps of the functions that the trainer is made of; return every timed step's metrics."""
    import torch

    from reasoner_rl.algorithms.build import build_algorithm
    from reasoner_rl.distributed.launch import launch_workers
    from reasoner_rl.metrics import merge, values
    from reasoner_rl.observability.measurements import PhaseTimer
    from reasoner_rl.rewards.runner import RewardRunner
    from reasoner_rl.sources.generate import generate_groups
    from reasoner_rl.sources.samples import samples_of
    from reasoner_rl.tokenizer import load_tokenizer
    from reasoner_rl.types import Prompt

    torch.set_num_threads(work.threads)
    torch.manual_seed(work.seed)
    tokenizer, timer, measured = load_tokenizer(config.model), PhaseTimer(work.now), []
    prompts = [
        Prompt(str(index), tuple(tokenizer(text).input_ids), text, "", "")
        for index, text in enumerate(work.prompt_texts())
    ]
    algorithm = build_algorithm(config)
    with (
        RewardRunner(config.reward, work.tokens) as rewards,
        launch_workers(config, algorithm, print) as workers,
    ):
        assert workers.pool is not None
        workers.publish(0)
        for step in range(work.steps + 1):
            timer.reset()
            with timer("total"):
                groups = generate_groups(
                    prompts[step * work.prompts : (step + 1) * work.prompts],
                    workers.pool,
                    rewards,
                    config.rollout.sampling,
                    work.responses,
                    seed_parts=(work.seed, step),
                    timer=timer,
                    progress=False,
                )
                with timer("prepare"):
                    samples, _ = algorithm.prepare(samples_of(groups, step), workers.models)
                with timer("update"):
                    trained = algorithm.update(samples, workers.models)
                with timer("sync"):
                    synced = workers.publish(step + 1)
            check_lengths([rollout.token_ids for group in groups for rollout in group.rollouts], work)
            tokens = {
                "generate": work.prompts * work.responses * work.tokens,
                "update": sum(sample.tokens for sample in samples),
            }
            # The meter of phase changes has a wall clock of its own.
            measured.append({**values(merge([synced, trained])), **values(timer.metrics(tokens))})
    return measured[1:]


def time_trl(work: Work, folder: Path, device_batch: int) -> list[Times]:
    """Time steps of a GRPOTrainer that takes ``device_batch`` responses through forward and backward at once."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

    from reasoner_rl.metrics import values
    from reasoner_rl.observability.measurements import PhaseTimer

    # Optional, and their types too.
    datasets, trl = importlib.import_module("datasets"), importlib.import_module("trl")
    trainer_class: Any = trl.GRPOTrainer
    torch.set_num_threads(work.threads)
    timer, times = PhaseTimer(work.now), list[Times]()

    class TimedTrainer(trainer_class):
        def _generate(self, *args: Any) -> Any:
            with timer("generate"):
                return super()._generate(*args)

        def _calculate_rewards(self, *args: Any) -> Any:
            with timer("reward"):
                return super()._calculate_rewards(*args)

    class StepTimer(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            timer.reset()
            self.running = timer("total")
            self.running.__enter__()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.running.__exit__(None, None, None)
            times.append(read_times(values(timer.metrics())))

    def reward(completions: list[str], completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        check_lengths(completion_ids, work)
        return [odd_share("", text, "", {})["score"] for text in completions]

    trainer = TimedTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=reward,
        train_dataset=datasets.Dataset.from_list([{"prompt": text} for text in work.prompt_texts()]),
        callbacks=[StepTimer()],
        args=trl_arguments(trl.GRPOConfig, work, folder, device_batch),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return times[1:]


def trl_arguments(config_class: Any, work: Work, folder: Path, device_batch: int) -> Any:
    """The same work in TRL's words."""
    return config_class(
        output_dir=str(folder / "trl"),
        max_steps=work.steps + 1,
        per_device_train_batch_size=device_batch,
        gradient_accumulation_steps=work.prompts * work.responses // device_batch,
        num_generations=work.responses,
        max_completion_length=work.tokens,
        generation_kwargs={"min_new_tokens": work.tokens},
        temperature=1.0,
        loss_type="dapo",
        epsilon=CLIP_LOW,
        epsilon_high=CLIP_HIGH,
        beta=0.0,
        num_iterations=1,
        optim="adamw_torch_fused",
        learning_rate=LEARNING_RATE,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        weight_decay=0.0,
        max_grad_norm=GRAD_CLIP,
        lr_scheduler_type="constant",
        use_cpu=work.device == "cpu",
        bf16=work.dtype == "bfloat16",
        gradient_checkpointing=False,
        dataloader_num_workers=0,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=work.seed,
    )


def read_times(measured: dict[str, float]) -> Times:
    """The seconds of every phase; what was not timed by itself is the update."""
    seconds = {phase: measured.get(f"time/{phase}", 0.0) for phase in PHASES}
    others = sum(seconds[phase] for phase in PHASES if phase not in ("update", "total"))
    return {**seconds, "update": seconds["total"] - others}


def check_lengths(responses: Sequence[Sequence[int]], work: Work) -> None:
    """Raise RuntimeError unless the step generated exactly the work."""
    lengths = sorted({len(response) for response in responses})
    if lengths != [work.tokens] or len(responses) != work.prompts * work.responses:
        raise RuntimeError(f"not the same work: {len(responses)} responses of {lengths} tokens")


def in_fresh_interpreter(measure: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of this file in a fresh interpreter, so that neither side inherits anything of the other."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=be_quiet) as pool:
        return pool.submit(measure, *arguments).result()


def be_quiet() -> None:
    """Show no progress bars, which would cost time in the middle of a measurement."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the work."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = {name: metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)}
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **packages,
    }


def table(medians: dict[str, Times]) -> str:
    """Phases by side, in seconds; with TRL, its best over ours."""
    best = fastest_trl(medians)
    sides = list(medians)
    header = f"{'seconds (median)':<18}" + "".join(f"{side:>16}" for side in sides)
    lines = [header + (f"{'TRL / ours':>14}" if best else "")]
    for phase in PHASES:
        line = f"{phase:<18}" + "".join(f"{medians[side][phase]:>16.3f}" for side in sides)
        ours = medians["reasoner_rl"][phase]
        comparable = best and ours > 0 and medians[best][phase] > 0
        lines.append(line + (f"{medians[best][phase] / ours:>14.2f}" if comparable else ""))
    return "\n".join(lines)


def fastest_trl(medians: dict[str, Times]) -> str:
    """The name of TRL's faster side, or nothing."""
    return min(
        (side for side in medians if side.startswith("TRL")), key=lambda s: medians[s]["total"], default=""
    )


def add_work_arguments(parser: argparse.ArgumentParser, steps: int) -> None:
    """The options that `Work` is made of."""
    parser.add_argument(
        "--model",
        default="2.5m",
        metavar="SHAPE|FOLDER",
        help=f"{' or '.join(SHAPES)} with random weights, or a Hugging Face folder (default 2.5m)",
    )
    parser.add_argument("--prompts", type=int, default=32, help="a step (default 32)")
    parser.add_argument("--responses", type=int, default=8, help="to each prompt (default 8)")
    parser.add_argument("--tokens", type=int, default=64, help="of each response (default 64)")
    parser.add_argument(
        "--steps", type=int, default=steps, help=f"timed steps, after one warm-up (default {steps})"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="decides weights, prompts, sampling (default 0)")
    parser.add_argument("--micro-batch-tokens", type=int, default=8192, help="of reasoner_rl (default 8192)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where both sides run")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of passes")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_work_arguments(parser, steps=5)
    parser.add_argument("--rounds", type=int, default=1, help="processes of each side, in turns (default 1)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: of one thread")
    parser.add_argument("--ours-only", action="store_true", help="do not run TRL")
    parser.add_argument("--json", type=Path, help="file to write every number to")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    from reasoner_rl.observability.summary import write_json

    options = vars(parse(arguments))
    ours_only, json_file, rounds = options.pop("ours_only"), options.pop("json"), options.pop("rounds")
    if options["clock"] == "cpu":
        options["threads"] = 1
    work = Work(**options)
    os.environ["OMP_NUM_THREADS"] = str(work.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    if work.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parameters = in_fresh_interpreter(make_checkpoint, work, folder)
        whole = work.prompts * work.responses
        with_trl = not ours_only and importlib.util.find_spec("trl") is not None
        batches = (whole, whole // 4) if with_trl else ()
        sides: dict[str, list[Times]] = {
            "reasoner_rl": [],
            **{f"TRL, batch {batch}": [] for batch in batches},
        }
        for _ in range(rounds):
            sides["reasoner_rl"] += in_fresh_interpreter(time_ours, work, folder)
            for batch in batches:
                sides[f"TRL, batch {batch}"] += in_fresh_interpreter(time_trl, work, folder, batch)
    medians = {
        side: {phase: median(step[phase] for step in steps) for phase in PHASES}
        for side, steps in sides.items()
    }
    best = fastest_trl(medians)
    ratio = medians[best]["total"] / medians["reasoner_rl"]["total"] if best else None
    report: dict[str, Any] = {
        "work": {**asdict(work), "parameters": parameters},
        "machine": machine(),
        "median_seconds": medians,
        "trl_over_ours": ratio,
        "steps": sides,
    }
    print((__doc__ or "").partition("\n\n    python")[0])
    for part in ("work", "machine"):
        print(f"\n{part}: " + ", ".join(f"{name} {value}" for name, value in report[part].items()))
    print()
    print(table(medians))
    if ratio:
        print(f"\na step of TRL ({best}) takes {ratio:.2f} times as long as ours")
    if json_file:
        write_json(json_file, report)


if __name__ == "__main__":
    main()
