from __future__ import annotations

import math

import pytest
import torch

from reasoner_rl.config.ppo import KlControlConfig
from reasoner_rl.losses.kl import KlController, kl_controller, kl_estimate

LOGPROBS = torch.tensor([-1.0, -2.0, -0.5])
REFERENCE = torch.tensor([-1.5, -1.0, -0.5])  # differences 0.5, -1, 0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("k1", [0.5, -1.0, 0.0]),
        ("k2", [0.125, 0.5, 0.0]),
        ("k3", [0.106530660, 0.718281828, 0.0]),  # e^-0.5 - 0.5, e - 2, 0
    ],
)
def test_by_hand(kind, expected):
    assert kl_estimate(LOGPROBS, REFERENCE, kind).tolist() == pytest.approx(expected, abs=1e-6)


def test_k3_stays_finite_however_far_the_policies_are():
    estimates = kl_estimate(torch.tensor([-100.0, -0.1, -math.inf]), torch.tensor([-0.1, -100.0, -1.0]), "k3")
    assert estimates.tolist() == [10.0, 10.0, 10.0]
    moderate = kl_estimate(torch.tensor([-0.5]), torch.tensor([-9.5]), "k3")
    assert moderate.item() == pytest.approx(8.0 + math.exp(-9.0), rel=1e-6)


@pytest.fixture
def distributions():
    policy = torch.tensor([0.3, -0.2, 0.9, 0.1], dtype=torch.float64)
    reference = torch.log_softmax(torch.tensor([0.0, 0.5, 0.2, -0.4], dtype=torch.float64), 0)
    return policy, reference


def expected_gradient(kind, logits, reference):
    """The gradient, in expectation over samples from the policy, of the estimate used as a loss."""
    point = logits.clone().requires_grad_()
    logprobs = torch.log_softmax(point, 0)
    (logprobs.detach().exp() * kl_estimate(logprobs, reference, kind)).sum().backward()
    return point.grad


def exact_gradient(divergence, logits):
    point = logits.clone().requires_grad_()
    divergence(torch.log_softmax(point, 0)).backward()
    return point.grad


def test_k1_and_k3_are_unbiased(distributions):
    logits, reference = distributions
    logprobs = torch.log_softmax(logits, 0)
    exact = (logprobs.exp() * (logprobs - reference)).sum().item()
    for kind in ("k1", "k3"):
        assert (logprobs.exp() * kl_estimate(logprobs, reference, kind)).sum().item() == pytest.approx(exact)


def test_gradients_as_a_loss_are_what_the_docstring_says(distributions):
    logits, reference = distributions
    to_reference = exact_gradient(lambda lp: (lp.exp() * (lp - reference)).sum(), logits)
    from_reference = exact_gradient(lambda lp: (reference.exp() * (reference - lp)).sum(), logits)
    torch.testing.assert_close(expected_gradient("k1", logits, reference), torch.zeros_like(logits))
    torch.testing.assert_close(expected_gradient("k2", logits, reference), to_reference)
    torch.testing.assert_close(expected_gradient("k3", logits, reference), from_reference)


ADAPTIVE = KlController(coefficient=0.2, target=0.1, horizon=1000)


@pytest.mark.parametrize(
    ("kl", "responses", "coefficient"),
    [
        (0.1, 50, 0.2),  # on target
        (0.11, 50, 0.2 * (1 + 0.1 * 0.05)),
        (5.0, 50, 0.2 * (1 + 0.2 * 0.05)),  # at most a fifth, for a whole horizon
        (0.0, 50, 0.2 * (1 - 0.2 * 0.05)),
        (0.09, 1000, 0.2 * 0.9),
    ],
)
def test_adaptive_controller_by_hand(kl, responses, coefficient):
    updated = ADAPTIVE.updated(kl, responses)
    assert updated.coefficient == pytest.approx(coefficient, rel=1e-12)
    assert (updated.target, updated.horizon, ADAPTIVE.coefficient) == (0.1, 1000, 0.2)


def test_the_controller_of_a_config():
    fixed = kl_controller(KlControlConfig(coefficient=0.3))
    assert fixed.updated(99.0, 10) == fixed == KlController(0.3)
    adaptive = KlControlConfig(coefficient=0.2, controller="adaptive", target=0.1, horizon=1000)
    assert kl_controller(adaptive) == ADAPTIVE


def test_adaptive_controller_is_that_of_verl():
    pytest.importorskip("verl")
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos", exc_type=ImportError)
    theirs, ours = core_algos.AdaptiveKLController(0.2, 0.1, 1000), ADAPTIVE
    for kl in (0.3, 0.12, 0.01, 0.095, -0.2):
        theirs.update(kl, 64)
        ours = ours.updated(kl, 64)
        assert ours.coefficient == pytest.approx(theirs.value, rel=1e-12)
