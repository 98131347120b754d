#!/usr/bin/env python3
"""Fourteen ways to train, from the same start, with about as many generated tokens each.

Every method trains the same warm start on the ladder (data/make_ladder.py), once per seed, and is measured on the
same held-out problems. Recipes are in scripts/baselines; they were not tuned. Each run is to generate what GRPO does
in 24 steps of 256 responses, about 290,000 tokens; numbers of prompts and steps were chosen for that, and the table
says what was generated:

    SFT, score-weighted SFT, DPO, IPO, KTO, ORPO, SimPO   learn from the start's own answers, the same for all
    iterated DPO                                          in three rounds, each from the answers of the last weights
    PPO (reward model)                                    one half for the pairs of the reward model
    PPO (rules), RLOO, REINFORCE++, GRPO, DAPO            while they train

A run is OUT/<method>/seed_<n>; finished ones are not run again,
unfinished ones resume. Writes baselines.json, baselines.md (every method, against its start, and against GRPO) and
baselines.png (accuracy over tokens and seconds) to OUT.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from comparison import (
    Command,
    Method,
    check_runs,
    check_starts,
    collect,
    complete_seeds,
    parse_runs,
    run_all,
    seed_folder,
    stop_at,
)
from comparison_report import Contrast, contrast, gain, report
from ladder import describe_start

from reasoner_rl.cli import exit_statuses
from reasoner_rl.trainer.folder import exclusive_folder

SCRIPTS = Path(__file__).resolve().parent
RUNS = SCRIPTS.parent / "runs"
SAMPLING = "ladder_grpo"  # the recipe that answers are sampled and judged by

PROMPTS = 1180  # with 8 answers each, of the start
ROUNDS, PROMPTS_PER_ROUND = 3, 265  # iterated DPO: answers become longer
STEPS_PER_ROUND = 15
REWARD_MODEL_PROMPTS = 590

OFFLINE = {
    "SFT": ("sft", "sft.jsonl"),
    "score-weighted SFT": ("score_weighted_sft", "scores.jsonl"),
    "DPO": ("dpo", "pairs.jsonl"),
    "IPO": ("ipo", "pairs.jsonl"),
    "KTO": ("kto", "labels.jsonl"),
    "ORPO": ("orpo", "pairs.jsonl"),
    "SimPO": ("simpo", "pairs.jsonl"),
}
ONLINE = {
    "PPO (rules)": "ppo",
    "RLOO": "rloo",
    "REINFORCE++": "reinforce_plus_plus",
    "GRPO": "grpo",
    "DAPO": "dapo",
}
AGAINST = "GRPO"


@dataclass(frozen=True, slots=True)
class Start:
    """Where the runs begin: pattern of the ladder's folder, where {seed} stands for the seed."""

    pattern: str

    def model(self, seed: int) -> Path:
        """The warm start's weights."""
        return seed_folder(self.pattern, seed) / "warm_start" / "final"

    def data(self, seed: int, name: str) -> Path:
        """train.jsonl or heldout.jsonl."""
        return seed_folder(self.pattern, seed) / "data" / name

    def sampling(self, seed: int, model: Path, first: int, count: int, out: Path) -> Command:
        """Answers of ``model`` to problems from ``first`` on, and pairs, labels and scores of them."""
        words = ("reasoner-rl", "data", "make-preferences", SAMPLING, "--pairs", "all", "--out", str(out))
        return Command((*words, *self._sampling_keys(seed, model, first, count)), out)

    def worked_examples(self, seed: int, count: int, out: Path) -> Command:
        """Right answers among those that `sampling` left in ``out``."""
        words = ("reasoner-rl", "data", "make-sft", SAMPLING, "--count", "8", "--out", str(out))
        return Command((*words, *self._sampling_keys(seed, self.model(seed), 0, count)), out)

    def _sampling_keys(self, seed: int, model: Path, first: int, count: int) -> list[str]:
        return [
            *("run.threads=1", f"run.seed={seed}", f"model.path={model}"),
            f"data.train.path={self.data(seed, 'train.jsonl')}",
            *(f"data.train.start={first}", f"data.train.limit={count}"),
        ]

    def training(self, recipe: str, seed: int, model: Path, data: Path, out: Path, *keys: str) -> Command:
        """Training by a recipe of scripts/baselines."""
        verb = "sft" if recipe == "sft" else "train"
        words = ("reasoner-rl", verb, str(SCRIPTS / "baselines" / f"{recipe}.yaml"), "run.threads=1")
        paths = (f"run.output_dir={out}", f"model.path={model}", f"data.train.path={data}")
        return Command((*words, f"run.seed={seed}", *paths, *keys), out)

    def held_out(self, seed: int) -> str:
        """The problems that count."""
        return f"evaluation.datasets.0.path={self.data(seed, 'heldout.jsonl')}"


