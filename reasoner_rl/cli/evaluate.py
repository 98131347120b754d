"""`reasoner-rl eval` and `reasoner-rl verify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from reasoner_rl.cli.common import DefaultGroup, Overrides, RecipeArgument, print_table
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import EvalConfig, TrainingRecipe
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.errors import ConfigError

group = typer.Typer(
    cls=DefaultGroup,
    help="Measure accuracy on held-out problems. `reasoner-rl eval RECIPE [KEY.PATH=VALUE]...` is short for "
    "`reasoner-rl eval run RECIPE ...`.",
    no_args_is_help=True,
)


@group.command("run")
def run(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Measure accuracy on held-out problems, by an `eval` recipe or by the evaluation of a training recipe.

    For a training recipe, the weights are those in its output_dir/final, once the run has made them;
    before that, and with an override of model.path, they are those of model.path.
    """
    config = load_recipe(recipe, overrides or [])
    if isinstance(config, RewardModelConfig):
        raise ConfigError(
            f"`reasoner-rl eval` answers problems, and {recipe} is of a reward model: to evaluate one on "
            f"evaluation.datasets, `reasoner-rl train {recipe} run.steps=0 model.path=... run.output_dir=...`"
        )
    if not isinstance(config, EvalConfig):
        config = EvalConfig.of_training(config, weights_of(config, overrides or []))
    from reasoner_rl.commands.evaluate import evaluate_checkpoint

    rows = [report.row() for report in evaluate_checkpoint(config)]
    print_table(list(rows[0]), [list(row.values()) for row in rows])


def weights_of(config: TrainingRecipe, overrides: list[str]) -> str:
    """What a training recipe's evaluation is of: what the run has made, unless a model is chosen or it made none."""
    final = config.run.output_dir / "final"
    keys = {override.partition("=")[0].strip() for override in overrides}
    return config.model.path if keys & {"model", "model.path"} or not final.is_dir() else str(final)


def verify(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE|RUN...",
            help="Run folders, for all of their rollouts/ and evaluations/, or JSONL and parquet files of such rows: "
            "`response`, `responses` (a list: samples of one problem) or `solution`; `ground_truth`, `gold`, `answer` "
            "or `reward_model.ground_truth`; if wanted `data_source` and `extra_info`; and what names the problem: "
            "`uid`, `id`, `question`, `problem` or `prompt`.",
        ),
    ],
    fn: Annotated[
        str, typer.Option(help="package.module:function or path/to/file.py:function, or math-verify.")
    ] = "reward_fns:compute_score",
    against: Annotated[
        str | None, typer.Option(help="Another function to compare with, or math-verify.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Verifier processes.")] = 2,
    timeout: Annotated[float, typer.Option(help="Deadline of an answer, in seconds.")] = 10.0,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=KEY,...",
            help="Keys of the rows that are called otherwise, such as response=output,ground_truth=meta.gold; names: "
            "response, ground_truth, problem, data_source, extra_info.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read so many rows of each file only.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSONL file for the rows with their verdicts.")] = None,
) -> None:
    """Score responses that exist with a verifier: accuracy, failures, speed, and where another one disagrees."""
    from reasoner_rl.commands.verify import verify as score
    from reasoner_rl.commands.verify_report import SHOWN

    report = score(
        paths, fn, against, workers=workers, timeout=timeout, columns=columns, limit=limit, out=out
    )
    print_table(*report.table())
    if len({row.path for row in report.generations}) > 1:
        print_table(*report.file_table())
    for note in report.notes():
        sys.stdout.write(f"{note}\n")
    if against is not None:
        count = len(report.disagreements())
        more = f", the first {SHOWN} of them" if count > SHOWN else ""
        sys.stdout.write(f"{count:,} of {len(report.responses):,} answers are judged differently{more}\n")
        if count:
            print_table(*report.disagreement_table())
