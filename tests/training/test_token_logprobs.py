from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reasoner_rl.training.token_logprobs import token_logprobs

SHAPES = [(None, 1.0, None), ("bias", 1.0, None), ("bias", 0.25, None), (None, 1.5, 2.0), ("bias", 0.5, 3.0)]


def inputs(tokens=13, width=5, vocabulary=11, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    return draw(tokens, width), draw(vocabulary, width), draw(vocabulary), targets


def plain(hidden, weight, bias, targets, temperature, logit_scale=1.0, softcap=None):
    logits = torch.nn.functional.linear(hidden, weight, bias).float() * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logprobs = torch.log_softmax(logits / temperature, -1)
    return logprobs.gather(-1, targets[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


def test_by_hand():
    # Logits (0, ln 3) and (ln 3, 0): probabilities (1/4, 3/4) and the reverse.
    ln3 = 1.0986122886681098
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    weight = torch.tensor([[0.0, ln3], [ln3, 0.0]])
    out = token_logprobs(hidden, weight, None, torch.tensor([1, 1]), temperature=1.0, chunk_tokens=1)
    assert out.logprobs.tolist() == pytest.approx([-0.2876820724, -1.3862943611])  # ln 3/4, ln 1/4
    assert out.entropy.tolist() == pytest.approx([0.5623351446] * 2)
    hot = token_logprobs(hidden, weight, None, torch.tensor([1, 1]), temperature=0.5, chunk_tokens=9)
    assert hot.logprobs.tolist() == pytest.approx([-0.1053605157, -2.3025850930])  # ln 9/10, ln 1/10


@pytest.mark.parametrize(("bias_kind", "logit_scale", "softcap"), SHAPES)
@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_matches_plain_log_softmax(bias_kind, logit_scale, softcap, entropy_gradient):
    hidden, weight, bias, targets = inputs()
    given = [hidden, weight] if bias_kind is None else [hidden, weight, bias]
    bias = None if bias_kind is None else bias
    options = {"temperature": 0.7, "logit_scale": logit_scale, "softcap": softcap}
    out = token_logprobs(
        hidden, weight, bias, targets, chunk_tokens=4, entropy_gradient=entropy_gradient, **options
    )
    logprobs, entropy = plain(hidden, weight, bias, targets, **options)
    torch.testing.assert_close(out.logprobs, logprobs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.entropy, entropy, rtol=1e-5, atol=1e-6)

    toward = torch.linspace(-1, 1, len(targets))

    def loss(logprobs, entropy):
        return (logprobs * toward).sum() + (
            0.3 * (entropy * toward.flip(0)).sum() if entropy_gradient else 0.0
        )

    expected = torch.autograd.grad(loss(logprobs, entropy), given)
    for gradient, reference in zip(
        torch.autograd.grad(loss(out.logprobs, out.entropy), given), expected, strict=True
    ):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bias_kind", "logit_scale", "softcap"), SHAPES)
@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_gradcheck(bias_kind, logit_scale, softcap, entropy_gradient):
    hidden, weight, bias, targets = inputs(tokens=5, width=3, vocabulary=4, dtype=torch.float64)

    def function(hidden, weight, bias):
        out = token_logprobs(
            hidden,
            weight,
            bias if bias_kind else None,
            targets,
            temperature=0.8,
            chunk_tokens=2,
            entropy_gradient=entropy_gradient,
            logit_scale=logit_scale,
            softcap=softcap,
        )
        return (out.logprobs, out.entropy) if entropy_gradient else out.logprobs

    assert torch.autograd.gradcheck(function, (hidden, weight, bias))


@pytest.mark.parametrize("chunk_tokens", [1, 3, 13, 1000])
def test_does_not_depend_on_the_chunk_size(chunk_tokens):
    hidden, weight, _, targets = inputs()

    def run(size):
        out = token_logprobs(
            hidden, weight, None, targets, temperature=1.0, chunk_tokens=size, entropy_gradient=True
        )
        gradients = torch.autograd.grad(out.logprobs.sum() + out.entropy.square().sum(), [hidden, weight])
        return out.logprobs, out.entropy, *gradients

    for value, reference in zip(run(chunk_tokens), run(5), strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-5, atol=1e-6)


def test_bfloat16_weights_give_float32_results_and_bfloat16_gradients():
    hidden, weight, bias, targets = inputs(tokens=64, width=32, vocabulary=50, dtype=torch.bfloat16)
    out = token_logprobs(
        hidden, weight, bias, targets, temperature=1.0, chunk_tokens=7, entropy_gradient=True
    )
    exact = [tensor.detach().float().requires_grad_() for tensor in (hidden, weight, bias)]
    logprobs, entropy = plain(*exact, targets, 1.0)
    assert out.logprobs.dtype == out.entropy.dtype == torch.float32
    torch.testing.assert_close(out.logprobs, logprobs, rtol=0, atol=0.06)
    torch.testing.assert_close(out.entropy, entropy, rtol=0, atol=0.06)
    expected = torch.autograd.grad(logprobs.mean() + 0.1 * entropy.mean(), exact)
    gradients = torch.autograd.grad(out.logprobs.mean() + 0.1 * out.entropy.mean(), [hidden, weight, bias])
    for gradient, reference in zip(gradients, expected, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert (gradient.float() - reference).norm() < 0.02 * reference.norm()


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1.0], [1.0]], requires_grad=True)
    weight = torch.tensor([[1000.0], [-1000.0]])
    out = token_logprobs(
        hidden, weight, None, torch.tensor([0, 1]), temperature=1.0, chunk_tokens=2, entropy_gradient=True
    )
    assert out.logprobs.tolist() == [0.0, -2000.0]
    assert out.entropy.tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(out.logprobs.sum() + out.entropy.sum(), hidden)
    assert gradient[:, 0].tolist() == [0.0, -2000.0]


def test_entropy_has_no_gradient_unless_asked_for():
    hidden, weight, _, targets = inputs()
    without = token_logprobs(hidden, weight, None, targets, temperature=1.0, chunk_tokens=4)
    asked = token_logprobs(
        hidden, weight, None, targets, temperature=1.0, chunk_tokens=4, entropy_gradient=True
    )
    assert not without.entropy.requires_grad
    assert asked.entropy.requires_grad
    (gradient,) = torch.autograd.grad(asked.entropy.sum(), hidden)
    (reference,) = torch.autograd.grad(plain(hidden, weight, None, targets, 1.0)[1].sum(), hidden)
    torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-5)


