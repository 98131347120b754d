#!/usr/bin/env python3
"""Would `data.selection` pay for these problems and this model? From the records of finished runs, without a model.

    python scripts/bench/selection_simulated.py word_problems runs/reference_word_problems/as_it_is/seed_*/train
    python scripts/bench/selection_simulated.py quickstart runs/quickstart/rl --from-step 23

Fits a Beta distribution of pass rates to the recorded groups of runs with uniform draws, and says by how much prompts
differ: the correlation of two responses to one prompt, and how many groups would be mixed if prompts did not differ at
all. Near 0, which groups are mixed is chance, and no choice of prompts can help. Then as many prompts as the recipe has
are given rates from that distribution, and steps are filled as in a run, groups being drawn from their rates, with the
sampler of the product. The policy stands still, which a run's does not: what is known of a prompt never grows old here.

With several runs of the same data, a second estimate needs no assumption of a Beta distribution: the prompts that a run
drew uniformly and other runs drew too are weighted as the sampler would by what the others recorded, and the weighted
share of mixed groups is what it would have got of the first prompts that it draws, while policies are near each other.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy
from numpy.typing import NDArray

from reasoner_rl.cli import exit_statuses
from reasoner_rl.cli.common import print_table
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.data import PromptSelectionConfig
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.rollout_table import read_rollouts
from reasoner_rl.observability.summary import write_json
from reasoner_rl.prompts.read import read_problems
from reasoner_rl.prompts.selection import Outcome, Population, SelectingSampler, mixed_probability

Array = NDArray[numpy.float64]

ARMS: dict[str, dict[str, Any]] = {
    "uniform": {"sharpness": 0.0},
    "selection": {},
    "sharpness 2": {"sharpness": 2.0},
    "sharpness 4": {"sharpness": 4.0},
}


@dataclass(frozen=True, slots=True)
class Fill:
    """How a step is filled."""

    wanted: int  # mixed groups
    cap: int  # generated groups
    group_size: int


@dataclass(frozen=True, slots=True)
class Group:
    """What is recorded of a prompt's responses in a step."""

    uid: str
    right: float  # sum of accuracies
    responses: int

    @property
    def mixed(self) -> bool:
        """Whether some are right and some wrong."""
        return 0 < self.right < self.responses


def recorded(folder: Path, first: int) -> Iterator[Group]:
    """The recorded groups of a run, from a step on."""
    files = sorted((folder / "rollouts").glob("step_*.parquet"))
    if not files:
        raise DataError(f"{folder}: has no rollouts/step_*.parquet; see logging.rollouts and rollout_format")
    for file in files:
        table = read_rollouts(file).select(["step", "uid", "accuracy"])
        by_prompt: dict[str, list[float]] = {}
        for row in table.to_pylist():
            if row["step"] >= first and row["accuracy"] is not None:
                by_prompt.setdefault(row["uid"], []).append(row["accuracy"])
        yield from (Group(uid, sum(group), len(group)) for uid, group in by_prompt.items())


def population_of(groups: Sequence[Group]) -> Population:
    """The distribution of the pass rates of these groups' prompts."""
    population = Population(0.0, 0.0, 0.0)
    for group in groups:
        population.add(group.right / group.responses, group.responses, 1.0)
    return population


def crossed(
    runs: Sequence[Sequence[Group]], keys: dict[str, Any], group_size: int
) -> tuple[int, float, float]:
    """Groups of prompts that other runs drew too: how many, their share of mixed ones, and that by the sampler."""
    places = {uid: place for place, uid in enumerate(dict.fromkeys(g.uid for run in runs for g in run))}
    config, weights, mixed = PromptSelectionConfig.model_validate(keys), list[float](), list[bool]()
    for number, run in enumerate(runs):
        others = [group for other, groups in enumerate(runs) if other != number for group in groups]
        measured = [Outcome(places[group.uid], group.right, group.responses) for group in others]
        sampler = SelectingSampler(len(places), 0, group_size, config, measured)
        known = {group.uid for group in others}
        shared = [group for group in run if group.uid in known]
        weights += [1 / weight for weight in sampler.weights([places[group.uid] for group in shared])]
        mixed += [group.mixed for group in shared]
    if not mixed:
        return 0, math.nan, math.nan
    return len(mixed), float(numpy.mean(mixed)), float(numpy.average(mixed, weights=weights))


