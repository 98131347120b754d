"""How good the steps of a response are, as a scorer of your own says: a process reward model, a judge, a rule.

    reward:
      functions:
        - fn: reward_fns:compute_score
        - {fn: reward_fns.step_quality:compute_score, weight: 0.5, parameters: {scorer: my_package.steps:score}}

The scorer gets all steps of a response at once, as a model reads them in one pass, and returns a number for each:

    def score(steps: list[str], ground_truth: str, extra_info: dict) -> list[float]
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

Scorer = Callable[[list[str], str, dict[str, Any]], Any]
AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "mean": lambda scores: sum(scores) / len(scores),
    "min": min,
}


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    scorer: str,
    separator: str = "\n\n",
    aggregate: str = "mean",
) -> dict[str, Any]:
    """Return ``score``, the steps' mean (or ``aggregate: min``, the weakest), and the number of ``steps``.

    ``scorer``: ``package.module:function``. A response without a step has the score 0.
    """
    quality, steps = step_quality(
        solution_str, str(ground_truth), extra_info, scorer=scorer, separator=separator, aggregate=aggregate
    )
    return {"score": quality, "steps": steps}


def step_quality(
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None,
    *,
    scorer: str,
    separator: str = "\n\n",
    aggregate: str = "mean",
) -> tuple[float, int]:
    """The quality of a response and its number of steps. Raises ValueError for a wrong parameter or scorer."""
    if aggregate not in AGGREGATES:
        raise ValueError(f"aggregate must be one of {', '.join(AGGREGATES)}; it is {aggregate!r}")
    score = load_scorer(scorer)
    steps = split_steps(solution_str, separator)
    if not steps:
        return 0.0, 0
    scores = [float(number) for number in score(steps, ground_truth, extra_info or {})]
    if len(scores) != len(steps):
        raise ValueError(f"the scorer {scorer!r} returned {len(scores)} numbers for {len(steps)} steps")
    return AGGREGATES[aggregate](scores), len(steps)


def split_steps(text: str, separator: str) -> list[str]:
    """The parts between separators that hold more than white space."""
    return [step.strip() for step in text.split(separator) if step.strip()]


@lru_cache
def load_scorer(name: str) -> Scorer:
    """Import ``package.module:function``. Raises ValueError for a name of another form, and what the import raises."""
    module, _, function = name.rpartition(":")
    if not module or not function:
        raise ValueError(f"scorer must read package.module:function; it is {name!r}")
    scorer: Scorer = getattr(importlib.import_module(module), function)
    return scorer
