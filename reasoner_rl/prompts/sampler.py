"""The order in which prompts or examples are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy

from reasoner_rl.errors import ConfigError
from reasoner_rl.seeding import derive_seed


class OrderedSampler:
    """An endless stream of the indices 0..size-1, epoch after epoch, that can be stopped and taken up again.

    The order of an epoch depends on the seed and the epoch alone, and the stream does not depend on how it is
    cut into takes. A take may reach over the end of an epoch; orders are made such that no index comes twice
    in it then, as long as it is at most a third of an epoch (a whole epoch, if not shuffled).
    """

    def __init__(self, size: int, seed: int, shuffle: bool) -> None:
        if size < 1:
            raise ConfigError(f"a sampler needs at least one row; size is {size}")
        self._size = size
        self._seed = seed
        self._shuffle = shuffle
        self._position = 0  # in the whole stream
        self._epoch = -1
        self._order: list[int] = []

    def take(self, n: int) -> list[int]:
        """Return the next ``n`` indices; more than an epoch holds if need be."""
        taken: list[int] = []
        while len(taken) < n:
            epoch, start = divmod(self._position, self._size)
            part = self._order_of(epoch)[start : start + n - len(taken)]
            taken += part
            self._position += len(part)
        return taken

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as JSON can hold it."""
        return {"size": self._size, "seed": self._seed, "shuffle": self._shuffle, "position": self._position}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state. Raises ConfigError if it was made for other prompts, or another order."""
        for name, own in (("size", self._size), ("seed", self._seed), ("shuffle", self._shuffle)):
            if state.get(name) != own:
                raise ConfigError(
                    f"the saved order of prompts has {name} {state.get(name)}, and this run has {name} {own}; "
                    "resume with the same prompts, run.seed, data.shuffle and data.selection, or start a new run"
                )
        self._position = state["position"]

    def _order_of(self, epoch: int) -> list[int]:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._make_order(epoch)
        return self._order

    def _make_order(self, epoch: int) -> list[int]:
        if not self._shuffle:
            return list(range(self._size))
        order = self._permutation(epoch)
        if epoch > 0:
            _move_recent_from_the_front(order, self._permutation(epoch - 1), self._size // 3)
        return order

    def _permutation(self, epoch: int) -> list[int]:
        generator = numpy.random.default_rng(derive_seed("prompt order", self._seed, epoch))
        return generator.permutation(self._size).tolist()


def _move_recent_from_the_front(order: list[int], previous: list[int], width: int) -> None:
    """Of the first ``width`` indices, swap those among the last ``width`` of ``previous`` for later ones.

    The last ``width`` stay in place, so that an epoch's end does not depend on the epoch before. With
    ``width`` at most a third, the middle always has enough indices to swap with.
    """
    recent = set(previous[len(previous) - width :])
    others = (place for place in range(width, len(order) - width) if order[place] not in recent)
    for place in range(width):
        if order[place] in recent:
            other = next(others)
            order[place], order[other] = order[other], order[place]
