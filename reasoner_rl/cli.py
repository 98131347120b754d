"""`reasoner-rl`: the command line. It reads recipes and calls the trainer; heavy imports wait until they are needed."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from typer.core import TyperGroup

from reasoner_rl.config.iterated import IteratedConfig
from reasoner_rl.config.keys import list_keys
from reasoner_rl.config.kinds import RECIPE_KINDS, AnyRecipe
from reasoner_rl.config.load import dump_recipe, load_recipe
from reasoner_rl.config.recipes import (
    EvalConfig,
    OnlineConfig,
    PreferenceConfig,
    SftConfig,
    TrainingRecipe,
)
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.errors import ConfigError, UserError, WorkerError, did_you_mean, is_interruption

DIVERGED = 1
USER_ERROR = 2
WORKERS_FAILED = 3
SYSTEM_ERROR = 4
INTERRUPTED = 130
_PACKAGE = f"{Path(__file__).parent.name}/"
WIDTH_OF_FILES = 200  # of tables that are not printed on a terminal, in characters


_CHECKPOINT = "the newest checkpoint, if there is one"
# What the same command resumes from when it has ended early; commands that are not here start anew.
_RESUMES_FROM = {
    "train": _CHECKPOINT,
    "sft": _CHECKPOINT,
    "data": "the parts of answers that are finished, if there are any",
}


@contextmanager
def exit_statuses(resumes_from: Callable[[], str | None] = lambda: _CHECKPOINT) -> Iterator[None]:
    """Users' mistakes become one message and exit status 2, divergence 1, failed workers 3, an interruption 130.

    Errors of the operating system, such as a file that may not be read, have status 4.
    resumes_from: asked when work has ended early for what the same command resumes from; None if it starts anew.
    """
    try:
        yield
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(USER_ERROR)
    except FloatingPointError as error:
        sys.stderr.write(f"error: {error}. In training, start anew with a lower training.optimizer.lr\n")
        sys.exit(DIVERGED)
    except WorkerError as error:
        begun = resumes_from()
        remedy = f"The same command resumes from {begun}\n" if begun else ""
        sys.stderr.write(f"error: {error}\n{remedy}")
        sys.exit(WORKERS_FAILED)
    except BrokenPipeError:  # the process that read the output has ended; typer exits silently
        raise
    except BaseException as error:
        if is_interruption(error):  # also where a library has made another error of it
            begun = resumes_from()
            remedy = f"; the same command resumes from {begun}" if begun else ""
            sys.stderr.write(f"interrupted{remedy}\n")
            sys.exit(INTERRUPTED)
        if isinstance(error, OSError):
            sys.stderr.write(f"error: {_system_error(error)}\n")
            sys.exit(SYSTEM_ERROR)
        raise


def _system_error(error: OSError) -> str:
    """What the system refused, of which file, and which line of this package asked for it."""
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if _PACKAGE in frame.filename]
    place = ""
    if places and Path(places[-1].filename).stem != "own_process":  # that passes on errors of another process
        place = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})"
    said = error.strerror or str(error) or type(error).__name__
    return f"the system says: {': '.join([said, *named])}{place}"


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        # Around the commands and not around typer, which makes a silent exit of Ctrl-C.
        with exit_statuses(lambda: _RESUMES_FROM.get(ctx.invoked_subcommand)):
            return super().invoke(ctx)


app = typer.Typer(
    name="reasoner-rl",
    cls=_Commands,
    help="Reinforcement learning for reasoning models.\n\n"
    "Most commands take a RECIPE, the name of a shipped one or a YAML file, and any number of key.path=value "
    "overrides. `reasoner-rl config` lists recipes and keys.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or a YAML file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY.PATH=VALUE]...",
        help="Keys to change, such as run.seed=1 or model.path=Qwen/Qwen2.5-0.5B.",
    ),
]


@app.command()
def train(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Train with DAPO, PPO, DPO or another algorithm; resumes from the newest checkpoint of the output folder.

    Recipes of kind online learn from fresh responses, those of kind preference from judged answers, and those of kind
    iterated make judged answers and learn from them in rounds. Those of kind reward_model make a reward model of pairs.
    """
    config = load_recipe(recipe, overrides or [])
    if isinstance(config, IteratedConfig):
        from reasoner_rl.commands.train_iterated import train_iterated

        ended = train_iterated(config)
    elif isinstance(config, OnlineConfig | PreferenceConfig | RewardModelConfig):
        from reasoner_rl.trainer.train import train as run

        ended = run(config)
    else:
        raise _wrong_kind("train", recipe, config, "online, preference, reward_model or iterated")
    if ended is None:
        raise typer.Exit(INTERRUPTED)