def ladder(out: Path) -> Method:
    """What makes the problems and the warm start."""

    def commands(seed: int, folder: Path) -> list[Command]:
        words = ("--seed", str(seed), "--out", str(out), "run.threads=1")
        return [Command((sys.executable, str(SCRIPTS / "ladder.py"), *words), out)]

    return Method("warm start", commands)


def answers(start: Start) -> Method:
    """What methods learn from that do not sample themselves: the same answers for all of them."""

    def commands(seed: int, folder: Path) -> list[Command]:
        return [start.sampling(seed, start.model(seed), 0, PROMPTS, folder / "data")]

    return Method("answers", commands)


def right_answers(start: Start, sampled: Method, out: Path) -> Method:
    """The right ones among the answers, as worked examples; all runs are in ``out``."""

    def commands(seed: int, folder: Path) -> list[Command]:
        return [start.worked_examples(seed, PROMPTS, sampled.folder(seed, out) / "data")]

    return Method("right answers", commands, needs=sampled)


def offline(start: Start, name: str, sampled: Method, needs: Method, out: Path) -> Method:
    """A method that learns from the answers that were ``sampled``; all runs are in ``out``."""
    recipe, file = OFFLINE[name]

    def commands(seed: int, folder: Path) -> list[Command]:
        data = sampled.folder(seed, out) / "data" / file
        return [start.training(recipe, seed, start.model(seed), data, folder / "train", start.held_out(seed))]

    return Method(name, commands, needs=needs)


def online(start: Start, name: str) -> Method:
    """A method that samples while it trains."""

    def commands(seed: int, folder: Path) -> list[Command]:
        model, problems = start.model(seed), start.data(seed, "train.jsonl")
        return [start.training(ONLINE[name], seed, model, problems, folder / "train", start.held_out(seed))]

    return Method(name, commands)


def iterated_dpo(start: Start) -> Method:
    """Rounds of sampling and DPO, as a recipe of kind iterated runs them, with other problems in each."""

    def commands(seed: int, folder: Path) -> list[Command]:
        model, found = start.model(seed), list[Command]()
        for number in range(ROUNDS):
            data, out = folder / f"round_{number + 1}" / "data", folder / f"round_{number + 1}" / "train"
            keys = [start.held_out(seed), f"run.steps={STEPS_PER_ROUND}", "evaluation.every_steps=null"]
            keys.append(f"evaluation.at_start={'false' if number else 'true'}")
            found += [
                start.sampling(seed, model, number * PROMPTS_PER_ROUND, PROMPTS_PER_ROUND, data),
                start.training("dpo", seed, model, data / "pairs.jsonl", out, *keys),
            ]
            model = out / "final"
        return found

    return Method("iterated DPO", commands)


