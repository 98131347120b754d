"""`reasoner-rl eval ...` and `reasoner-rl verify`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from reasoner_rl.cli.common import DefaultGroup, Overrides, RecipeArgument, print_table
from reasoner_rl.config.load import load_recipe
from reasoner_rl.errors import ConfigError


class _EvalCommands(DefaultGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raise ConfigError where `rescore` is written as an option; see click."""
        if any(arg.partition("=")[0] == "--rescore" for arg in args):
            raise ConfigError(
                "--rescore is no option but a command: `reasoner-rl eval rescore RESULT --fn FUNCTION --out FOLDER`"
            )
        return super().parse_args(ctx, args)


group = typer.Typer(
    cls=_EvalCommands,
    help="Measure accuracy on held-out problems. `reasoner-rl eval RECIPE [KEY.PATH=VALUE]...` is short for "
    "`reasoner-rl eval run RECIPE ...`.",
    no_args_is_help=True,
)


ResultArgument = Annotated[
    Path,
    typer.Argument(metavar="RESULT", help="A result file, evaluation.json, or the folder that holds it."),
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=KEY,...",
        help="Keys of the rows that are called otherwise, such as response=output,ground_truth=meta.gold; names: "
        "response, ground_truth, problem, data_source, extra_info.",
    ),
]
OutFolder = Annotated[Path, typer.Option(help="Folder for the result.")]


@group.command("run")
def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the result; by default run.output_dir, and its eval/ with a training recipe."
        ),
    ] = None,
    problems: Annotated[bool, typer.Option("--problems", help="Show a line for each problem too.")] = False,
) -> None:
    """Measure accuracy on held-out problems, by an `eval` recipe or by the evaluation of a training recipe.

    For a training recipe, the weights are those in its output_dir/final, once the run has made them;
    before that, and with an override of model.path, they are those of model.path. An interrupted evaluation is
    resumed by the same command; one with other settings needs a folder of its own.
    """
    from reasoner_rl.commands.evaluate import as_evaluation, evaluate_checkpoint
    from reasoner_rl.commands.evaluation_tables import result_tables

    keys = {override.partition("=")[0].strip() for override in overrides or []}
    config = as_evaluation(
        load_recipe(recipe, overrides or []), model_chosen=bool(keys & {"model", "model.path"})
    )
    if out is not None:
        config = config.model_copy(update={"run": config.run.model_copy(update={"output_dir": out})})
    for table in result_tables(evaluate_checkpoint(config), problems=problems):
        print_table(*table)


@group.command("diff")
def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A result file, or the folder that holds it.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    changes: Annotated[int, typer.Option(min=0, help="Show so many of the problems that changed most.")] = 10,
) -> None:
    """Say in which settings two results differ, and whether their accuracies do, problem by problem."""
    from reasoner_rl.commands.diff_evaluations import compare
    from reasoner_rl.commands.evaluation_tables import change_table, difference_table

    compared = compare(before, after)
    if compared.settings:
        print_table(["setting", "A", "B"], [list(row) for row in compared.settings])
    for line in compared.remarks:
        sys.stdout.write(f"{line}\n")
    if compared.sets:
        print_table(*difference_table(compared.sets))
    for found in compared.sets:
        shown = found.changes[:changes]
        if shown:
            sys.stdout.write(
                f"{found.dataset}: {len(found.changes)} of {found.problems} problems changed; most:\n"
            )
            print_table(*change_table(shown))


@group.command("rescore")
def rescore(
    result: ResultArgument,
    fn: Annotated[
        str, typer.Option(help="package.module:function or path/to/file.py:function, or math-verify.")
    ],
    out: OutFolder,
    workers: Annotated[int, typer.Option(min=1, help="Verifier processes.")] = 2,
    timeout: Annotated[float, typer.Option(help="Deadline of an answer, in seconds.")] = 10.0,
) -> None:
    """Score the saved responses of an evaluation with another verifier, and report them the same way."""
    from reasoner_rl.commands.evaluation_tables import result_tables
    from reasoner_rl.commands.rescore import rescore_result

    for table in result_tables(rescore_result(result, fn, out, workers=workers, timeout=timeout)):
        print_table(*table)


@group.command("score")
def score(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="JSONL or parquet, one set per file: rows with `question` or `id`, `response` (text, or a list of "
            "texts) and `gold`.",
        ),
    ],
    out: OutFolder,
    fn: Annotated[
        str, typer.Option(help="package.module:function or path/to/file.py:function, or math-verify.")
    ] = "reward_fns:compute_score",
    workers: Annotated[int, typer.Option(min=1, help="Verifier processes.")] = 2,
    timeout: Annotated[float, typer.Option(help="Deadline of an answer, in seconds.")] = 10.0,
    columns: ColumnsOption = None,
) -> None:
    """Score responses that were generated elsewhere, and report them as an evaluation here."""
    from reasoner_rl.commands.evaluation_tables import result_tables
    from reasoner_rl.commands.rescore import score_files

    result = score_files(files, fn, out, workers=workers, timeout=timeout, columns=columns)
    for table in result_tables(result):
        print_table(*table)


@group.command("power")
def power(
    result: ResultArgument,
    other: Annotated[
        Path | None,
        typer.Argument(metavar="[OTHER]", help="A result of another model on the same problems."),
    ] = None,
    difference: Annotated[
        float, typer.Option(help="Difference in accuracy to be seen, such as 0.02.")
    ] = 0.02,
    samples: Annotated[
        str, typer.Option(metavar="K,K,...", help="Numbers of samples per problem.")
    ] = "1,4,16,64",
    resemblance: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Without OTHER: assumed correlation of the two models' accuracies over problems; 0 is the worst case.",
        ),
    ] = 0.8,
    probability: Annotated[
        float, typer.Option("--power", min=0.5, max=0.999, help="Probability of finding the difference.")
    ] = 0.8,
) -> None:
    """Say how many problems and samples it takes to see a difference between two models, at 5 % significance."""
    from reasoner_rl.commands.evaluation_power import PowerOptions, parse_samples, power_table

    options = PowerOptions(difference, parse_samples(samples), resemblance, probability)
    print_table(*power_table(result, other, options))
    if other is None:
        sys.stdout.write(
            f"assumed: accuracies of the two models have a correlation of {resemblance:g} over problems "
            "(--resemblance); a second result measures what they have\n"
        )


class ExportFormat(StrEnum):
    """Formats of other programs for evaluation."""

    LM_EVAL = "lm-eval"
    LIGHTEVAL = "lighteval"


@group.command("export")
def export(
    result: ResultArgument,
    form: Annotated[ExportFormat, typer.Option("--format", help="Whose format.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the files, which have the names that program gives them.")
    ],
) -> None:
    """Write a result as lm-evaluation-harness or lighteval writes its own."""
    from reasoner_rl.commands.export_evaluation import export_result

    for path in export_result(result, form.value, out):
        sys.stdout.write(f"{path}\n")


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
    columns: ColumnsOption = None,
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
