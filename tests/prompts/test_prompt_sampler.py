"""The order of prompts: seeded, resumable, and the same however it is cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoner_rl.errors import ConfigError
from reasoner_rl.prompts.sampler import OrderedSampler

sizes = st.integers(1, 40)
seeds = st.integers(0, 1000)


@settings(deadline=None)
@given(sizes, seeds, st.booleans(), st.lists(st.integers(0, 60), max_size=8))
def test_the_stream_does_not_depend_on_how_it_is_cut(
    size: int, seed: int, shuffle: bool, cuts: list[int]
) -> None:
    sampler = OrderedSampler(size, seed, shuffle)
    taken = [index for cut in cuts for index in sampler.take(cut)]
    assert taken == OrderedSampler(size, seed, shuffle).take(sum(cuts))


@settings(deadline=None)
@given(sizes, seeds, st.booleans(), st.integers(1, 4))
def test_every_epoch_holds_every_index_once(size: int, seed: int, shuffle: bool, epochs: int) -> None:
    stream = OrderedSampler(size, seed, shuffle).take(size * epochs)
    for epoch in range(epochs):
        assert sorted(stream[epoch * size : (epoch + 1) * size]) == list(range(size))


@settings(deadline=None)
@given(st.integers(3, 40), seeds, st.data())
def test_a_take_over_the_end_of_an_epoch_repeats_nothing(size: int, seed: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, size // 3))
    sampler = OrderedSampler(size, seed, True)
    for _ in range(5 * size // n):
        assert len(set(sampler.take(n))) == n


@settings(deadline=None)
@given(sizes, seeds, st.integers(0, 150), st.integers(1, 50))
def test_a_restored_sampler_continues(size: int, seed: int, before: int, after: int) -> None:
    sampler = OrderedSampler(size, seed, True)
    sampler.take(before)
    state = json.loads(json.dumps(sampler.state()))
    again = OrderedSampler(size, seed, True)
    again.restore(state)
    assert again.take(after) == sampler.take(after)


def test_without_shuffling_the_order_is_that_of_the_file() -> None:
    assert OrderedSampler(3, 0, shuffle=False).take(7) == [0, 1, 2, 0, 1, 2, 0]


def test_orders_differ_between_epochs_and_seeds() -> None:
    stream = OrderedSampler(50, 0, True).take(100)
    assert stream[:50] != stream[50:]
    assert stream[:50] != list(range(50))
    assert OrderedSampler(50, 1, True).take(50) != stream[:50]
    assert OrderedSampler(50, 0, True).take(50) == stream[:50]


def test_shuffling_favours_no_position() -> None:
    size, epochs = 12, 600
    stream = OrderedSampler(size, 7, True).take(size * epochs)
    mean_places = [
        sum(stream[epoch * size : (epoch + 1) * size].index(item) for epoch in range(epochs)) / epochs
        for item in range(size)
    ]
    # The mean of 600 uniform places has a standard deviation of 0.14.
    assert all(abs(place - (size - 1) / 2) < 0.6 for place in mean_places)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (OrderedSampler(11, 3, True), "size 10, and this run has size 11"),
        (OrderedSampler(10, 4, True), "seed 3, and this run has seed 4"),
        (OrderedSampler(10, 3, False), "shuffle True, and this run has shuffle False"),
    ],
)
def test_a_state_of_another_order_is_refused(other: OrderedSampler, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        other.restore(OrderedSampler(10, 3, True).state())


def test_a_sampler_needs_prompts() -> None:
    with pytest.raises(ConfigError, match="size is 0"):
        OrderedSampler(0, 0, True)
