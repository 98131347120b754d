"""What a step's groups say of their prompts, for the sampler that draws prompts by it; see prompts/selection.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reasoner_rl.advantages.filters import teaches
from reasoner_rl.errors import DataError, UserError, did_you_mean
from reasoner_rl.metrics import Metrics, mean_of
from reasoner_rl.prompts.read import MEASURED_COLUMNS
from reasoner_rl.prompts.selection import Outcome, SelectingSampler
from reasoner_rl.types import Prompt, ScoredGroup


class Selection:
    """Hands outcomes on to the sampler, and remembers what the groups' advantages are to be multiplied by."""

    def __init__(self, sampler: SelectingSampler, importance_weights: bool) -> None:
        self._sampler = sampler
        self._importance_weights = importance_weights
        self._weights: dict[str, float] = {}  # by the uid of the prompt, from when it was drawn last

    def learn(self, indices: Sequence[int], groups: Sequence[ScoredGroup]) -> Metrics:
        """Learn from the groups of a step, given the index of each one's prompt.

        Raises UserError if the accuracy of a response is not known.
        """
        expected, weights = self._sampler.expected(indices), self._sampler.weights(indices)
        if self._importance_weights:
            self._weights |= {group.prompt.uid: w for group, w in zip(groups, weights, strict=True)}
        self._sampler.learn([_outcome(index, group) for index, group in zip(indices, groups, strict=True)])
        return {
            "selection/expected_mixed": mean_of(expected),
            "selection/mixed": mean_of(map(teaches, groups)),
        }

    def weights(self, groups: Sequence[ScoredGroup]) -> list[float]:
        """What to multiply the advantages of each group by: a mean of 1, and 1 for all without importance weights."""
        if not self._importance_weights:
            return [1.0] * len(groups)
        weights = [self._weights[group.prompt.uid] for group in groups]
        mean = math.fsum(weights) / max(len(weights), 1)
        return [weight / mean for weight in weights]

    def state(self) -> dict[str, float]:
        """Return what `restore` needs; the sampler's state is its own."""
        return dict(self._weights)

    def restore(self, state: Mapping[str, float]) -> None:
        """Continue from a saved state."""
        self._weights = dict(state)


def _outcome(index: int, group: ScoredGroup) -> Outcome:
    right = 0.0
    for reward in group.rewards:
        if reward.accuracy is None:
            raise UserError(
                f"data.selection draws prompts by how many of their responses are right, and no reward function gave "
                f"an accuracy for a response to {group.prompt.uid}: return a dict with accuracy from one of them, or "
                "set data.selection to null"
            )
        right += reward.accuracy
    return Outcome(index, right, len(group.rewards))


def measured_outcomes(prompts: Sequence[Prompt]) -> list[Outcome]:
    """The pass rates that the data bring along, in the columns of `reasoner-rl data difficulty`.

    Raises DataError naming the prompt whose columns hold no rate in [0, 1], or no whole number of samples.
    """
    outcomes = []
    for index, prompt in enumerate(prompts):
        rate, samples = (prompt.extra_info.get(name) for name in MEASURED_COLUMNS)
        if rate is None or samples is None:
            continue
        if not (_is_number(rate) and 0 <= rate <= 1 and _is_number(samples) and samples >= 1):
            raise DataError(
                f"{prompt.uid}: pass_rate must be a number from 0 to 1, and pass_rate_samples one of at least 1; they "
                f"are {rate!r} and {samples!r}. Write them with `reasoner-rl data difficulty`, or set "
                "data.selection.use_measured to false"
            )
        outcomes.append(Outcome(index, rate * samples, int(samples)))
    return outcomes


def labels_of(prompts: Sequence[Prompt], column: str | None) -> list[str]:
    """The value of data.selection.group_by of each prompt; none if it is unset.

    Raises DataError naming a prompt without the column, and if most values belong to one prompt alone.
    """
    if column is None:
        return []
    labels = []
    for prompt in prompts:
        if column not in prompt.extra_info:
            hint = (
                did_you_mean(column, prompt.extra_info)
                or f" It has {', '.join(prompt.extra_info) or 'none'}."
            )
            raise DataError(
                f"{prompt.uid} has no column {column!r}, which data.selection.group_by names.{hint}"
            )
        labels.append(str(prompt.extra_info[column]))
    if 2 * (values := len(set(labels))) > len(labels) > 1:
        raise DataError(
            f"data.selection.group_by names column {column!r}, which has {values} values in {len(labels)} prompts; "
            "choose one whose values are shared by at least two prompts on average, such as a difficulty or a source"
        )
    return labels


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
