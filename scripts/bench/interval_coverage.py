#!/usr/bin/env python3
"""How often the 95 % interval of avg@k holds the mean of the population that problems are drawn from, by simulation.

    python scripts/bench/interval_coverage.py [--runs 4000] [--problems 30] [--seed 0]

Prints a Markdown table: for each mean accuracy and k the lowest and the highest coverage over the populations, with the
population of the lowest. Beside it is the coverage of avg@k +- 1.96 standard errors of the problem means. With the
default number of runs a coverage of 95 % is known to 0.7 points.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy
from scipy import optimize, special

from reasoner_rl.evaluation.intervals import TAIL, Z95, Tally, tails

MEANS, SAMPLES = (0.005, 0.02, 0.3, 0.9), (1, 4, 32)
Rates = Callable[[numpy.random.Generator, int], numpy.ndarray]


def populations(mean: float) -> Iterator[tuple[str, Rates]]:
    """Distributions of the problems' rates of success with the given mean, by name."""
    for correlation in (0.02, 0.2, 0.5, 0.9):
        strength = (1 - correlation) / correlation
        yield f"beta, correlation {correlation}", partial(_beta, mean * strength, (1 - mean) * strength)
    yield "always or never", partial(_two_rates, 0.0, 1.0, mean)
    for high in (0.25, 0.5):
        if high > mean:
            yield f"never or {high:.0%}", partial(_two_rates, 0.0, high, mean)
    for low in (0.2, 0.5):
        if low < mean:
            yield f"{low:.0%} or always", partial(_two_rates, low, 1.0, mean)
    yield "logit-normal, deviation 2.5", partial(_logit_normal, _logit_centre(mean, 2.5), 2.5)


def _beta(alpha: float, beta: float, rng: numpy.random.Generator, n: int) -> numpy.ndarray:
    return rng.beta(alpha, beta, n)


def _two_rates(low: float, high: float, mean: float, rng: numpy.random.Generator, n: int) -> numpy.ndarray:
    return numpy.where(rng.random(n) < (mean - low) / (high - low), high, low)


def _logit_normal(centre: float, deviation: float, rng: numpy.random.Generator, n: int) -> numpy.ndarray:
    return numpy.asarray(special.expit(centre + deviation * rng.standard_normal(n)))


def _logit_centre(mean: float, deviation: float) -> float:
    """The centre for which the rates have this mean, by Gauss-Hermite quadrature."""
    nodes, weights = numpy.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    return float(
        optimize.brentq(lambda m: (weights * special.expit(m + deviation * nodes)).sum() - mean, -60, 60)
    )


def coverage(
    rng: numpy.random.Generator, rates: Rates, mean: float, k: int, problems: int, runs: int
) -> tuple[float, float]:
    """Shares of runs in which the interval, and that of 1.96 standard errors, hold the mean."""
    ours = plain = 0
    known: dict[bytes, bool] = {}
    for _ in range(runs):
        right = rng.binomial(k, rates(rng, problems))
        values, counts = numpy.unique(right, return_counts=True)
        seen = values.tobytes() + counts.tobytes()
        if seen not in known:
            tally = Tally(values.astype(float), (k - values).astype(float), counts.astype(float))
            known[seen] = min(tails(tally, mean)) > TAIL
        ours += known[seen]
        half = Z95 * float(numpy.std(right / k, ddof=1)) / math.sqrt(problems)
        plain += abs(float(numpy.mean(right)) / k - mean) <= half
    return ours / runs, plain / runs


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(
        "| mean accuracy | k | lowest | of | highest | 1.96 standard errors, lowest |\n|---|---|---|---|---|---|"
    )
    for mean in MEANS:
        for k in SAMPLES:
            rng = numpy.random.default_rng(options.seed)
            found = {
                name: coverage(rng, rates, mean, k, options.problems, options.runs)
                for name, rates in populations(mean)
            }
            worst = min(found, key=lambda name: found[name][0])
            highest, plain = (
                max(ours for ours, _ in found.values()),
                min(plain for _, plain in found.values()),
            )
            print(
                f"| {mean:.1%} | {k} | {found[worst][0]:.1%} | {worst} | {highest:.1%} | {plain:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
