"""Drawing prompts by their chance of a mixed group: the estimate, the draws, what decays, and what is resumed."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import product

import numpy
import pytest
from scipy import stats

from reasoner_rl.config.data import PromptSelectionConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.prompts.sampler import OrderedSampler
from reasoner_rl.prompts.selection import Outcome, Population, SelectingSampler, mixed_probability


def sampler(size: int, *, group_size: int = 8, seed: int = 0, **keys: object) -> SelectingSampler:
    return SelectingSampler(size, seed, group_size, PromptSelectionConfig.model_validate(keys))


@pytest.mark.parametrize(("a", "b", "group"), [(1.0, 1.0, 2), (0.2, 3.0, 8), (40.0, 0.5, 16)])
def test_the_chance_of_a_mixed_group_is_that_of_the_beta_binomial(a: float, b: float, group: int) -> None:
    right = stats.betabinom(group, a, b)
    found = mixed_probability(numpy.array([a]), numpy.array([b]), group)
    assert found[0] == pytest.approx(1 - right.pmf(0) - right.pmf(group), rel=1e-9)


def test_a_group_of_two_from_a_uniform_rate_is_mixed_in_a_third_of_all_cases() -> None:
    assert mixed_probability(numpy.ones(1), numpy.ones(1), 2)[0] == pytest.approx(
        1 / 3
    )  # integral of 2 p (1 - p)


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.6), (4.0, 1.0)])
def test_the_fit_finds_the_distribution_that_groups_were_drawn_from(a: float, b: float) -> None:
    random = numpy.random.default_rng(0)
    population = Population()
    for right in stats.betabinom(8, a, b).rvs(20_000, random_state=random):
        population.add(right / 8, 8, 1.0)
    assert population.beta() == pytest.approx((a, b), rel=0.06)


def test_weights_undo_unequal_chances_in_the_fit() -> None:
    """Half of all prompts are at rate 0.5 and drawn three times as often as those at rate 1."""
    population = Population()
    for rate, times, weight in ((0.5, 3000, 1 / 3), (1.0, 1000, 1.0)):
        for _ in range(times):
            population.add(rate, 10_000, weight)
    a, b = population.beta()
    assert a / (a + b) == pytest.approx(0.75, abs=0.005)


def test_prompts_are_drawn_in_proportion_to_their_weights() -> None:
    """The first of an order, over many orders; each `learn` makes a new one."""
    chosen = sampler(4, floor=0.2, half_life_steps=None)
    chosen.learn([Outcome(0, 4, 8), Outcome(1, 80, 80), Outcome(2, 0, 80)])
    weights = numpy.array([1 / w for w in chosen.weights(range(4))])
    assert weights[1] == weights[2] == 0.2, "the floor"
    assert weights[0] > weights[3] > 0.2, "a prompt that was not seen stands between"
    first = Counter[int]()
    for _ in range(4000):
        first[chosen.take(1)[0]] += 1
        chosen.learn([])
    expected = 4000 * weights / weights.sum()
    assert stats.chisquare([first[i] for i in range(4)], expected).pvalue > 0.001


def test_no_prompt_comes_twice_before_all_have_come() -> None:
    chosen = sampler(10)
    chosen.learn([Outcome(3, 4, 8)])
    assert sorted(chosen.take(4) + chosen.take(6)) == list(range(10))
    assert sorted(chosen.take(10)) == list(range(10))


def test_what_was_seen_counts_half_after_the_half_life() -> None:
    chosen = sampler(2, half_life_steps=2)
    chosen.learn([Outcome(0, 8, 8)])
    for _ in range(2):
        chosen.learn([])
    assert chosen.state()["right"] == pytest.approx([4.0])
    for _ in range(2 * 12):
        chosen.learn([])
    assert chosen.state()["seen"] == [], "less than a thousandth of a response is forgotten"


def test_the_estimate_improves_with_evidence_and_follows_a_change() -> None:
    """A prompt that was always right, and then is right every second time."""
    chosen = sampler(100, half_life_steps=4)
    others = [Outcome(i, 8.0, 8) for i in range(1, 100)]
    for _ in range(8):
        chosen.learn([Outcome(0, 8, 8), *others])
    settled = chosen.expected([0])[0]
    assert settled < 0.02
    for _ in range(4):
        chosen.learn([Outcome(0, 4, 8), *others])
    assert chosen.expected([0])[0] > 0.9


def test_kept_groups_double_where_few_prompts_teach() -> None:
    """One prompt in ten has rate 0.5, the others 1; four rounds of 64 out of 512."""
    random = numpy.random.default_rng(1)
    rates = numpy.where(numpy.arange(512) % 10 == 0, 0.5, 1.0)

    def kept(chosen: SelectingSampler | OrderedSampler) -> int:
        mixed = 0
        for step in range(32):
            indices = chosen.take(64)
            right = random.binomial(8, rates[indices])
            mixed += int(((right > 0) & (right < 8)).sum()) if step >= 16 else 0
            if isinstance(chosen, SelectingSampler):
                chosen.learn([Outcome(i, float(r), 8) for i, r in zip(indices, right, strict=True)])
        return mixed

    uniform = kept(OrderedSampler(512, 0, True))
    assert kept(sampler(512, half_life_steps=None)) > 3 * uniform


def test_weighted_means_are_those_of_uniform_draws() -> None:
    """The mean of any number over prompts, of draws with unequal chances, each weighted by 1 / its weight."""
    numbers = numpy.array([1.0, 5.0, 9.0])
    chosen = sampler(3, floor=0.05, half_life_steps=None)
    chosen.learn([Outcome(0, 4, 8), Outcome(1, 64, 64)])
    weighted, weights = [], []
    for _ in range(20_000):
        index = chosen.take(1)[0]
        weight = chosen.weights([index])[0]
        weighted.append(weight * numbers[index])
        weights.append(weight)
        chosen.learn([])
    assert math.fsum(weighted) / math.fsum(weights) == pytest.approx(numbers.mean(), rel=0.03)


def test_a_restored_selection_goes_on_as_if_it_had_not_stopped() -> None:
    for before, half_life in product((3, 11), (None, 3.0)):
        chosen = sampler(9, seed=4, half_life_steps=half_life)
        chosen.take(2)
        chosen.learn([Outcome(1, 3, 8), Outcome(7, 8, 8)])
        chosen.take(before)
        other = sampler(9, seed=4, half_life_steps=half_life)
        other.restore(json.loads(json.dumps(chosen.state())))
        assert [chosen.take(12), chosen.expected(range(9))] == [other.take(12), other.expected(range(9))]
        for each in (chosen, other):
            each.learn([Outcome(2, 1, 8)])
        assert chosen.take(9) == other.take(9)


def test_a_run_is_not_resumed_with_another_order_of_prompts() -> None:
    ordered, selecting = OrderedSampler(3, 1, True), sampler(3, seed=1)
    with pytest.raises(ConfigError, match=r"data\.selection"):
        selecting.restore(ordered.state())
    with pytest.raises(ConfigError, match=r"data\.selection"):
        ordered.restore(selecting.state())
    with pytest.raises(ConfigError, match="'size': 3"):
        sampler(4, seed=1).restore(selecting.state())


def test_measured_pass_rates_are_evidence_from_the_start() -> None:
    config = PromptSelectionConfig(half_life_steps=None)
    chosen = SelectingSampler(3, 0, 8, config, [Outcome(0, 16, 16), Outcome(1, 8, 16)])
    right, mixed, unseen = chosen.expected(range(3))
    assert right < unseen < mixed


def test_sharpness_is_the_power_of_the_chance() -> None:
    evidence = [Outcome(0, 4, 8), Outcome(1, 7, 8), Outcome(2, 80, 80)]
    chosen = sampler(4, sharpness=3, floor=0.01, half_life_steps=None)
    chosen.learn(evidence)
    mixed = numpy.array(chosen.expected(range(4)))
    assert [1 / w for w in chosen.weights(range(4))] == pytest.approx(numpy.maximum(mixed**3, 0.01))
    assert mixed[2] ** 3 < 0.01 < mixed[1] ** 3, "the floor holds for the third prompt alone"
    even = sampler(4, sharpness=0)
    even.learn(evidence)
    assert even.weights(range(4)) == [1.0] * 4, "a power of 0 is uniform draws"


def test_a_part_is_its_own_sums_and_eight_groups_like_all() -> None:
    part, whole = Population(2.0, 1.0, 0.5, 0.25), Population(16.0, 4.0, 2.0, 2.0)
    assert part.with_prior(whole) == Population(10.0, 3.0, 1.5, 1.25)
    assert Population(0.0, 0.0, 0.0).with_prior(whole).beta() == pytest.approx(whole.beta())


def test_a_group_counts_by_how_unlikely_its_prompt_was() -> None:
    chosen = sampler(3, half_life_steps=None, sharpness=2)
    chosen.learn([Outcome(0, 80, 80)])
    chances = 1 / numpy.array(chosen.weights(range(3)))
    before = chosen.state()["population"]
    chosen.learn([Outcome(0, 8, 8), Outcome(1, 2, 8)])
    added = numpy.subtract(chosen.state()["population"], before)
    weights = chances.mean() / chances[:2]
    assert weights[0] > 2 * weights[1]
    assert added == pytest.approx(
        [weights.sum(), weights[0] + weights[1] / 4, weights[0] + weights[1] / 16, weights.sum() / 8]
    )


def by_level(labels: list[str], **keys: object) -> SelectingSampler:
    config = PromptSelectionConfig.model_validate({"group_by": "level", **keys})
    return SelectingSampler(len(labels), 0, 8, config, labels=labels)


def test_prompts_that_were_not_drawn_are_told_apart_by_their_group() -> None:
    """Easy prompts are all right, hard ones half; of each, one half was never drawn; one value was never seen."""
    chosen = by_level(["easy", "hard"] * 40 + ["other"], half_life_steps=None)
    chosen.learn([Outcome(i, 8.0 if i % 2 == 0 else 4.0, 8) for i in range(40)])
    easy, hard, other = chosen.expected([78, 79, 80])
    assert easy < 0.35 < other < hard
    assert hard > 0.85


def test_groups_are_resumed_and_not_mistaken_for_others() -> None:
    labels = ["a", "b", "b", "a"]
    chosen, other = by_level(labels, half_life_steps=3), by_level(labels, half_life_steps=3)
    chosen.learn([Outcome(0, 8, 8), Outcome(1, 4, 8)])
    other.restore(json.loads(json.dumps(chosen.state())))
    for each in (chosen, other):
        each.learn([Outcome(2, 3, 8)])
    assert chosen.state() == other.state()
    assert [chosen.take(4), chosen.expected(range(4))] == [other.take(4), other.expected(range(4))]
    for different in (by_level(["a", "c", "c", "a"]), sampler(4)):
        with pytest.raises(ConfigError, match="group_by"):
            different.restore(chosen.state())
