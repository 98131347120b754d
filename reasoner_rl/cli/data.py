"""`reasoner-rl data`: look at data, prepare it, and make data to learn from."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from reasoner_rl.cli import generate
from reasoner_rl.cli.common import CommandGroup, Overrides, RecipeArgument, print_table, wrong_kind
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.datasets.catalog import CATALOG
from reasoner_rl.errors import ConfigError


class _DataCommands(CommandGroup):
    remedy = " To see the data of a recipe: `reasoner-rl data inspect RECIPE`"


group = typer.Typer(
    cls=_DataCommands, help="Look at data, prepare it, and make data to learn from.", no_args_is_help=True
)

group.add_typer(generate.group, name="generate")
_AnswerForm = Literal["whole", "hash", "boxed"]
_SOURCE_HELP = (
    f"A known set ({', '.join(CATALOG)}), a .parquet or .jsonl file, or a repository of data sets on the Hugging Face "
    "hub."
)
_TEMPLATE_HELP = "none: the bare problem; dapo: in DAPO's prompt. Unset: as it is in the source."

OutFolder = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="For answers and files; resumes what is begun there.")
]


@group.command()
def inspect(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Read and render a recipe's data without training: counts, duplicates, lengths and the first prompt."""
    from reasoner_rl.commands.inspect_data import inspect_data

    inspect_data(load_recipe(recipe, overrides or []))


Against = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE", help="Evaluation problems that training problems are compared with; repeatable."
    ),
]
Ngram = Annotated[int, typer.Option(min=2, help="Words of a run that two problems may not have in common.")]
Near = Annotated[
    float,
    typer.Option(min=0.2, max=1, help="Jaccard similarity from which on two problems are near duplicates."),
]
DropContaminated = Annotated[
    bool, typer.Option("--drop-contaminated", help="Drop problems that --against finds.")
]
DropRefusedGolds = Annotated[
    bool, typer.Option("--drop-refused-golds", help="Drop what the verifier refuses.")
]


@group.command("prepare")
def prepare(
    source: Annotated[str, typer.Argument(metavar="NAME|FILE|OWNER/REPOSITORY", help=_SOURCE_HELP)],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="For NAME.parquet, NAME.md, NAME.json.")
    ],
    local_path: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="File of a named set, instead of the hub's.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of a named set, such as test of gsm8k.")] = None,
    file: Annotated[str | None, typer.Option(help="Files of a repository: 'data/train-*.parquet'.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the files that are made.")] = None,
    problem_column: Annotated[list[str] | None, typer.Option(help="Repeated: columns are joined.")] = None,
    answer_column: Annotated[str | None, typer.Option(help="Column with the ground truth.")] = None,
    answer_form: Annotated[_AnswerForm | None, typer.Option(help="Where the answer stands in it.")] = None,
    solution_column: Annotated[str | None, typer.Option(help="Column with worked solutions to keep.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column with an id of each problem.")] = None,
    keep_column: Annotated[list[str] | None, typer.Option(help="Kept as extra_info; else all are.")] = None,
    data_source: Annotated[str | None, typer.Option(help="Chooses the rule that judges answers.")] = None,
    template: Annotated[Literal["none", "dapo"] | None, typer.Option(help=_TEMPLATE_HELP)] = None,
    validation: Annotated[int, typer.Option(min=0, help="Problems held out in NAME_validation.parquet.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the choice of validation problems.")] = 0,
    against: Against = None,
    ngram: Ngram = 13,
    near: Near = 0.5,
    drop_contaminated: DropContaminated = False,
    drop_refused_golds: DropRefusedGolds = False,
    on_bad_row: Annotated[Literal["error", "skip"], typer.Option(help="Skipped rows are listed.")] = "error",
    max_characters: Annotated[int, typer.Option(min=1, help="Longest prompt.")] = 100_000,
    tokenizer: Annotated[str | None, typer.Option(help="Folder or hub name, to count tokens too.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of an earlier preparation.")
    ] = False,
) -> None:
    """Read, check and de-duplicate problems, and write them in verl's format with a card and a report."""
    from reasoner_rl.commands.compare_sets import Rules
    from reasoner_rl.commands.data_source import find_source
    from reasoner_rl.commands.prepare_data import PrepareOptions, prepare_data
    from reasoner_rl.datasets.card import overlap_table

    found = find_source(source, local=local_path or (), split=split, file=file, revision=revision)
    columns = {"problem": problem_column, "answer": answer_column, "answer_form": answer_form}
    columns |= {"solution": solution_column, "id": id_column, "extra": keep_column}
    options = PrepareOptions(
        out, name, {key: value for key, value in columns.items() if value}, data_source, template, validation, seed,
        tuple(against or ()), Rules(ngram, near), drop_contaminated, drop_refused_golds, on_bad_row, max_characters,
        tokenizer, overwrite, shlex.join(["reasoner-rl", *sys.argv[1:]]),
    )  # fmt: skip
    card = prepare_data(found, options)
    if card.compared:
        print_table(*overlap_table(card.compared))
    print_table(["rows of the source", "rows"], [[what, f"{n:,}"] for what, n in card.counts.items() if n])
    sys.stdout.writelines(
        f"{out / written.path}: {written.rows:,} problems\n" for written in card.written.values()
    )
    sys.stdout.write(f"{out / card.name}.md: the card; {out / card.name}.json: the same with every row\n")