@app.command()
def sft(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Fine-tune on worked examples; resumes from the newest checkpoint of the output folder."""
    config = load_recipe(recipe, overrides or [])
    if not isinstance(config, SftConfig):
        raise _wrong_kind("sft", recipe, config, "sft")
    from reasoner_rl.trainer.train import train as run

    if run(config) is None:
        raise typer.Exit(INTERRUPTED)


@app.command("eval")
def evaluate(recipe: RecipeArgument, overrides: Overrides = None) -> None:
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
        config = EvalConfig.of_training(config, _weights(config, overrides or []))
    from reasoner_rl.commands.evaluate import evaluate_checkpoint

    rows = [report.row() for report in evaluate_checkpoint(config)]
    _print_table(list(rows[0]), [list(row.values()) for row in rows])


class _DataCommands(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            near = did_you_mean(args[0], self.commands)
            raise ConfigError(
                f"`reasoner-rl data {args[0]}`: must be one of {', '.join(self.commands)}.{near} To see the data of a "
                f"recipe: `reasoner-rl data inspect RECIPE`"
            )
        return super().resolve_command(ctx, args)


data = typer.Typer(cls=_DataCommands, help="Look at data, and make data to learn from.", no_args_is_help=True)
app.add_typer(data, name="data")

OutFolder = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="For answers and files; resumes what is begun there.")
]


@data.command()
def inspect(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Read and render a recipe's data without training: counts, duplicates, lengths and the first prompt."""
    from reasoner_rl.commands.inspect_data import inspect_data

    inspect_data(load_recipe(recipe, overrides or []))


@data.command("make-preferences")
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


@data.command("make-sft")
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


@data.command("rank")
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
        raise _wrong_kind(command, recipe, config, "online")
    return config


@app.command()
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
    from reasoner_rl.commands.verify import verify as run

    report = run(file, fn, against, workers=workers, timeout=timeout, limit=limit, out=out)
    _print_table(*report.table())
    if against is not None:
        count = len(report.disagreements())
        more = f", the first {SHOWN} of them" if count > SHOWN else ""
        sys.stdout.write(f"{count:,} of {len(report.rows):,} answers are judged differently{more}\n")
        if count:
            _print_table(*report.disagreement_table())


@app.command()
def doctor() -> None:
    """Show versions, devices, memory and ports, what was tested together, and what to install for which feature.

    The exit status is 1 if something is wrong; a package that is merely missing is not.
    """
    from reasoner_rl.doctor import examine

    findings = examine()
    _print_table(
        ["", "found", "verdict", "advice"], [[f.name, f.value, f.verdict, f.advice] for f in findings]
    )
    if any(finding.verdict == "problem" for finding in findings):
        raise typer.Exit(1)


@app.command()
def config(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="Recipe to resolve; none lists them.")
    ] = None,
    overrides: Overrides = None,
    keys: Annotated[
        str | None,
        typer.Option(metavar="KIND", help=f"List every key of a kind of recipe: {', '.join(RECIPE_KINDS)}."),
    ] = None,
) -> None:
    """Print a resolved recipe, list the shipped recipes, or list all keys with their meaning."""
    from reasoner_rl.config.load import shipped_recipes

    if keys is not None:
        if keys not in RECIPE_KINDS:
            raise ConfigError(f"--keys {keys!r}: must be one of {', '.join(RECIPE_KINDS)}")
        rows = [[doc.path, doc.type, doc.default, doc.description] for doc in list_keys(keys)]
        _print_table(["key", "type", "default", "meaning"], rows)
    elif recipe is not None:
        sys.stdout.write(dump_recipe(load_recipe(recipe, overrides or [])))
    else:
        sys.stdout.writelines(f"{name}\n" for name in shipped_recipes())


def _weights(config: TrainingRecipe, overrides: list[str]) -> str:
    """What a training recipe's evaluation is of: what the run has made, unless a model is chosen or it made none."""
    final = config.run.output_dir / "final"
    keys = {override.partition("=")[0].strip() for override in overrides}
    return config.model.path if keys & {"model", "model.path"} or not final.is_dir() else str(final)


def _wrong_kind(command: str, recipe: str, config: AnyRecipe, wanted: str) -> ConfigError:
    return ConfigError(
        f"`reasoner-rl {command}` needs a recipe of kind {wanted}; {recipe} is of kind {config.recipe!r}"
    )


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    first, *others = columns
    table = Table(Column(first, no_wrap=True), *others, show_lines=False)
    for row in rows:
        table.add_row(*map(escape, row))  # [dev] in a text is no markup
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_FILES)
    console.print(table)


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