def test_frozen_inputs_get_no_gradient():
    hidden, weight, bias, targets = inputs()
    token_logprobs(
        hidden, weight.detach(), None, targets, temperature=1.0, chunk_tokens=4
    ).logprobs.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
    token_logprobs(
        hidden.detach(), weight, bias.detach(), targets, temperature=1.0, chunk_tokens=4
    ).logprobs.sum().backward()
    assert weight.grad is not None
    assert bias.grad is None


def test_no_tokens():
    hidden, weight, bias, _ = inputs()
    none = torch.zeros(0, dtype=torch.int64)
    out = token_logprobs(
        hidden[none], weight, bias, none, temperature=1.0, chunk_tokens=4, entropy_gradient=True
    )
    assert out.logprobs.shape == out.entropy.shape == (0,)
    gradients = torch.autograd.grad(out.logprobs.sum() + out.entropy.sum(), [hidden, weight, bias])
    assert all(gradient.count_nonzero() == 0 for gradient in gradients)


@pytest.mark.parametrize(("temperature", "chunk_tokens"), [(0.0, 4), (-1.0, 4), (1.0, 0)])
def test_refuses_what_has_no_meaning(temperature, chunk_tokens):
    hidden, weight, _, targets = inputs()
    with pytest.raises(ValueError, match="must be positive"):
        token_logprobs(hidden, weight, None, targets, temperature=temperature, chunk_tokens=chunk_tokens)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements in any tensor that an operation returned, forward or backward."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_logits_of_all_tokens_never_exist(softcap):
    tokens, width, vocabulary, chunk = 64, 3, 100, 8
    hidden, weight, _, targets = inputs(tokens, width, vocabulary)
    with LargestTensor() as largest:
        out = token_logprobs(
            hidden,
            weight,
            None,
            targets,
            temperature=0.9,
            chunk_tokens=chunk,
            entropy_gradient=True,
            softcap=softcap,
        )
        (out.logprobs.sum() + out.entropy.sum()).backward()
    assert largest.elements == chunk * vocabulary
    with LargestTensor() as largest:
        plain(hidden, weight, None, targets, 0.9)
    assert largest.elements == tokens * vocabulary  # the instrument sees what it should


