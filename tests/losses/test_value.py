from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch

from reasoner_rl.config.algorithm import ValueLossConfig
from reasoner_rl.losses.value import value_loss
from reasoner_rl.metrics import merge, values
from reasoner_rl.types import ValueOutputs

CLIPPED, FREE = ValueLossConfig(clip=0.2), ValueLossConfig(clip=None)


def random_batch(flat, seed=0):
    """Returns and present values about as far from the old ones as the clip; a fifth of the tokens is masked."""
    steps = torch.randn(3, 64, generator=torch.Generator().manual_seed(seed))
    old = steps[0]
    mask = torch.arange(64) % 5 != 2
    batch = flat.make([40, 1, 23], mask=mask, old_values=old, returns=old + 0.5 * steps[1])
    return batch, old + 0.3 * steps[2]


@pytest.mark.parametrize(
    ("value", "returned", "loss", "slope"),  # the old value is 1.0, so values are kept within 0.8 and 1.2
    [
        (1.1, 2.0, 0.405, -0.9),
        (1.3, 2.0, 0.32, 0.0),  # gone up far enough: the error is that of 1.2
        (0.7, 2.0, 0.845, -1.3),  # gone away from the return: pulled back
        (1.3, 1.0, 0.045, 0.3),  # gone past the return: pulled back
        (0.9, 0.0, 0.405, 0.9),
        (0.7, 0.0, 0.32, 0.0),  # gone down far enough: the error is that of 0.8
        (1.3, 0.0, 0.845, 1.3),
        (0.7, 1.0, 0.045, -0.3),
        (1.1, 1.1, 0.0, 0.0),
    ],
)
def test_each_side_of_the_clip(flat, gradient_of, value, returned, loss, slope):
    batch = flat.make([1], returns=[returned], old_values=[1.0])
    at = torch.tensor([value])
    computed, metrics = value_loss(ValueOutputs(at), batch, CLIPPED)
    assert computed.item() == pytest.approx(loss, abs=1e-6)
    gradient = gradient_of(lambda x: value_loss(ValueOutputs(x), batch, CLIPPED)[0], at)
    assert gradient.item() == pytest.approx(slope, abs=1e-6)
    assert metrics["value/clip_fraction"].value() == float(slope == 0 and value != returned)


def test_without_a_clip_it_is_half_the_mean_squared_error(flat, gradient_of):
    batch = flat.make([2, 1], mask=[True, False, True], returns=[1.0, 50.0, -2.0])
    at = torch.tensor([0.0, 3.0, 1.0])
    loss, metrics = value_loss(ValueOutputs(at), batch, FREE)
    assert loss.item() == pytest.approx((1.0 + 9.0) / 2 / 2)
    assert values(metrics) == {
        "value/loss": pytest.approx(2.5),
        "value/clip_fraction": 0.0,
        "value/mean": pytest.approx(0.5),
    }
    gradient = gradient_of(lambda x: value_loss(ValueOutputs(x), batch, FREE)[0], at)
    assert gradient.tolist() == pytest.approx([-0.5, 0.0, 1.5])


@pytest.mark.parametrize("cuts", [[[0], [1], [2]], [[2, 0], [1]]])
@pytest.mark.parametrize("config", [CLIPPED, FREE])
def test_micro_batches_add_up(flat, gradient_of, cuts, config):
    batch, at = random_batch(flat)
    whole, metrics = value_loss(ValueOutputs(at), batch, config)
    gradient = gradient_of(lambda x: value_loss(ValueOutputs(x), batch, config)[0], at)
    parts = flat.cut(batch, cuts)
    results = [value_loss(ValueOutputs(at[tokens]), part, config) for tokens, part in parts]
    assert sum(loss.item() for loss, _ in results) == pytest.approx(whole.item(), rel=1e-6)
    assert values(merge(found for _, found in results)) == pytest.approx(values(metrics), rel=1e-6)
    for tokens, part in parts:
        own = gradient_of(lambda x, part=part: value_loss(ValueOutputs(x), part, config)[0], at[tokens])
        torch.testing.assert_close(own, gradient[tokens])


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -1e30])
def test_garbage_at_masked_positions_leaks_nowhere(flat, gradient_of, garbage):
    batch, at = random_batch(flat)

    def spoil(tensor):
        return torch.where(batch.loss_mask, tensor, garbage)

    spoilt = dataclasses.replace(batch, returns=spoil(batch.returns), old_values=spoil(batch.old_values))
    clean = value_loss(ValueOutputs(at), batch, CLIPPED)
    dirty = value_loss(ValueOutputs(spoil(at)), spoilt, CLIPPED)
    assert dirty[0].item() == clean[0].item()
    assert dirty[1] == clean[1]
    expected = gradient_of(lambda x: value_loss(ValueOutputs(x), batch, CLIPPED)[0], at)
    found = gradient_of(lambda x: value_loss(ValueOutputs(x), spoilt, CLIPPED)[0], spoil(at))
    assert found.tolist() == expected.tolist()


def test_nothing_to_train_gives_zero_and_a_zero_gradient(flat, gradient_of):
    batch = flat.make([3], mask=[False] * 3, returns=[1.0] * 3, old_values=[0.0] * 3)
    at = torch.tensor([1.0, 2.0, 3.0])
    loss, metrics = value_loss(ValueOutputs(at), batch, CLIPPED)
    assert loss.item() == 0.0
    assert gradient_of(lambda x: value_loss(ValueOutputs(x), batch, CLIPPED)[0], at).tolist() == [0.0] * 3
    assert values(metrics) == {}  # no mean over nothing
    empty = flat.make([], returns=[], old_values=[])
    assert value_loss(ValueOutputs(torch.zeros(0)), empty, CLIPPED)[0].item() == 0.0


def test_what_the_batch_must_have(flat):
    outputs = ValueOutputs(torch.zeros(1))
    with pytest.raises(ValueError, match="needs returns"):
        value_loss(outputs, flat.make([1], old_values=[0.0]), FREE)
    with pytest.raises(ValueError, match="needs old values"):
        value_loss(outputs, flat.make([1], returns=[0.0]), CLIPPED)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_as_verl(flat, gradient_of, seed):
    pytest.importorskip("verl")
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos", exc_type=ImportError)
    batch, at = random_batch(flat, seed)

    def theirs(x):
        return core_algos.compute_value_loss(
            vpreds=flat.pad(x, batch),
            returns=flat.pad(batch.returns, batch),
            values=flat.pad(batch.old_values, batch),
            response_mask=flat.pad(batch.loss_mask.float(), batch),
            cliprange_value=0.2,
        )

    ours = partial(value_loss, batch=batch, config=CLIPPED)
    loss, metrics = ours(ValueOutputs(at))
    expected, clip_fraction = theirs(at)
    torch.testing.assert_close(loss, expected)
    assert metrics["value/clip_fraction"].value() == pytest.approx(clip_fraction.item())
    assert 0 < clip_fraction < 1
    torch.testing.assert_close(
        gradient_of(lambda x: ours(ValueOutputs(x))[0], at), gradient_of(lambda x: theirs(x)[0], at)
    )
