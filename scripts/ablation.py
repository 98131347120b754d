#!/usr/bin/env python3
"""DAPO's techniques turned on one at a time.

The counterpart of table 1 of the DAPO paper (arXiv 2503.14476), in its order. Every row is trained from the same
warm-started checkpoint for the same number of steps, once per seed. A row has the techniques of all rows above it; in
the paper and here, overlong filtering gives way to the soft punishment. Nothing else differs: the first row is GRPO
without KL, with DAPO's dual clip.

    bash scripts/ladder.sh && python scripts/ablation.py --task ladder --seeds 0 1 2 3 4
    bash scripts/quickstart.sh && python scripts/ablation.py --task quickstart

A warm start of its own for every seed, which makes the intervals over seeds those of the whole procedure:

    for n in 0 1 2 3 4; do bash scripts/ladder.sh --seed $n --out runs/ladder_$n; done
    python scripts/ablation.py --task ladder --seeds 0 1 2 3 4 --from 'runs/ladder_{seed}'

Runs are kept in OUT/<row>/seed_<n>; finished ones are not run again, unfinished ones resume. Writes ablation.json,
ablation.md (the rows, then each against the one above it) and ablation.png (accuracy over tokens and seconds) to OUT.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from comparison import (
    Command,
    Method,
    check_starts,
    collect,
    complete_seeds,
    parse_runs,
    run_all,
    seed_folder,
    stop_at,
)
from comparison_report import contrast, gain, report

from reasoner_rl.cli import exit_statuses
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.trainer.folder import exclusive_folder

RUNS = Path(__file__).resolve().parent.parent / "runs"


@dataclass(frozen=True, slots=True)
class Task:
    """What the rows are trained on: the recipe of DAPO, and the script that makes its problems and warm start."""

    recipe: str
    script: str


TASKS = {
    "quickstart": Task("quickstart", "scripts/quickstart.sh"),
    "ladder": Task("ladder_dapo", "scripts/ladder.sh"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the rows have in common."""

    task: Task
    start: str  # folder of the warm start, where {seed} stands for the seed
    settings: tuple[str, ...] = ()  # overrides for every row; they do not undo a row's own


def techniques(task: Task) -> dict[str, Mapping[str, str]]:
    """What each row changes in the recipe, over all rows above it. The last row is the recipe again."""
    dapo = load_recipe(task.recipe)
    assert isinstance(dapo, OnlineConfig)
    return {
        "GRPO": {
            "algorithm.loss.clip_low": "0.2",
            "algorithm.loss.clip_high": "0.2",
            "algorithm.loss.aggregation": "seq-mean-token-mean",
            "algorithm.loss.kl.coefficient": "0.0",
            "algorithm.dynamic_sampling.enabled": "false",
            "reward.overlong.buffer_tokens": "0",
            "reward.overlong.mask_truncated": "false",
        },
        "+ overlong filtering": {"reward.overlong.mask_truncated": "true"},
        "+ clip-higher": {"algorithm.loss.clip_high": "0.28"},
        "+ soft overlong punishment": {
            "reward.overlong.mask_truncated": "false",
            "reward.overlong.buffer_tokens": str(dapo.reward.overlong.buffer_tokens),
        },
        "+ token-level loss": {"algorithm.loss.aggregation": "token-mean"},
        "+ dynamic sampling (DAPO)": {"algorithm.dynamic_sampling.enabled": "true"},
    }


def row_overrides(task: Task, row: str) -> list[str]:
    """The recipe's overrides for a row: its own change and those of all rows above it, the later ones winning."""
    merged: dict[str, str] = {}
    for name, changes in techniques(task).items():
        merged |= changes
        if name == row:
            return [f"{key}={value}" for key, value in merged.items()]
    raise ValueError(f"no row {row!r}; rows: {', '.join(techniques(task))}")


def row_method(plan: Plan, row: str) -> Method:
    """A row as one command that trains. Raises ConfigError for a mistake in the plan's settings."""
    overrides = row_overrides(plan.task, row)

    def commands(seed: int, folder: Path) -> list[Command]:
        start, out = seed_folder(plan.start, seed), folder / "train"
        words = [
            *("run.threads=1", *plan.settings, *overrides),
            f"run.seed={seed}",
            f"run.output_dir={out}",
            f"model.path={start / 'warm_start' / 'final'}",
            f"data.train.path={start / 'data' / 'train.jsonl'}",
            f"evaluation.datasets.0.path={start / 'data' / 'heldout.jsonl'}",
        ]
        return [Command(("reasoner-rl", "train", plan.task.recipe, *words), out)]

    load_recipe(plan.task.recipe, commands(0, Path("row"))[0].words[3:])
    return Method(row, commands)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--task", choices=sorted(TASKS), default="ladder", help="what is trained on (default ladder)"
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="FOLDER",
        help="finished quickstart or ladder; {seed} stands for the seed (default runs/<task>)",
    )
    parser.add_argument("--out", type=Path, help="default runs/ablation_<task>")
    parser.add_argument("--steps", type=int, help="of every run (default: the recipe's)")
    parser.add_argument("--eval-every", type=int, help="steps between evaluations (default: the recipe's)")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="key.path=value",
        help="other changes to the recipe, for all rows",
    )
    options = parse_runs(parser, arguments, count=2)
    # However the folders are written, the commands of a run are the same.
    options.start = str(Path(options.start or RUNS / options.task).resolve())
    options.out = (options.out or RUNS / f"ablation_{options.task}").resolve()
    return options


def run(options: argparse.Namespace) -> None:
    """Run what is not finished, and report on the seeds that all rows have finished.

    Raises ConfigError for mistakes, and UserError if a run failed.
    """
    settings: list[str] = list(options.set)
    if options.steps is not None:
        settings.append(f"run.steps={options.steps}")
    if options.eval_every is not None:
        settings.append(f"evaluation.every_steps={options.eval_every}")
    plan = Plan(TASKS[options.task], options.start, tuple(settings))
    rows = list(techniques(plan.task))
    methods = [row_method(plan, row) for row in rows]
    check_starts(plan.start, options.seeds, plan.task.script)
    about = {"task": options.task, "overrides": {row: row_overrides(plan.task, row) for row in rows}}
    with exclusive_folder(options.out, "--out"):
        try:
            failures = run_all(methods, options.seeds, options.out, options.jobs)
        finally:
            if seeds := complete_seeds(methods, options.seeds, options.out):
                report_rows(methods, seeds, options.out, about)
        stop_at(failures)


def report_rows(
    methods: Sequence[Method], seeds: Sequence[int], out: Path, about: Mapping[str, object]
) -> None:
    """Write and print the report of finished seeds: every row against the one above it, the last against the first."""
    rows = [method.name for method in methods]
    results = collect(methods, seeds, out)
    contrasts = [contrast(results, above, row) for above, row in pairwise(rows)]
    contrasts += [contrast(results, rows[0], rows[-1]), gain(results, rows[-1])]
    report(results, contrasts, out, "ablation", about)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    with exit_statuses(lambda: "where it stopped; finished runs are kept"):
        run(options)


if __name__ == "__main__":
    main()