@pytest.mark.parametrize(("bias_kind", "logit_scale", "softcap"), SHAPES)
@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_unused_ids_have_no_probability_and_no_gradient(bias_kind, logit_scale, softcap, entropy_gradient):
    hidden, weight, bias, targets = inputs()
    given = [hidden, weight] if bias_kind is None else [hidden, weight, bias]
    bias = None if bias_kind is None else bias
    unused = torch.tensor([0, 4, 9, 10])  # the end, and holes
    known = torch.tensor([i for i in range(11) if i not in unused.tolist()])
    places = targets % len(known)
    options = {"temperature": 0.7, "logit_scale": logit_scale, "softcap": softcap}
    out = token_logprobs(
        hidden,
        weight,
        bias,
        known[places],
        chunk_tokens=4,
        entropy_gradient=entropy_gradient,
        unused_ids=unused,
        **options,
    )
    # The same as if the model had no such rows.
    logprobs, entropy = plain(hidden, weight[known], None if bias is None else bias[known], places, **options)
    torch.testing.assert_close(out.logprobs, logprobs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.entropy, entropy, rtol=1e-5, atol=1e-6)
    toward = torch.linspace(-1, 1, len(targets))

    def loss(logprobs, entropy):
        return (logprobs * toward).sum() + (
            0.3 * (entropy * toward.flip(0)).sum() if entropy_gradient else 0.0
        )

    expected = torch.autograd.grad(loss(logprobs, entropy), given)
    for found, wanted in zip(torch.autograd.grad(loss(*out), given), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
        if len(found) == 11:
            assert not found[unused].any(), "exactly zero"


class _CountProducts(TorchDispatchMode):
    """Counts products with the whole weight matrix, [n, D] @ [D, V]."""

    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary, self.counted = vocabulary, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.counted += result.shape[-1] == self.vocabulary
        return result


@pytest.mark.parametrize("entropy_gradient", [False, True])
@pytest.mark.parametrize("chunk_tokens", [4, 13, 99])
def test_the_last_chunk_is_not_computed_again_and_its_gradients_are_the_same(chunk_tokens, entropy_gradient):
    hidden, weight, bias, targets = inputs(tokens=13, width=5, vocabulary=11)
    chunks = -(-13 // chunk_tokens)
    with _CountProducts(11) as products:
        out = token_logprobs(
            hidden,
            weight,
            bias,
            targets,
            temperature=0.7,
            chunk_tokens=chunk_tokens,
            entropy_gradient=entropy_gradient,
        )
        toward = torch.linspace(-1, 1, 13)
        loss = (out.logprobs * toward).sum() + (out.entropy * toward).sum() * entropy_gradient
        kept = torch.autograd.grad(loss, (hidden, weight, bias), retain_graph=True)
        assert products.counted == chunks + chunks - 1
        again = torch.autograd.grad(loss, (hidden, weight, bias))  # nothing is kept any more
        assert products.counted == 3 * chunks - 1
    for ours, plain_path in zip(kept, again, strict=True):
        torch.testing.assert_close(ours, plain_path, rtol=1e-5, atol=1e-6)


def test_nothing_is_kept_where_there_is_no_backward_pass():
    hidden, weight, _, targets = inputs()
    options = {"temperature": 1.0, "chunk_tokens": 99}
    with torch.no_grad():
        assert token_logprobs(hidden, weight, None, targets, **options).logprobs.grad_fn is None
    frozen = token_logprobs(hidden.detach(), weight.detach(), None, targets, **options)
    assert frozen.logprobs.grad_fn is None
