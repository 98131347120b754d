"""Which prompts are answered next, by the pass rates that the run itself has seen.

A group teaches if some of its G responses are right and some are wrong. What is known of a prompt's pass rate p is a
Beta distribution, whose evidence loses half of its weight every ``half_life_steps`` because the policy changes,

    p ~ Beta(a + right, b + wrong),    P(mixed) = 1 - E[p^G] - E[(1 - p)^G]

where Beta(a, b) is the distribution of pass rates over all prompts at present, fitted to recent groups by its first two
moments. With ``group_by`` it is that of the prompts with the same value of a column, such as a difficulty: its moments
are those of their groups and of eight more with the moments of all prompts, so that a value that was hardly seen is
judged as all prompts are. This is what tells prompts apart that were never drawn. Prompts are drawn without
replacement, within a step, in proportion to w = max(P(mixed)^sharpness, floor). Selection by a Beta posterior is also
that of arXiv 2507.04632, and of 2506.09016 by a test on a few responses.

**Where it cannot help.** Prompts must differ in their pass rates. If all have nearly the same, as late in the
quickstart, which of them is mixed is chance, every P(mixed) is the same, and draws are as good as uniform. And without
``group_by`` or measured rates, a prompt must have been drawn before: little is known within the first epoch. Fewer
groups are not fewer tokens in the same proportion where the prompts that teach have longer answers.

**What this biases.** With uniform draws, prompt i is trained on in proportion to q_i, its true chance to be mixed; with
weights w_i, in proportion to w_i q_i, which is nearly q_i^(1 + sharpness). Prompts of a middling pass rate are trained
on more often, and those that are nearly always right or wrong more rarely, so the gradient is that of another mixture
of prompts. A larger ``sharpness`` wastes fewer groups and repeats the same prompts more often. The expectation of the
gradient for each single prompt stays as it was. ``importance_weights`` multiplies the advantages of a group by 1 / w_i,
scaled to a mean of 1 over the batch, which restores the mixture at the price of a larger variance. What remains: draws
without replacement are in proportion to w_i only while a step takes a small part of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from reasoner_rl.config.data import PromptSelectionConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.seeding import derive_seed

Array = NDArray[numpy.float64]

_PRIOR_GROUPS = 8.0
_NEGLIGIBLE = 1e-3  # responses of evidence; less is forgotten
_RATES = (1e-3, 1 - 1e-3)  # of all prompts: Beta(a, b) has no mean of 0 or 1
_CORRELATIONS = (0.01, 0.99)  # within a group; 1 / (a + b + 1) of the Beta distribution


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the responses to a prompt were worth."""

    index: int  # of the prompt
    right: float  # the sum of their accuracies
    responses: int


def mixed_probability(a: Array, b: Array, group_size: int) -> Array:
    """The chance [N] that of ``group_size`` responses some are right and some wrong, if p ~ Beta(a [N], b [N])."""
    j = numpy.arange(group_size, dtype=numpy.float64)[:, None]
    total = numpy.log(a + b + j).sum(0)
    all_right = numpy.exp(numpy.log(a + j).sum(0) - total)
    all_wrong = numpy.exp(numpy.log(b + j).sum(0) - total)
    return numpy.clip(1.0 - all_right - all_wrong, 0.0, 1.0)


@dataclass(slots=True)
class Population:
    """The distribution of pass rates over prompts, from weighted sums over groups."""

    # Begins as eight groups do whose rates are spread evenly over 0 to 1, which the first steps outweigh.
    weight: float = _PRIOR_GROUPS
    rates: float = _PRIOR_GROUPS / 2
    squares: float = _PRIOR_GROUPS / 3
    sampling: float = 0.0  # of 1 / responses

    def decay(self, factor: float) -> None:
        """Let older groups count less."""
        self.weight, self.rates, self.squares, self.sampling = (
            factor * each for each in (self.weight, self.rates, self.squares, self.sampling)
        )

    def add(self, rate: float, responses: int, weight: float) -> None:
        """Count a group in. ``weight``: how likely a prompt was to be drawn on average / how likely this one was."""
        self.weight += weight
        self.rates += weight * rate
        self.squares += weight * rate * rate
        self.sampling += weight / responses

    def with_prior(self, whole: Population) -> Population:
        """These sums, and eight groups more that have the mean moments of ``whole``."""
        factor = _PRIOR_GROUPS / whole.weight
        return Population(
            *(getattr(self, name) + factor * getattr(whole, name) for name in Population.__slots__)
        )

    def correlation(self) -> float:
        """The correlation of two responses to the same prompt: 0 if all prompts have the same pass rate.

        A group's rate has variance m (1 - m) (c + (1 - c) / G), where c is this, and 1 / (a + b + 1) of a Beta.
        """
        mean = self._mean()
        spread = (self.squares / self.weight - mean**2) / (mean * (1 - mean))
        share = self.sampling / self.weight
        return (spread - share) / (1 - share)

    def beta(self) -> tuple[float, float]:
        """The parameters (a, b) of the Beta distribution with these moments."""
        mean = self._mean()
        strength = 1 / float(numpy.clip(self.correlation(), *_CORRELATIONS)) - 1
        return mean * strength, (1 - mean) * strength

    def _mean(self) -> float:
        return float(numpy.clip(self.rates / self.weight, *_RATES))


