"""School mathematics by DeepMind's package `mathematics-dataset` (Saxton et al., arXiv 1904.01557).

    problem   "What is the highest common factor of 656 and 32?"
    answer    "16"
    module    "numbers__gcd", the package's name for the kind of problem

The extra `school-math` installs the package; its last release is 1.0.1. With sympy 1.14 it cannot be imported until one
name is put back where sympy had it, which is done here. With numpy 2 its modules about polynomials and calculus fail,
and so do some draws of its composed modules, since `numpy.object` and `ndarray.itemset` are gone. Others draw letters
from sets, so that their problems differ between processes. `MODULES` are those that ran without an error, gave the same
problems in processes with different hash seeds, took less than 50 ms per problem, and are not answered by yes or no.

The difficulty, 1 to 3, is the third of the package's range of entropy that a problem is drawn from: its train-easy,
train-medium and train-hard. Two problems are the same if their text is.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from reasoner_rl.datasets.generated.options import Sizes, check_bounds, option
from reasoner_rl.datasets.generated.rows import Drawn, Splits, check_levels, distinct_splits, level
from reasoner_rl.errors import ConfigError, did_you_mean, require_package

MODULES = (
    "algebra__sequence_next_term",
    "arithmetic__add_or_sub",
    "arithmetic__add_sub_multiple",
    "arithmetic__add_or_sub_in_base",
    "arithmetic__mul",
    "arithmetic__div",
    "arithmetic__mul_div_multiple",
    "arithmetic__mixed",
    "arithmetic__nearest_integer_root",
    "comparison__pair",
    "comparison__kth_biggest",
    "comparison__closest",
    "comparison__sort",
    "measurement__conversion",
    "measurement__time",
    "numbers__base_conversion",
    "numbers__gcd",
    "numbers__lcm",
    "numbers__div_remainder",
    "numbers__round_number",
    "numbers__place_value",
    "numbers__list_prime_factors",
)
FAMILIES = tuple(dict.fromkeys(name.partition("__")[0] for name in MODULES))
LEVELS = 3
LONGEST_QUESTION, LONGEST_ANSWER = 160, 30  # characters, as in the published data set

Module = Callable[[], Any]  # draws a problem, from the global random states of Python and numpy


@dataclass(frozen=True, slots=True)
class SchoolMathematicsOptions(Sizes):
    """What is made."""

    modules: str = option("all", f"modules of the package, or {', '.join(FAMILIES)}, separated by commas")
    easiest: int = option(1, "least difficulty", at_least=1, at_most=LEVELS)
    hardest: int = option(3, "greatest difficulty", at_least=1, at_most=LEVELS)


def chosen_modules(modules: str) -> list[str]:
    """The names of `MODULES` that are meant. Raises ConfigError naming one that there is not."""
    chosen: dict[str, None] = {}
    for word in (part.strip() for part in modules.split(",")):
        found = [name for name in MODULES if word in ("all", name, name.partition("__")[0])]
        if not found:
            known = ["all", *FAMILIES, *MODULES]
            near = did_you_mean(word, known)
            raise ConfigError(f"--modules {modules}: {word!r} must be one of {', '.join(known)}.{near}")
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def check(options: SchoolMathematicsOptions) -> None:
    """Raise ConfigError naming flag, value and rule if the options cannot be met."""
    check_bounds(options)
    check_levels(("--easiest", options.easiest), ("--hardest", options.hardest))
    chosen_modules(options.modules)


def generate(options: SchoolMathematicsOptions, seed: int) -> Splits:
    """Rows of problem, answer, data_source, difficulty and module; modules are drawn alike.

    Raises ConfigError as `check`, and MissingExtraError without the package.
    """
    check(options)
    names = chosen_modules(options.modules)
    modules = {number: _modules(number) for number in range(options.easiest, options.hardest + 1)}

    def draw(rng: random.Random, index: int) -> Drawn | None:
        difficulty = level(index, options.easiest, options.hardest)
        name = rng.choice(names)
        with _global_randomness(rng.getrandbits(32)):
            problem = modules[difficulty][name]()
        question, answer = str(problem.question), str(problem.answer)
        if len(question) > LONGEST_QUESTION or len(answer) > LONGEST_ANSWER:
            return None
        row = {
            "problem": question,
            "answer": answer,
            "data_source": "school_mathematics",
            "difficulty": difficulty,
            "module": name,
        }
        return Drawn(question, row)

    return distinct_splits(options.counts, seed, draw)


def _modules(difficulty: int) -> Mapping[str, Module]:
    """The package's modules for a difficulty, by name."""
    require_package("mathematics_dataset", "mathematics-dataset", "school-math", "school_mathematics")
    _put_back_a_name()
    from mathematics_dataset.modules import modules

    def third(entropy: tuple[float, float]) -> tuple[float, float]:
        low, high = entropy
        return low + (difficulty - 1) / LEVELS * (high - low), low + difficulty / LEVELS * (high - low)

    families = modules.train(third)
    return {name: families[family][kind] for name in MODULES for family, _, kind in [name.partition("__")]}


def _put_back_a_name() -> None:
    """The package imports a function of sympy from where it was before sympy made a package of that module."""
    place = importlib.import_module("sympy.solvers.diophantine")
    if not hasattr(place, "base_solution_linear"):
        now = importlib.import_module("sympy.solvers.diophantine.diophantine")
        place.base_solution_linear = now.base_solution_linear  # type: ignore[attr-defined]


@contextmanager
def _global_randomness(seed: int) -> Iterator[None]:
    """Seed the global random states, and put them back as they were."""
    import numpy

    python, numbers = random.getstate(), numpy.random.get_state()
    random.seed(seed)
    numpy.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(numbers)
