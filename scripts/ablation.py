#!/usr/bin/env python3
"""DAPO's techniques turned on one at a time, on the quickstart's task.

The counterpart of table 1 of the DAPO paper (arXiv 2503.14476), in its order. Every row is trained from the same
warm-started checkpoint, that of a finished quickstart, for the same number of steps, once per seed. A row has the
techniques of all rows above it; in the paper and here, overlong filtering gives way to the soft punishment. Nothing
else differs: the first row is GRPO without KL, with DAPO's dual clip.

    bash scripts/quickstart.sh && python scripts/ablation.py --seeds 0 1

Runs are kept in runs/ablation/<row>/seed_<n>; finished ones are not run again, unfinished ones resume. Writes
ablation.json, ablation.md and ablation.png (held-out accuracy over steps) beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from reasoner_rl.config.load import dump_recipe, load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.observability.curves import (
    BLUE,
    DOTS_PER_INCH,
    GREEN,
    GRID,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
)
from reasoner_rl.observability.sinks import read_jsonl
from reasoner_rl.observability.summary import atomic_path, atomic_writer, write_json
from reasoner_rl.trainer.train import train

ROOT = Path(__file__).resolve().parent.parent
PALETTE = (SKY, ORANGE, GREEN, PURPLE, VERMILION, BLUE)

BUFFER_TOKENS = 24  # of the soft punishment

# What each row changes in the recipe, over all rows above it.
TECHNIQUES: Mapping[str, Mapping[str, str]] = {
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
        "reward.overlong.buffer_tokens": str(BUFFER_TOKENS),
    },
    "+ token-level loss": {"algorithm.loss.aggregation": "token-mean"},
    "+ dynamic sampling (DAPO)": {"algorithm.dynamic_sampling.enabled": "true"},
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one run. Held-out numbers are those after the last step; shares are in [0, 1]."""

    seed: int
    accuracy: float
    response_tokens: float
    truncated_share: float  # of held-out responses: cut off at the limit
    overlong_share: float  # of held-out responses: so long that the soft punishment applies, or would
    responses_generated: int  # for training, over all steps
    responses_used: int  # of those, how many were trained on
    seconds: float  # training and evaluation
    curve: Mapping[int, float]  # step -> held-out accuracy, from step 0


def row_overrides(row: str) -> list[str]:
    """The recipe's overrides for a row: its own change and those of all rows above it, the later ones winning."""
    merged: dict[str, str] = {}
    for name, changes in TECHNIQUES.items():
        merged |= changes
        if name == row:
            return [f"{key}={value}" for key, value in merged.items()]
    raise ValueError(f"no row {row!r}; rows: {', '.join(TECHNIQUES)}")


def row_folder(row: str) -> str:
    """A row's number and name as the name of a folder, such as 3_clip_higher."""
    words = "".join(character if character.isalnum() else " " for character in row.lower()).split()
    return "_".join([str(1 + list(TECHNIQUES).index(row)), *words])


def row_recipe(row: str, seed: int, start: Path, out: Path, settings: Sequence[str]) -> OnlineConfig:
    """The quickstart's recipe for one run, from the warm start in ``start``; ``settings`` hold for every row."""
    config = load_recipe(
        "quickstart",
        [
            *settings,
            *row_overrides(row),
            f"run.seed={seed}",
            f"run.output_dir={out / row_folder(row) / f'seed_{seed}'}",
            f"model.path={start / 'warm_start' / 'final'}",
            f"data.train.path={start / 'data' / 'train.jsonl'}",
            f"evaluation.datasets.0.path={start / 'data' / 'heldout.jsonl'}",
        ],
    )
    assert isinstance(config, OnlineConfig)
    return config


def run_once(config: OnlineConfig) -> Outcome:
    """Train, resume an unfinished run, or read what a finished one left. Raises ConfigError if it is another run's."""
    folder = config.run.output_dir
    recipe = folder / "recipe.yaml"
    if recipe.is_file() and recipe.read_text() != dump_recipe(config):
        raise ConfigError(f"{folder} holds a run with other settings: remove it, or choose another --out")
    if not (folder / "summary.json").is_file() and train(config) is None:
        raise KeyboardInterrupt
    return read_outcome(config)


def read_outcome(config: OnlineConfig) -> Outcome:
    """Read what a finished run left in its folder."""
    folder, samples = config.run.output_dir, config.rollout.responses_per_prompt
    summary = json.loads((folder / "summary.json").read_text())
    held_out = {
        int(step): next(iter(reports.values())) for step, reports in summary["evaluations"].items() if reports
    }
    last = held_out[max(held_out)]
    [responses] = (folder / "evaluations").glob(f"step_{max(held_out):06d}_*.jsonl")
    punished_from = config.rollout.sampling.max_response_tokens - BUFFER_TOKENS
    steps = [row for row in read_jsonl(folder / "metrics.jsonl") if "groups/kept" in row]
    return Outcome(
        seed=config.run.seed,
        accuracy=last["accuracy"],
        response_tokens=last["mean_response_tokens"],
        truncated_share=last["truncated_share"],
        overlong_share=fmean(response["tokens"] > punished_from for response in read_jsonl(responses)),
        responses_generated=round(sum(row["groups/generated"] for row in steps) * samples),
        responses_used=round(sum(row["groups/kept"] for row in steps) * samples),
        seconds=summary["seconds"],
        curve={step: held_out[step]["accuracy"] for step in sorted(held_out)},
    )