@group.command("contamination")
def contamination(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="Training problems, .parquet or .jsonl.")],
    against: Against = None,
    ngram: Ngram = 13,
    near: Near = 0.5,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON with every pair.")] = None,
) -> None:
    """Say which training problems are in evaluation sets: exactly, with other numbers, in part, or almost."""
    from reasoner_rl.commands.compare_sets import Rules, compare_sets

    if not against:
        raise ConfigError("`reasoner-rl data contamination` needs --against FILE, at least once")
    print_table(*compare_sets(train, against, Rules(ngram, near), out))


@group.command("make-preferences")
def make_preferences(
    recipe: RecipeArgument,
    out: OutFolder,
    overrides: Overrides = None,
    pairs: Annotated[
        Literal["best_worst", "all"],
        typer.Option(help="Pairs per prompt: the best with the worst answer, or all."),
    ] = "best_worst",
    margin: Annotated[float, typer.Option(min=0, help="Scores of a pair differ by more than this.")] = 0.0,
) -> None:
    """Sample answers to the training problems of an online recipe, score them, and write pairs, labels and scores.

    rollout.responses_per_prompt answers by model.path, sampled and scored as in training: by reward.functions and, if
    the recipe has one, by reward_model.
    """
    from reasoner_rl.commands.make_data import make_preferences as make

    make(_online("data make-preferences", recipe, overrides), out, pairs, margin)


@group.command("make-sft")
def make_sft(
    recipe: RecipeArgument,
    out: OutFolder,
    overrides: Overrides = None,
    count: Annotated[int, typer.Option(min=1, help="Most examples per prompt.")] = 1,
    choose: Annotated[
        Literal["first", "shortest", "diverse"],
        typer.Option(help="Which: the first, the shortest, or at random."),
    ] = "first",
    agreement: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Take the most frequent answer if this share of responses has it, right or not.",
        ),
    ] = None,
) -> None:
    """Sample answers to the training problems of an online recipe, and write the right ones as worked examples."""
    from reasoner_rl.commands.make_data import make_sft as make

    make(_online("data make-sft", recipe, overrides), out, count, choose, agreement)


@group.command("difficulty")
def difficulty(
    recipe: RecipeArgument,
    out: OutFolder,
    overrides: Overrides = None,
    samples: Annotated[
        int | None,
        typer.Option(min=2, help="Answers per problem; rollout.responses_per_prompt if unset."),
    ] = None,
    min_pass: Annotated[float, typer.Option(min=0, max=1, help="Smallest pass rate that is kept.")] = 0.0,
    max_pass: Annotated[float, typer.Option(min=0, max=1, help="Largest pass rate that is kept.")] = 1.0,
    order: Annotated[
        Literal["none", "easy-first"],
        typer.Option(help="As in the file, or a curriculum: the highest pass rate first."),
    ] = "none",
) -> None:
    """Measure how often a recipe's model answers its training problems rightly, then choose and order them by that."""
    from reasoner_rl.commands.measure_difficulty import Choice, measure_difficulty

    more = [] if samples is None else [f"rollout.responses_per_prompt={samples}"]
    config = _online("data difficulty", recipe, [*(overrides or []), *more])
    measure_difficulty(config, out, Choice(min_pass, max_pass, order))


@group.command("rank")
def rank(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="JSONL or parquet with `prompt`, and `answers` and `ranks`, or `chosen`, `rejected` and if wanted "
            "`tie`.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="For pairs, scores and the report.")],
    method: Annotated[
        Literal["pairs", "bradley-terry", "elo"],
        typer.Option(help="Pairs of the comparisons themselves, or of scores, which are written too."),
    ] = "pairs",
    pairs: Annotated[
        Literal["best_worst", "all"],
        typer.Option(help="Pairs per prompt: all, or of scored answers the best with the worst."),
    ] = "all",
    normalize: Annotated[
        Literal["min_max", "win_rate"] | None,
        typer.Option(
            help="Scores in [0, 1]: linear from the worst to the best answer, or the mean probability of winning; "
            "min_max if unset.",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Of bradley-terry: further wins in each direction for each two answers that were compared; "
            "0.1 if unset.",
        ),
    ] = None,
) -> None:
    """Make pairs and scores of rankings of several answers per prompt, or of comparisons by several judges."""
    from reasoner_rl.commands.rank_data import ALPHA, RankOptions
    from reasoner_rl.commands.rank_data import rank as run

    if normalize is not None and method == "pairs":
        raise ConfigError(f"--normalize {normalize} has no effect with --method pairs, which makes no scores")
    if alpha is not None and (method != "bradley-terry" or not alpha < float("inf")):
        raise ConfigError(
            f"--alpha {alpha:g}: must be a finite number of at least 0, with --method bradley-terry; it is {method}"
        )
    run(file, out, RankOptions(method, pairs, normalize or "min_max", ALPHA if alpha is None else alpha))


def _online(command: str, recipe: str, overrides: list[str] | None) -> OnlineConfig:
    config = load_recipe(recipe, overrides or [])
    if not isinstance(config, OnlineConfig):
        raise wrong_kind(command, recipe, config, "online")
    return config
