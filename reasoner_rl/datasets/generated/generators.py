"""All generators, by the name that the command line gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reasoner_rl.datasets.generated import (
    chains,
    countdown,
    ladder,
    linear_equations,
    modular_arithmetic,
    school_mathematics,
    word_problems,
)
from reasoner_rl.datasets.generated.rows import Splits


@dataclass(frozen=True, slots=True)
class Generator:
    """One kind of problems."""

    name: str
    summary: str
    options: type[Any]  # a frozen record
    generate: Callable[[Any, int], Splits]  # a pure function of such a record and a seed


GENERATORS = {
    generator.name: generator
    for generator in (
        Generator(
            "chains",
            "The quickstart's chains of + and - modulo 10.",
            chains.ChainsOptions,
            chains.generate,
        ),
        Generator(
            "ladder",
            "Chains of +, - and * modulo 10, of graded length.",
            ladder.LadderOptions,
            ladder.generate,
        ),
        Generator(
            "countdown",
            "Make a target from numbers that are each used once.",
            countdown.CountdownOptions,
            countdown.generate,
        ),
        Generator(
            "linear-equations",
            "Linear equations in one unknown; answers are exact fractions.",
            linear_equations.LinearEquationsOptions,
            linear_equations.generate,
        ),
        Generator(
            "modular-arithmetic",
            "Expressions with +, - and * modulo a number.",
            modular_arithmetic.ModularArithmeticOptions,
            modular_arithmetic.generate,
        ),
        Generator(
            "word-problems",
            "Stories from templates, with one to three operations.",
            word_problems.WordProblemsOptions,
            word_problems.generate,
        ),
        Generator(
            "school-mathematics",
            "Problems of DeepMind's mathematics-dataset, the extra school-math.",
            school_mathematics.SchoolMathematicsOptions,
            school_mathematics.generate,
        ),
    )
}