def simulate(
    rates: Array, sampler: SelectingSampler, fill: Fill, steps: int, seed: int
) -> list[tuple[int, int]]:
    """Generated and kept groups of each step, for prompts of these rates [N]."""
    random, counts = numpy.random.default_rng(seed), []
    for _ in range(steps):
        kept, outcomes = 0, list[Outcome]()
        while kept < fill.wanted and len(outcomes) < fill.cap:
            (index,) = sampler.take(1)
            right = int(random.binomial(fill.group_size, rates[index]))
            outcomes.append(Outcome(index, right, fill.group_size))
            kept += 0 < right < fill.group_size
        sampler.learn(outcomes)
        counts.append((len(outcomes), kept))
    return counts


def arm(
    beta: tuple[float, float],
    size: int,
    keys: dict[str, Any],
    samples: int,
    fill: Fill,
    steps: int,
    seed: int,
) -> float:
    """Generated groups per kept group in a simulated run, after ``samples`` measured responses to each prompt."""
    random = numpy.random.default_rng([seed, 1])
    rates = random.beta(*beta, size)
    measured = [Outcome(i, float(right), samples) for i, right in enumerate(random.binomial(samples, rates))]
    config = PromptSelectionConfig.model_validate(keys)
    sampler = SelectingSampler(size, seed, fill.group_size, config, measured if samples else ())
    counts = simulate(rates, sampler, fill, steps, seed)
    return sum(generated for generated, _ in counts) / max(1, sum(kept for _, kept in counts))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("recipe", help="name or file of an online recipe")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of its runs with uniform draws")
    parser.add_argument(
        "--from-step", type=int, default=1, help="first step whose groups are fitted (default 1)"
    )
    parser.add_argument("--size", type=int, help="number of prompts; that of the recipe's data if unset")
    parser.add_argument("--steps", type=int, help="simulated; those of the recipe if unset")
    parser.add_argument(
        "--measured", type=int, default=4, help="responses of the arms 'measured' (default 4)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="simulated runs per arm (default 5)")
    parser.add_argument("--json", type=Path, help="file to write every number to")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    with exit_statuses():
        run(options)


def run(options: argparse.Namespace) -> None:
    """Fit, simulate, print. Raises ConfigError and DataError for mistakes."""
    config = load_recipe(options.recipe)
    if not isinstance(config, OnlineConfig):
        raise ConfigError(
            f"{options.recipe}: must be a recipe of kind online; it is of kind {config.recipe!r}"
        )
    arithmetic, responses = step_arithmetic(config), config.rollout.responses_per_prompt
    fill = Fill(
        arithmetic.prompts_per_step, arithmetic.max_generated_responses_per_step // responses, responses
    )
    size = options.size or len(read_problems(config.data.train)[0])
    steps = options.steps or arithmetic.total_steps
    runs = [list(recorded(folder, options.from_step)) for folder in options.runs]
    groups = [group for each in runs for group in each]
    population = population_of(groups)
    a, b = beta = population.beta()
    mean = a / (a + b)
    expected = float(mixed_probability(numpy.array([a]), numpy.array([b]), responses)[0])
    about = {
        "recorded groups": len(groups),
        "pass rate": mean,
        "mixed": sum(group.mixed for group in groups) / len(groups),
        "mixed by the fit": expected,
        "mixed if prompts did not differ": 1 - mean**responses - (1 - mean) ** responses,
        "correlation within a prompt": population.correlation(),
    }
    print("\n".join(f"{name:<32}{number:g}" for name, number in about.items()))
    across = {name: crossed(runs, keys, responses) for name, keys in ARMS.items() if name != "uniform"}
    if len(runs) > 1:
        print("\nshare of mixed groups among prompts that other runs drew too")
        rows = [
            [name, f"{n}", f"{old:.3f}", f"{new:.3f}", f"{new / old:.2f}"]
            for name, (n, old, new) in across.items()
        ]
        print_table(["arm", "groups", "uniform", "weighted", "ratio"], rows)
    arms = {name: (keys, 0) for name, keys in ARMS.items()}
    arms |= {f"{name}, measured": (ARMS[name], options.measured) for name in ("selection", "sharpness 4")}
    found = {
        name: [arm(beta, size, keys, samples, fill, steps, seed) for seed in range(options.seeds)]
        for name, (keys, samples) in arms.items()
    }
    print(
        f"\ngenerated groups per kept group: {size} prompts, {steps} steps, medians of {options.seeds} runs"
    )
    uniform = median(found["uniform"])
    rows = [[name, f"{median(each):.2f}", f"{uniform / median(each):.2f}"] for name, each in found.items()]
    print_table(["arm", "groups per kept", "uniform over it"], rows)
    if options.json:
        write_json(
            options.json,
            {"about": about, "across": across, "size": size, "steps": steps, "groups_per_kept": found},
        )


if __name__ == "__main__":
    main()