def ppo_reward_model(start: Start) -> Method:
    """A reward model of the verifier's pairs, and PPO that sees the reward model alone."""

    def commands(seed: int, folder: Path) -> list[Command]:
        model, data, judge = start.model(seed), folder / "data", folder / "reward_model"
        weights = judge / "final"
        keys = (start.held_out(seed), f"reward_model.path={weights}", f"critic.path={weights}")
        problems = start.data(seed, "train.jsonl")
        return [
            start.sampling(seed, model, 0, REWARD_MODEL_PROMPTS, data),
            start.training("reward_model", seed, model, data / "pairs.jsonl", judge),
            start.training("ppo_reward_model", seed, model, problems, folder / "train", *keys),
        ]

    return Method("PPO (reward model)", commands)


def plan(start: Start, out: Path) -> list[list[Method]]:
    """Stages, of which each needs those before: answers, the right ones of them, and the methods as reported."""
    sampled = answers(start)
    right = right_answers(start, sampled, out)
    methods = [offline(start, name, sampled, right if name == "SFT" else sampled, out) for name in OFFLINE]
    methods += [iterated_dpo(start), ppo_reward_model(start)]
    methods += [online(start, name) for name in ONLINE]
    return [[sampled], [right], methods]


def remark(gains: Sequence[Contrast]) -> str:
    """Which methods are not shown to be better than their start: an interval of their gain reaches 0 or less."""
    lows = {
        each.after: [low for low in (each.seeds.low, each.problems.low) if low is not None] for each in gains
    }
    doubtful = [name for name, found in lows.items() if not found or min(found) <= 0]
    named = ", ".join(doubtful) if doubtful else "none"
    return f"Not shown to be better than the start (the lower end of an interval of the gain is not above 0): {named}."


def report_methods(methods: Sequence[Method], seeds: Sequence[int], out: Path) -> None:
    """Write and print the report of finished seeds: every method against its start, and against GRPO."""
    results = collect(methods, seeds, out)
    gains = [gain(results, name) for name in results]
    against = [contrast(results, AGAINST, name) for name in results if name != AGAINST]
    report(results, [*gains, *against], out, "baselines", {"seeds": list(seeds)}, remark(gains))


def run(options: argparse.Namespace) -> None:
    """Run what is not finished, and report on the seeds that all methods have finished.

    Raises ConfigError for mistakes, and UserError if a run failed.
    """
    start = Start(options.start or str(options.out / "ladder"))
    stages = plan(start, options.out)
    check_runs([method for stage in stages for method in stage], options.seeds, options.out)
    if options.start:
        check_starts(options.start, options.seeds, "scripts/ladder.sh")
    with exclusive_folder(options.out, "--out"):
        if not options.start:
            stop_at(run_all([ladder(options.out / "ladder")], [0], options.out, 1))
        for folder in dict.fromkeys(seed_folder(start.pattern, seed) for seed in options.seeds):
            print(f"{folder}: {describe_start(folder / 'warm_start')}")
        run_stages(stages, options.seeds, options.out, options.jobs)


def run_stages(stages: Sequence[Sequence[Method]], seeds: Sequence[int], out: Path, jobs: int) -> None:
    """Run the stages with the seeds that each of them finished, and report on the last one's. Raises UserError."""
    failures, going_on = list[str](), list(seeds)
    try:
        for stage in stages:
            failures += run_all(stage, going_on, out, jobs)
            going_on = complete_seeds(stage, going_on, out)
    finally:
        if finished := complete_seeds(stages[-1], seeds, out):
            report_methods(stages[-1], finished, out)
    stop_at(failures)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=RUNS / "baselines", help="default runs/baselines")
    parser.add_argument(
        "--from",
        dest="start",
        metavar="FOLDER",
        help="finished ladder; {seed} stands for the seed (default: one with seed 0 is made in OUT/ladder)",
    )
    options = parse_runs(parser, arguments, count=3)
    options.out = options.out.resolve()  # however the folders are written, the commands of a run are the same
    options.start = options.start and str(Path(options.start).resolve())
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    with exit_statuses(lambda: "where it stopped; finished runs are kept"):
        run(options)


if __name__ == "__main__":
    main()