class SelectingSampler:
    """Draws prompts by their chance of a mixed group; takes the place of `OrderedSampler`. See the module's docstring.

    ``measured``: what is known of prompts before the run, which is evidence like any other. ``labels``: of each prompt,
    what it shares with those whose pass rates are distributed alike; none: all are.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        group_size: int,
        config: PromptSelectionConfig,
        measured: Sequence[Outcome] = (),
        labels: Sequence[str] = (),
    ) -> None:
        self._size, self._seed, self._group_size, self._config = size, seed, group_size, config
        self._right, self._wrong = numpy.zeros(size), numpy.zeros(size)
        self._population = Population()
        names, self._part_of = numpy.unique(numpy.array(labels, dtype=str), return_inverse=True)
        self._parts = {
            str(name): Population(0.0, 0.0, 0.0) for name in names
        }  # in the order that _part_of counts
        self._labels = labels
        self._draw = self._position = 0  # number of the present order of all prompts, and the place in it
        for outcome in measured:
            self._add(outcome, weight=1.0)
        self._arrange()

    def take(self, n: int) -> list[int]:
        """Return the next ``n`` indices. None comes twice before all have come, unless `learn` is called between."""
        taken: list[int] = []
        while len(taken) < n:
            part = self._order[self._position : self._position + n - len(taken)]
            taken += part
            self._position += len(part)
            if self._position == self._size:
                self._draw, self._position = self._draw + 1, 0
                self._arrange()
        return taken

    def weights(self, indices: Sequence[int]) -> list[float]:
        """1 / w_i of each: what its group would have to count, up to a constant, to make up for unequal chances."""
        return (1 / self._chances[list(indices)]).tolist()

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Take note of what a step's prompts came to, each drawn by the present weights; then make a new order."""
        half_life = self._config.half_life_steps
        factor = 1.0 if half_life is None else 0.5 ** (1 / half_life)
        self._right *= factor
        self._wrong *= factor
        for population in (self._population, *self._parts.values()):
            population.decay(factor)
        mean_chance = float(
            self._chances.mean()
        )  # so that a group that is drawn by chance counts 1 on average
        for outcome in outcomes:
            self._add(outcome, mean_chance / self._chances[outcome.index])
        forgotten = self._right + self._wrong < _NEGLIGIBLE
        self._right[forgotten] = self._wrong[forgotten] = 0.0
        self._draw, self._position = self._draw + 1, 0
        self._arrange()

    def expected(self, indices: Sequence[int]) -> list[float]:
        """P(mixed) of each, by what is known at present."""
        return self._mixed[list(indices)].tolist()

    def _add(self, outcome: Outcome, weight: float) -> None:
        self._right[outcome.index] += outcome.right
        self._wrong[outcome.index] += outcome.responses - outcome.right
        concerned = [self._population]
        if self._labels:
            concerned.append(self._parts[self._labels[outcome.index]])
        for population in concerned:
            population.add(outcome.right / outcome.responses, outcome.responses, weight)

    def _prior(self) -> tuple[Array, Array]:
        """The parameters of the Beta distribution of each prompt [N] before it was drawn; [1] if all are alike."""
        if not self._labels:
            a, b = self._population.beta()
            return numpy.array([a]), numpy.array([b])
        parts = [part.with_prior(self._population).beta() for part in self._parts.values()]
        a_of, b_of = numpy.array(parts).T
        return a_of[self._part_of], b_of[self._part_of]

    def _arrange(self) -> None:
        """A random order in which each prompt is the next with a chance in proportion to its weight.

        Sorting by exponential variables divided by the weights gives that (Efraimidis and Spirakis, 2006).
        """
        a, b = self._prior()
        self._mixed = mixed_probability(a + self._right, b + self._wrong, self._group_size)
        self._chances = numpy.maximum(self._mixed**self._config.sharpness, self._config.floor)
        generator = numpy.random.default_rng(derive_seed("prompt selection", self._seed, self._draw))
        self._order: list[int] = numpy.argsort(
            generator.exponential(size=self._size) / self._chances, kind="stable"
        ).tolist()

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as JSON can hold it: the place in the order, and the evidence there is."""
        seen = numpy.flatnonzero(self._right + self._wrong)
        return {
            "size": self._size,
            "seed": self._seed,
            "draw": self._draw,
            "position": self._position,
            "population": _sums(self._population),
            "parts": {name: _sums(part) for name, part in self._parts.items()},
            "seen": seen.tolist(),
            "right": self._right[seen].tolist(),
            "wrong": self._wrong[seen].tolist(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state. Raises ConfigError if it was made for other prompts, or by another sampler."""
        own = {"size": self._size, "seed": self._seed}
        if (found := {name: state.get(name) for name in own}) != own or "draw" not in state:
            raise ConfigError(
                f"the saved selection of prompts has {found}, and this run has {own}; resume with the same prompts, "
                "run.seed and data.selection, or start a new run"
            )
        if (parts := state.get("parts", {})).keys() != self._parts.keys():
            raise ConfigError(
                f"the saved selection of prompts is by {len(parts)} values of data.selection.group_by, and this run "
                f"has {len(self._parts)}, or others; resume with the same prompts and group_by, or start a new run"
            )
        self._parts = {name: Population(*parts[name]) for name in self._parts}
        self._right, self._wrong = numpy.zeros(self._size), numpy.zeros(self._size)
        self._right[state["seen"]], self._wrong[state["seen"]] = state["right"], state["wrong"]
        self._population = Population(*state["population"])
        self._draw, self._position = state["draw"], state["position"]
        self._arrange()


def _sums(population: Population) -> list[float]:
    return [getattr(population, name) for name in Population.__slots__]
