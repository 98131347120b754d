"""Micro-batches through Megatron's pipeline schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from reasoner_rl.training.backend import Head
from reasoner_rl.training.megatron.share import Share, assemble, share_of
from reasoner_rl.training.megatron.value import value_outputs
from reasoner_rl.training.megatron.vocab import vocab_parallel_logprobs
from reasoner_rl.types import MicroBatch, TokenOutputs

# What is made of a micro-batch's outputs on the last stage: the part of the loss to be differentiated, and a report.
Objective = Callable[[Any, MicroBatch], tuple[Tensor, Any]]


def run(
    models: Sequence[Any],
    batches: Sequence[MicroBatch],
    *,
    vocabulary: int,
    unused_ids: Tensor,
    temperature: float,
    chunk_tokens: int,
    objective: Objective | None,
    head: Head = "policy",
) -> list[Any]:
    """Forward, and backward if there is an objective. Returns a report a batch, on the last stage; else nothing.

    vocabulary, unused_ids: which columns of the logits have a probability; see `vocab_parallel_logprobs`.
    Without an objective the report is the `TokenOutputs` or, of a critic, the `ValueOutputs`. Gradients add up over
    micro-batches and data-parallel ranks.
    """
    outputs_of: Callable[[Tensor, MicroBatch, Share], Any] = value_outputs
    if head == "policy":
        outputs_of = partial(
            _outputs,
            vocabulary=vocabulary,
            unused_ids=unused_ids,
            temperature=temperature,
            chunk_tokens=chunk_tokens,
        )
    passed = _fill_up(batches) if len(models) > 1 else batches
    # Logits in bfloat16 stay so, and are read in float32 a chunk of tokens at a time.
    options = {"fp32_output": False} if models[0].config.bf16 else {}
    # Megatron takes means over micro-batches and data-parallel ranks, and our losses are sums.
    scale = len(passed) * parallel_state.get_data_parallel_world_size()

    def finish(logits: Tensor, batch: MicroBatch, share: Share, non_loss_data: bool = False) -> Any:
        outputs = outputs_of(logits, batch, share)
        if objective is None:
            return outputs
        value, report = objective(outputs, batch)
        return value * scale, report

    def step(iterator: Iterator[MicroBatch], model: Any) -> tuple[Tensor, Callable[..., Any]]:
        batch = next(iterator)
        share = share_of(batch)
        output = model(share.input_ids, share.position_ids, None, packed_seq_params=share.packed, **options)
        return output, partial(finish, batch=batch, share=share)

    reports: list[Any] = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=[iter(passed) for _ in models] if len(models) > 1 else iter(passed),
        model=list(models),
        num_microbatches=len(passed),
        seq_length=max(len(batch.input_ids) for batch in passed),  # of no effect: lengths vary
        micro_batch_size=1,
        forward_only=objective is None,
        collect_non_loss_data=objective is None,
    )
    return reports[: len(batches)]


def _outputs(logits: Tensor, batch: MicroBatch, share: Share, **options: Any) -> TokenOutputs:
    """``options`` of `vocab_parallel_logprobs`."""
    own = vocab_parallel_logprobs(
        logits[0].index_select(0, share.predictors),
        batch.targets[share.predicted],
        parallel_state.get_tensor_model_parallel_group(),
        **options,
    )
    return TokenOutputs(*(assemble(values, share, len(batch.targets)) for values in own))


def _fill_up(batches: Sequence[MicroBatch]) -> list[MicroBatch]:
    """Add micro-batches of which nothing is trained: interleaved stages need a multiple of their number."""
    missing = -len(batches) % parallel_state.get_pipeline_model_parallel_world_size()
    shortest = min(batches, key=lambda batch: len(batch.input_ids))
    idle = dataclasses.replace(shortest, loss_mask=torch.zeros_like(shortest.loss_mask))
    return [*batches, *[idle] * missing]
