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
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="JSONL with `response` or `solution`, `ground_truth` or `answer`, and if wanted `data_source` and "
            "`extra_info`; or a file of a run's rollouts/ or evaluations/, JSONL or parquet.",
        ),
    ],
    fn: Annotated[
        str, typer.Option(help="package.module:function or path/to/file.py:function.")
    ] = "reward_fns:compute_score",
    against: Annotated[
        str | None, typer.Option(help="Another function to compare with, or math-verify.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Verifier processes.")] = 2,
    timeout: Annotated[float, typer.Option(help="Deadline of an answer, in seconds.")] = 10.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Read so many rows only.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSONL file for the rows with their verdicts.")] = None,
) -> None:
    """Score the responses in a file with a verifier: accuracy, failures, speed, and where another one disagrees."""
    from reasoner_rl.commands.verify import SHOWN
    from reasoner_rl.commands.verify import verify as score

    report = score(file, fn, against, workers=workers, timeout=timeout, limit=limit, out=out)
    print_table(*report.table())
    if against is not None:
        count = len(report.disagreements())
        more = f", the first {SHOWN} of them" if count > SHOWN else ""
        sys.stdout.write(f"{count:,} of {len(report.rows):,} answers are judged differently{more}\n")
        if count:
            print_table(*report.disagreement_table())
