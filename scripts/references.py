#!/usr/bin/env python3
"""Make the reference of a recipe, and measure how well it tells mistakes from chance.

    bash scripts/quickstart.sh && python scripts/references.py quickstart
    bash scripts/ladder.sh     && python scripts/references.py ladder_dapo

Every run starts from the warm start that the recipe names. The runs of --seeds make OUT/RECIPE.json. Further seeds of
the same recipe are followed along it, and so are runs that have one mistake each: a wrong setting, or wrong code. Runs
are kept in OUT/<name>/seed_<n>; finished ones are not run again, unfinished ones resume. OUT/departures.md says which
run left which band, and at which step.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison import Command, Method, parse_runs, run_all, stop_at

from reasoner_rl.advantages import group as group_advantages
from reasoner_rl.algorithms.base import Prepared
from reasoner_rl.algorithms.group import GroupPolicyGradient
from reasoner_rl.cli import exit_statuses
from reasoner_rl.cli import main as reasoner_rl
from reasoner_rl.commands.reference import make
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.observability.summary import atomic_writer
from reasoner_rl.trainer.folder import exclusive_folder
from reasoner_rl.trainer.reference import Reference, follow_run, load_reference

RUNS = Path(__file__).resolve().parent.parent / "runs"
AS_IT_IS = "as it is"


def wrong_settings(recipe: OnlineConfig) -> dict[str, str]:
    """One override each, by its name in the table."""
    rate = recipe.training.optimizer.lr
    return {
        "learning rate halved": f"training.optimizer.lr={rate / 2}",
        "learning rate doubled": f"training.optimizer.lr={rate * 2}",
        "without dynamic sampling": "algorithm.dynamic_sampling.enabled=false",
        "without the overlong penalty": "reward.overlong=null",
        "clip-higher at 0.2": "algorithm.loss.clip_high=0.2",
    }


def not_centred() -> None:
    """Advantages keep the mean of their group."""
    right = group_advantages.group_advantages
    group_advantages.group_advantages = lambda scores, kind: (
        right(scores, kind) + scores.mean(1, keepdim=True) / (scores.std(1, keepdim=True) + 1e-6)
    )


def of_the_next_response() -> None:
    """Each response gets the advantage of the next one of its group."""
    right = group_advantages.group_advantages
    group_advantages.group_advantages = lambda scores, kind: right(scores, kind).roll(-1, 1)


def end_not_trained() -> None:
    """The last token of a response, which ends it, is not trained."""
    right = GroupPolicyGradient.prepare

    def prepare(self: GroupPolicyGradient, *arguments: Any) -> Prepared:
        samples, metrics = right(self, *arguments)
        masks = [sample.loss_mask.clone() for sample in samples]
        for mask in masks:
            mask[-1] = False
        return Prepared([s.replace(loss_mask=m) for s, m in zip(samples, masks, strict=True)], metrics)

    GroupPolicyGradient.prepare = prepare  # type: ignore[method-assign, assignment]


WRONG_CODE: Mapping[str, Callable[[], None]] = {
    "advantages not centred": not_centred,
    "advantages of the next response": of_the_next_response,
    "end of a response not trained": end_not_trained,
}


def training(options: argparse.Namespace, name: str, change: str | None) -> Method:
    """The run of a name and a seed as one command; ``change``: an override, or None for the mistake in code."""
    program: tuple[str, ...] = ("reasoner-rl",)
    if name in WRONG_CODE:
        program = (sys.executable, str(Path(__file__).resolve()), "--mistake", name)

    def commands(seed: int, folder: Path) -> list[Command]:
        words = [f"run.seed={seed}", f"run.output_dir={folder / 'train'}", "run.threads=1", *options.set]
        words += [change] if change else []
        return [Command((*program, "train", options.recipe, *words), folder / "train")]

    return Method(name, commands)


def first_steps(reference: Reference, run: Path) -> dict[str, int]:
    """By metric that left its band: the step."""
    return {metric: departure.step for metric, departure in follow_run(run, reference).departed.items()}


def row(name: str, found: Sequence[Mapping[str, int]]) -> str:
    """A line of the table, over the runs of a name."""
    steps = [min(run.values()) for run in found if run]
    metrics = Counter(metric for run in found for metric in run)
    shown = ", ".join(f"{metric} {n}" for metric, n in metrics.most_common())
    return f"| {name} | {len(steps)} of {len(found)} | {', '.join(map(str, sorted(steps)))} | {shown} |"


def departures(reference: Reference, runs: Mapping[str, Sequence[Path]]) -> str:
    """The table of the runs of each name along the reference."""
    lines = [
        "| runs | left a band | first at step | metrics, and runs that left theirs |",
        "|---|---|---|---|",
    ]
    lines += [
        row(name, [first_steps(reference, run) for run in folders])
        for name, folders in runs.items()
        if folders
    ]
    return "\n".join(lines) + "\n"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("recipe", help="name or file of an online recipe, whose warm start is there")
    parser.add_argument(
        "--further", type=int, nargs="*", default=[5, 6, 7], metavar="SEED", help="default 5 6 7"
    )
    parser.add_argument(
        "--mistake-seeds",
        type=int,
        nargs="*",
        default=[5, 6],
        metavar="SEED",
        help="default 5 6; none: no mistakes",
    )
    parser.add_argument("--out", type=Path, help="default runs/reference_<recipe>")
    parser.add_argument("--set", nargs="+", default=[], metavar="key.path=value", help="for all runs")
    options = parse_runs(parser, arguments, count=5)
    options.out = (options.out or RUNS / f"reference_{Path(options.recipe).stem}").resolve()
    return options


def run(options: argparse.Namespace) -> None:
    """Run what is not finished, and report. Raises ConfigError for mistakes, and UserError if a run failed."""
    config = load_recipe(options.recipe, options.set)
    if not isinstance(config, OnlineConfig):
        raise ConfigError(
            f"{options.recipe}: must be a recipe of kind online; it is of kind {config.recipe!r}"
        )
    as_it_is = training(options, AS_IT_IS, None)
    wrong = {**wrong_settings(config), **dict.fromkeys(WRONG_CODE)}
    mistakes = [training(options, name, change) for name, change in wrong.items()]
    with exclusive_folder(options.out, "--out"):
        stop_at(run_all([as_it_is], [*options.seeds, *options.further], options.out, options.jobs))
        stop_at(run_all(mistakes, options.mistake_seeds, options.out, options.jobs))

    def runs(method: Method, seeds: Sequence[int]) -> list[Path]:
        return [method.folder(seed, options.out) / "train" for seed in seeds]

    file = options.out / f"{Path(options.recipe).stem}.json"
    make(runs(as_it_is, options.seeds), file)
    followed = {as_it_is.name: runs(as_it_is, options.further)}
    followed |= {method.name: runs(method, options.mistake_seeds) for method in mistakes}
    text = departures(load_reference(str(file)), followed)
    with atomic_writer(options.out / "departures.md") as table:
        table.write(text)
    print(text, end="")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line, and one run with a mistake in the code."""
    if sys.argv[1:2] == ["--mistake"]:
        WRONG_CODE[sys.argv[2]]()
        sys.argv[1:3] = []
        reasoner_rl()
        return
    options = parse(arguments)
    with exit_statuses(lambda: "where it stopped; finished runs are kept"):
        run(options)


if __name__ == "__main__":
    main()
