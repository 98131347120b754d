"""The distributions sampled from, against references written out by hand, and the inversion at its edges."""

from __future__ import annotations

import itertools
import math

import numpy
import pytest
import torch

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.rollout.sampling import (
    UniformStreams,
    choose_tokens,
    draw,
    first_above,
    first_above_in_any_order,
    sampling_logprobs,
)


def brute_force(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """Probabilities by the definition, one token at a time."""
    weights = {token: math.exp(logit / temperature) for token, logit in enumerate(logits)}
    likeliest = sorted(weights, key=lambda token: -weights[token])[: top_k or len(weights)]
    total = sum(weights[token] for token in likeliest)
    kept: list[int] = []
    for token in likeliest:
        kept.append(token)
        if sum(weights[one] for one in kept) / total >= top_p:
            break
    total = sum(weights[token] for token in kept)
    return [weights[token] / total if token in kept else 0.0 for token in weights]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    itertools.product([1.0, 0.6, 1.7], [0, 1, 4, 50], [1.0, 0.8, 0.35, 1e-6]),
)
def test_distribution_matches_its_definition(temperature: float, top_k: int, top_p: float) -> None:
    logits = 2 * torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([brute_force(row, temperature, top_k, top_p) for row in logits.tolist()])
    actual = sampling_logprobs(logits, temperature, top_k, top_p)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.exp(), expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(actual == -torch.inf, expected == 0)


def test_ties_do_not_widen_the_cut() -> None:
    tied = torch.zeros(1, 6)
    assert sampling_logprobs(tied, 1.0, top_k=2).exp().count_nonzero() == 2
    assert sampling_logprobs(tied, 1.0, top_p=0.5).exp().count_nonzero() == 3


def test_draw_inverts_the_cumulative_distribution() -> None:
    logprobs = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0]).log()
    uniforms = torch.tensor([0.0, 0.2, 0.25, 0.7, 0.75, 1 - 2**-24, 1.0])
    assert draw(logprobs.expand(len(uniforms), -1), uniforms).tolist() == [1, 1, 3, 3, 4, 4, 4]


def test_draw_never_takes_an_impossible_token_when_the_sum_is_rounded() -> None:
    """Fifty thousand small probabilities do not sum to exactly 1, from either side."""
    for seed in range(20):
        logits = 3 * torch.randn(1, 50_000, generator=torch.Generator().manual_seed(seed))
        logits[:, :7], logits[:, -7:] = -torch.inf, -torch.inf
        logprobs = sampling_logprobs(logits, 1.0)
        for uniform in (0.0, 1 - 2**-24):
            (token,) = draw(logprobs, torch.tensor([uniform])).tolist()
            assert logprobs[0, token] > -torch.inf


def test_on_a_gpu_sums_need_not_be_in_order() -> None:
    """They may be smaller than the one before, or larger past a token of probability zero."""

    def found(probabilities: list[float], sums: list[float], uniform: float) -> int:
        drawn = first_above_in_any_order(
            torch.tensor([probabilities]), torch.tensor([sums]), torch.tensor([uniform])
        )
        return int(drawn.item())

    probabilities, sums = [0.25, 0.25, 0.0, 0.5, 0.0], [0.25, 0.5, 0.5000001, 0.9999999, 1.0]
    uniforms = (0.0, 0.3, 0.50000006, 1 - 2**-24, 1.0)
    assert [found(probabilities, sums, uniform) for uniform in uniforms] == [0, 1, 3, 3, 3]
    assert found(probabilities, [0.25, 0.2499999, 0.2499999, 1.0, 1.0], 0.2499999) == 0
    assert found([0.5, 0.0, 0.5], [0.5, 0.5000001, 1.0], 0.50000004) == 2


@pytest.mark.parametrize(("vocabulary", "top_p"), [(7, 1.0), (500, 1.0), (500, 0.8)])
def test_bisection_on_a_cpu_finds_what_comparing_all_finds(vocabulary: int, top_p: float) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 4 * torch.randn(64, vocabulary, generator=generator)
    logits[:, ::3] = -torch.inf
    probabilities = sampling_logprobs(logits, 1.0, top_p=top_p).exp()
    sums = probabilities.cumsum(-1)
    uniforms = torch.rand(64, generator=generator)
    uniforms[:2] = torch.tensor([0.0, 1 - 2**-24])
    found = first_above(probabilities, sums, uniforms)
    assert torch.equal(found, first_above_in_any_order(probabilities, sums, uniforms))
    not_numbers = torch.full((1, vocabulary), torch.nan)
    assert first_above(not_numbers, not_numbers, torch.tensor([0.5])).item() < vocabulary


def test_streams_depend_on_their_key_and_position_only() -> None:
    keys = [((2**63 - 1, 0), 0), ((5, 0), 0), ((5, 1), 0), ((0, 5), 0)]
    together, alone = UniformStreams(keys), UniformStreams([((5, 1), 0)])
    columns = [together.next() for _ in range(300)]
    kept, late = numpy.array([2, 0]), UniformStreams([((9, 9), 0)])
    together.rearrange(kept, [((9, 9), 0)])
    rearranged = [together.next() for _ in range(300)]
    assert [*(c[2] for c in columns), *(c[0] for c in rearranged)] == [alone.next()[0] for _ in range(600)]
    assert [c[2] for c in rearranged] == [late.next()[0] for _ in range(300)]
    for read in (255, 256, 300):
        assert (
            UniformStreams([((5, 1), read)]).next()[0]
            == [*columns, *rearranged][read][2 if read < 300 else 0]
        )
    numbers = numpy.stack(columns)
    assert len(numpy.unique(numbers)) > 0.999 * numbers.size
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=0.02)


def test_greedy_takes_the_likeliest_token_and_gives_its_logprob_at_temperature_1() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    sampling = SamplingConfig(temperature=0, top_k=3, top_p=0.5)
    tokens, logprobs = choose_tokens(logits, sampling, torch.full((4,), 0.9))
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).amax(-1))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_forbidden_tokens_leave_the_distribution(temperature: float) -> None:
    logits = torch.tensor([[9.0, 1.0, 1.0]])
    sampling = SamplingConfig(temperature=temperature)
    tokens, logprobs = choose_tokens(logits, sampling, torch.tensor([0.1]), forbidden=torch.tensor([0]))
    assert tokens.tolist() == [1]
    assert logprobs.item() == pytest.approx(math.log(0.5))
    assert logits[0, 0] == 9.0  # the caller's logits are left alone