def markdown_table(results: Mapping[str, Sequence[Outcome]]) -> str:
    """One line per row: means over its seeds, and the accuracy of each seed."""
    start = fmean(outcome.curve[0] for outcomes in results.values() for outcome in outcomes)
    early = sorted(next(iter(results.values()))[0].curve)[1]  # where rows that end alike may differ
    lines = [
        f"| | held-out accuracy | of each seed | after {early} steps | response tokens | cut off | overlong | "
        "responses generated | of them used | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        f"| warm start | {start:.1%} | | | | | | | | |",
    ]
    for row, outcomes in results.items():
        generated = fmean(outcome.responses_generated for outcome in outcomes)
        cells = [
            row,
            f"{fmean(outcome.accuracy for outcome in outcomes):.1%}",
            ", ".join(f"{outcome.accuracy:.1%}" for outcome in outcomes),
            f"{fmean(outcome.curve[early] for outcome in outcomes):.1%}",
            f"{fmean(outcome.response_tokens for outcome in outcomes):.1f}",
            f"{fmean(outcome.truncated_share for outcome in outcomes):.1%}",
            f"{fmean(outcome.overlong_share for outcome in outcomes):.1%}",
            f"{generated:,.0f}",
            f"{fmean(outcome.responses_used for outcome in outcomes) / generated:.0%}",
            f"{fmean(outcome.seconds for outcome in outcomes):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot_rows(results: Mapping[str, Sequence[Outcome]], out: Path) -> None:
    """Held-out accuracy over steps: one line per row through the means of its seeds, in a band of all seeds."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for colour, (row, outcomes) in zip(PALETTE, results.items(), strict=False):
        steps = list(outcomes[0].curve)
        seeds = [[outcome.curve[step] for outcome in outcomes] for step in steps]
        axes.plot(
            steps, [fmean(numbers) for numbers in seeds], color=colour, marker="o", markersize=4, label=row
        )
        axes.fill_between(
            steps, [min(n) for n in seeds], [max(n) for n in seeds], color=colour, alpha=0.15, linewidth=0
        )
    axes.set_title("Held-out accuracy", fontsize=12, fontweight="bold", color=INK, loc="left")
    axes.set_xlabel("step", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_ylim(bottom=0)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.legend(framealpha=0.85, edgecolor="none", fontsize=9, labelcolor=INK)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png", facecolor="white")


def write_report(results: Mapping[str, Sequence[Outcome]], out: Path) -> None:
    """Write ablation.json, ablation.md and ablation.png."""
    rows = [
        {"row": row, "overrides": row_overrides(row), "runs": [asdict(outcome) for outcome in outcomes]}
        for row, outcomes in results.items()
    ]
    write_json(out / "ablation.json", {"rows": rows})
    with atomic_writer(out / "ablation.md") as file:
        file.write(markdown_table(results))
    plot_rows(results, out / "ablation.png")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    quickstart, ablation = ROOT / "runs" / "quickstart", ROOT / "runs" / "ablation"
    parser.add_argument(
        "--from",
        dest="start",
        type=Path,
        default=quickstart,
        metavar="FOLDER",
        help="a finished quickstart (default runs/quickstart)",
    )
    parser.add_argument("--out", type=Path, default=ablation, help="default runs/ablation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of each row (default 0 1)")
    parser.add_argument("--steps", type=int, help="of every run (default: the recipe's)")
    parser.add_argument("--eval-every", type=int, help="steps between evaluations (default: the recipe's)")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="key.path=value",
        help="other changes to the recipe, for all rows",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    settings: list[str] = list(options.set)
    if options.steps is not None:
        settings.append(f"run.steps={options.steps}")
    if options.eval_every is not None:
        settings.append(f"evaluation.every_steps={options.eval_every}")
    if not (options.start / "warm_start" / "final").is_dir():
        sys.exit(f"--from {options.start}: no warm_start/final in it; run scripts/quickstart.sh first")
    results: dict[str, list[Outcome]] = {row: [] for row in TECHNIQUES}
    try:
        # All rows of a seed before the next seed, so that an early end leaves comparable rows.
        for seed in options.seeds:
            for row in TECHNIQUES:
                print(f"\n== {row}, seed {seed}", flush=True)
                results[row].append(run_once(row_recipe(row, seed, options.start, options.out, settings)))
            write_report(results, options.out)
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command resumes from here")
    except UserError as error:
        sys.exit(str(error))
    print(f"\n{markdown_table(results)}\n{options.out}/ablation.json, ablation.md, ablation.png")


if __name__ == "__main__":
    main()
