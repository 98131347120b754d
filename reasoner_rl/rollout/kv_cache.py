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
        """Start empty, with room for exactly these states; `gather_rows` makes room for more."""
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

    def gather_rows(self, rows: Tensor, spare_tokens: int) -> None:
        """Keep only ``rows`` [n] int64, in that order, repeats allowed, with room for ``spare_tokens`` more."""
        capacity = self.length + spare_tokens
        self.keys = _copy(self.keys[rows, :, : self.length], capacity)
        self.values = _copy(self.values[rows, :, : self.length], capacity)

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

    def gather_rows(self, rows: Tensor, spare_tokens: int) -> None:
        """See `InPlaceLayer.gather_rows`."""
        for layer in self.in_place_layers:
            layer.gather_rows(rows, spare_tokens)


def concatenate(caches: Sequence[KvCache]) -> KvCache:
    """Put the rows of caches of the same length one below the other, in the first of them."""
    first = caches[0]
    if len(caches) > 1:
        for layers in zip(*(cache.in_place_layers for cache in caches), strict=True):
            layers[0].keys = torch.cat([layer.keys for layer in layers])
            layers[0].values = torch.cat([layer.values for layer in layers])
    return first


def _copy(states: Tensor, capacity: int) -> Tensor:
    rows, heads, length, width = states.shape
    copy = states.new_empty(rows, heads, capacity, width)
    copy[:, :, :length] = states
    return copy
