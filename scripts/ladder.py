#!/usr/bin/env python3
"""The start of every comparison on the ladder: problems, a tiny model with random weights, and its warm start.

Everything goes to runs/ladder. What is finished is not done again; a folder with other settings is moved aside to
runs/ladder.1 and so on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from quickstart import DAPO, ROOT, WARM_START, Quickstart, make_room, read_json

from reasoner_rl.cli import exit_statuses
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import SftConfig

DEFAULT_FOLDER = ROOT / "runs" / "ladder"
HELD_OUT = {"evaluation.datasets.0.path": DAPO["evaluation.datasets.0.path"]}
LEARNT = 0.15  # accuracy of guesses is 0.1, of a warm start that works short chains about 0.18


def warm_start_recipe(folder: Path, seed: int, overrides: list[str]) -> SftConfig:
    """The shipped recipe, pointed at this folder and seed. Raises ConfigError for a mistake in ``overrides``."""
    paths = [f"{key}={folder / path}" for key, path in (WARM_START | HELD_OUT).items()]
    config = load_recipe("ladder_sft", [f"run.seed={seed}", *paths, *overrides])
    assert isinstance(config, SftConfig)
    return config


def train_command(folder: Path, seed: int) -> str:
    """What to type for DAPO from the warm start in ``folder``."""
    words = ["reasoner-rl train ladder_dapo"]
    if seed:
        words.append(f"run.seed={seed}")
    if folder.resolve() != Path("runs/ladder").resolve():  # where the recipes look, from here
        paths = DAPO | {"run.output_dir": "dapo"}
        words += [f"{key}={folder / path}" for key, path in paths.items()]
    return " ".join(words)


def describe_start(folder: Path) -> str:
    """What the warm start can do; not every seed learns single steps in the time that the recipe gives."""
    accuracy = read_json(folder / "summary.json").get("accuracy_after")
    if accuracy is None:  # an override of the recipe turned evaluation off
        return "the warm start was not evaluated"
    told = f"the warm start answers {accuracy:.1%} of the held-out problems"
    if accuracy < LEARNT:
        told += (
            ", little more than guesses would (10 %): with this seed it has not learnt to work. Methods have little "
            "to build on; for another start: bash scripts/ladder.sh --seed N --out FOLDER"
        )
    return told


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="decides problems and weights (default 0)")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="default: runs/ladder")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key.path=value",
        help="changes to the recipe of the warm start, such as run.steps=200",
    )
    options = parser.parse_args()
    with exit_statuses():
        run_phases(options.out, options.seed, options.overrides)


def run_phases(folder: Path, seed: int, overrides: list[str]) -> None:
    """Run the phases that are not finished, and print how to go on."""
    warm_start = warm_start_recipe(folder, seed, overrides)
    settings = {"seed": seed, "overrides": overrides}
    make_room(folder, settings)
    start = Quickstart(folder, settings)
    start.phase("problems and model", lambda: start.prepare("data/make_ladder.py"))
    start.phase("warm start", lambda: start.train(warm_start))
    print(f"\n{describe_start(warm_start.run.output_dir)}")
    print(f"the warm start is in {warm_start.run.output_dir / 'final'}; now\n{train_command(folder, seed)}")


if __name__ == "__main__":
    main()
