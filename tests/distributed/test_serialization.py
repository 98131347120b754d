"""What is sent comes back equal, with memory of its own, whether or not pickle keeps buffers apart."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from array import array
from typing import Any

import pytest
import torch

from reasoner_rl.batching.plan import BatchLimits, Share, plan_shares
from reasoner_rl.distributed.serialization import REDUCERS, dumps, rebuild
from reasoner_rl.rollout.engine import GenerationRequest, StepOutput
from reasoner_rl.types import MicroBatch, Rollout, TrainSample, constant_column


def sent(message: Any) -> Any:
    """As through Ray: what is read are read-only numbers in the format of what was sent, and gone after reading."""
    body, buffers = dumps(message)
    copies = [bytearray(buffer.raw()) for buffer in buffers]
    formats = [memoryview(buffer).format or "B" for buffer in buffers]
    views = [memoryview(each).toreadonly() for each in copies]
    numbers = [view.cast(form) if view else view for view, form in zip(views, formats, strict=True)]
    back = pickle.loads(body, buffers=numbers)
    for each in copies:
        each[:] = b"\xff" * len(each)
    return back


def sample(length: int, **changes: Any) -> TrainSample:
    """As the driver makes it: response and logprobs are views, mask and advantages one value each."""
    numbers = torch.arange(2 * length, dtype=torch.float32)
    made = TrainSample(
        prompt_ids=torch.tensor([5, length], dtype=torch.int32),
        response_ids=torch.arange(100, 100 + length, dtype=torch.int32),
        loss_mask=constant_column(length % 2 == 0, length),
        advantages=constant_column(0.1 * length, length),
        rollout_logprobs=-numbers[:length],
        reward=0.5 * length,
        weight=0.75,
        truncated=length == 3,
        group=length // 2,
        policy_version=7,
    )
    return made.replace(**changes)


def assert_same(back: TrainSample, given: TrainSample) -> None:
    for field in dataclasses.fields(TrainSample):
        one, other = getattr(back, field.name), getattr(given, field.name)
        if isinstance(other, torch.Tensor):
            assert one.dtype == other.dtype, field.name
            assert torch.equal(one, other), field.name
        else:
            assert (one, type(one)) == (other, type(other)), field.name


def test_a_share_comes_back_equal_with_memory_of_its_own() -> None:
    samples = [sample(n, old_logprobs=-torch.rand(n)) for n in (1, 2, 3, 4, 5)]
    for share in plan_shares(samples, BatchLimits(9, 8), 3):
        back = sent(share)
        assert isinstance(back, Share)
        others = ("sample_indices", "cuts", "denominators")
        assert all(getattr(back, name) == getattr(share, name) for name in others)
        for one, other in zip(back.samples, share.samples, strict=True):
            assert_same(one, other)
            one.response_ids.add_(1)  # what comes from an object store may not be written to; this may
        for batch, expected in zip(sent(share).pack().micro_batches, share.pack().micro_batches, strict=True):
            for field in dataclasses.fields(MicroBatch):
                one, other = getattr(batch, field.name), getattr(expected, field.name)
                assert torch.equal(one, other) if isinstance(other, torch.Tensor) else one == other, (
                    field.name
                )


def test_a_column_of_one_value_is_sent_as_that_value() -> None:
    share = Share(
        (sample(1000),), (0,), ((0,),), plan_shares([sample(2)], BatchLimits(9, 8), 1)[0].denominators
    )
    assert [len(buffer.raw()) for buffer in dumps(share)[1]] == [4000, 8, 4000]  # logprobs, prompt, response
    [back] = sent(share).samples
    assert (back.advantages.untyped_storage().nbytes(), len(back.advantages)) == (4, 1000)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_mask": torch.tensor([True, False, True])},  # beside constant ones
        {"advantages": torch.zeros(0).new_empty(6)[::2].fill_(2.0)},  # every second number of what it views
        {"returns": torch.ones(3)},  # known of one sample alone
        {"old_logprobs": torch.zeros(3, dtype=torch.bfloat16)},  # a format that numpy has not
        {"old_logprobs": torch.zeros(3, requires_grad=True)},
        {"response_ids": torch.arange(3)},  # int64 beside int32
        {"entropies": torch.zeros(1, 3)[0]},
        {name: torch.zeros(0) for name in ("loss_mask", "advantages", "rollout_logprobs")},
    ],
)
def test_columns_of_any_kind_come_back(changes: dict[str, Any]) -> None:
    samples = (sample(2), sample(3, **changes), sample(4))
    share = Share(
        samples, (0, 1, 2), ((0, 1, 2),), plan_shares(samples[:1], BatchLimits(9, 8), 1)[0].denominators
    )
    for order in (samples, samples[::-1]):
        for one, other in zip(sent(dataclasses.replace(share, samples=order)).samples, order, strict=True):
            assert_same(one, other)


def test_rollouts_come_back_equal_and_their_columns_are_no_bytes_of_the_pickle() -> None:
    ids, logprobs = range(70_000, 71_000), [0.1 * n for n in range(1000)]
    rollouts = [
        Rollout(ids, logprobs, "length", 3, "a £\ud800", switches=((4, 5),)),
        Rollout((), (), "stop", 0, ""),
    ]
    output = StepOutput([(9, rollouts)], 2, 1000)
    back = sent(output)
    assert back == output
    [(_, [first, _])] = back.finished
    assert isinstance(first.token_ids, array)
    assert sys.getsizeof(first.token_ids) == sys.getsizeof(array("i")) + 4 * len(ids), "no room to grow"
    first.token_ids[0] = 1
    body, buffers = dumps(output)
    assert len(body) < 500
    assert sum(len(buffer.raw()) for buffer in buffers) == 8000


def test_requests_and_answers_come_back_equal() -> None:
    request = GenerationRequest((1, 2), 1, 0, begun=array("i", [7, 8, 9]))
    assert sent(request) == request
    whole = torch.rand(2, 6).T
    answers = {3: whole[0], -1: constant_column(1.5, 4), 5: torch.tensor(2.0), 6: torch.zeros(0), 7: whole}
    back = sent(answers)
    assert back.keys() == answers.keys()
    assert all(
        back[key].shape == each.shape and torch.equal(back[key], each) for key, each in answers.items()
    )


def test_a_transport_that_keeps_function_and_arguments_together_gets_the_same() -> None:
    """Ray registers a serialiser and its inverse per type, and pickles what the serialiser returns."""
    share = plan_shares([sample(2), sample(3)], BatchLimits(9, 8), 1)[0]
    reduced = pickle.loads(pickle.dumps(REDUCERS[Share](share), protocol=5))
    for one, other in zip(rebuild(reduced).samples, share.samples, strict=True):  # type: ignore[attr-defined]
        assert_same(one, other)


def test_whole_weights_are_buffers_in_any_number_format() -> None:
    """As they are sent to workers that only generate; transposed ones too."""
    weights = [
        ("a", torch.randn(3, 5).to(torch.bfloat16)),
        ("b", torch.randn(4, 2).to(torch.bfloat16).T),
        ("c", torch.tensor(2.5, dtype=torch.bfloat16)),
        ("d", torch.randn(2, 2)),
    ]
    body, buffers = dumps(weights)
    assert [buffer.raw().nbytes for buffer in buffers] == [30, 16, 2, 16]
    assert len(body) < 600
    for (name, tensor), (given, expected) in zip(sent(weights), weights, strict=True):
        assert (name, tensor.dtype, tensor.shape) == (given, expected.dtype, expected.shape)
        assert torch.equal(tensor, expected)
