"""Keys and values of the tokens read so far, written in place.

transformers' DynamicCache concatenates, and so copies the whole cache, at every token. These layers keep spare room
behind the last token instead, and grow by blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK_TOKENS = 256


class InPlaceLayer(CacheLayerMixin):
    """One layer's keys and values, [rows, key-value heads, capacity, head width], of which ``length`` are filled.

    Sliding-window layers are held in full as well; their mask hides what has left the window.
    """

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Start empty, with room for exactly these states."""
        self.keys, self.values = torch.empty_like(key_states), torch.empty_like(value_states)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append [rows, heads, new tokens, width] states; return views of everything stored."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.length = self.length, self.length + key_states.shape[2]
        if self.length > self.keys.shape[2]:
            capacity = self.length + max(BLOCK_TOKENS, self.length // 2)
            self.keys = _copy(self.keys[:, :, :start], capacity)
            self.values = _copy(self.values[:, :, :start], capacity)
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        """Tokens stored."""
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that ``query_length`` new tokens will see."""
        return self.length + query_length, 0

    def get_max_cache_shape(self) -> int:
        """-1: without bound. The name up to transformers 5.16."""
        return -1

    def get_max_length(self) -> int:
        """-1: without bound. The name from transformers 5.17 on, abstract there."""
        return -1


class KvCache(Cache):
    """An `InPlaceLayer` for each layer of the model."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=InPlaceLayer)

    @property
    def in_place_layers(self) -> list[InPlaceLayer]:
        """The layers, which appear as the model first writes to them."""
        return cast("list[InPlaceLayer]", self.layers)


def aligned(parts: Sequence[tuple[KvCache, Tensor]], columns: int, spare_tokens: int) -> KvCache:
    """The given rows [n] int64 of each cache, repeats allowed, one part below the other, with the last columns aligned.

    columns: how many to keep; where a cache has fewer, those before its first are zero. spare_tokens: room for more.
    """
    together = KvCache()
    for layers in zip(*(cache.in_place_layers for cache, _ in parts), strict=True):
        layer = InPlaceLayer()
        chosen = [rows for _, rows in parts]
        layer.keys = _aligned([each.keys for each in layers], layers, chosen, columns, spare_tokens)
        layer.values = _aligned([each.values for each in layers], layers, chosen, columns, spare_tokens)
        layer.length, layer.is_initialized = columns, True
        together.layers.append(layer)
    return together


def _aligned(
    states: Sequence[Tensor],
    layers: Sequence[InPlaceLayer],
    chosen: Sequence[Tensor],
    columns: int,
    spare_tokens: int,
) -> Tensor:
    _, heads, _, width = states[0].shape
    rows = sum(map(len, chosen))
    whole = states[0].new_empty(rows, heads, columns + spare_tokens, width)
    first = 0
    for each, layer, indices in zip(states, layers, chosen, strict=True):
        last, filled = first + len(indices), min(layer.length, columns)
        whole[first:last, :, : columns - filled] = 0  # masked, and 0 * NaN would be NaN
        whole[first:last, :, columns - filled : columns] = each[
            indices, :, layer.length - filled : layer.length
        ]
        first = last
    return whole


def _copy(states: Tensor, capacity: int) -> Tensor:
    rows, heads, length, width = states.shape
    copy = states.new_empty(rows, heads, capacity, width)
    copy[:, :, :length] = states
    return copy
