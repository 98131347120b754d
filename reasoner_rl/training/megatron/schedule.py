"""Micro-batches through Megatron's pipeline schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from reasoner_rl.training.megatron.vocab import vocab_parallel_logprobs
from reasoner_rl.types import MicroBatch, TokenOutputs

# What is made of a micro-batch's outputs on the last stage: the part of the loss to be differentiated, and a report.
Objective = Callable[[TokenOutputs, MicroBatch], tuple[Tensor, Any]]


def run(
    models: Sequence[Any],
    batches: Sequence[MicroBatch],
    *,
    vocabulary: int,
    temperature: float,
    chunk_tokens: int,
    objective: Objective | None,
) -> list[Any]:
    """Forward, and backward if there is an objective. Returns a report a batch, on the last stage; else nothing.

    Without an objective the report is the `TokenOutputs`. Gradients add up over micro-batches and data-parallel ranks.
    """
    outputs_of = partial(_outputs, vocabulary=vocabulary, temperature=temperature, chunk_tokens=chunk_tokens)
    # Megatron takes means over micro-batches and data-parallel ranks, and our losses are sums.
    scale = len(batches) * parallel_state.get_data_parallel_world_size()

    def finish(logits: Tensor, batch: MicroBatch, non_loss_data: bool = False) -> Any:
        outputs = outputs_of(logits, batch)
        if objective is None:
            return outputs
        value, report = objective(outputs, batch)
        return value * scale, report

    def step(iterator: Iterator[MicroBatch], model: Any) -> tuple[Tensor, Callable[..., Any]]:
        batch = next(iterator)
        ids, positions, packed = _pack(batch)
        return model(ids, positions, None, packed_seq_params=packed), partial(finish, batch=batch)

    reports: list[Any] = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iter(batches),
        model=list(models),
        num_microbatches=len(batches),
        seq_length=max(len(batch.input_ids) for batch in batches),  # of no effect: lengths vary
        micro_batch_size=1,
        forward_only=objective is None,
        collect_non_loss_data=objective is None,
    )
    return reports


def _outputs(
    logits: Tensor, batch: MicroBatch, *, vocabulary: int, temperature: float, chunk_tokens: int
) -> TokenOutputs:
    return vocab_parallel_logprobs(
        logits[0].index_select(0, batch.predictors),
        batch.targets,
        parallel_state.get_tensor_model_parallel_group(),
        vocabulary=vocabulary,
        temperature=temperature,
        chunk_tokens=chunk_tokens,
    )


def _pack(batch: MicroBatch) -> tuple[Tensor, Tensor, PackedSeqParams]:
    """Token and position ids [1, T], with one more sequence at the end that makes T a multiple of the ranks.

    Sequence parallelism gives each tensor-parallel rank as many tokens as any other.
    """
    padding = -len(batch.input_ids) % parallel_state.get_tensor_model_parallel_world_size()
    bounds, longest = batch.cu_seqlens, batch.max_seqlen
    ids, positions = F.pad(batch.input_ids, (0, padding)), batch.position_ids
    if padding:
        positions = torch.cat([positions, torch.arange(padding, device=positions.device)])
        bounds = torch.cat([bounds, bounds[-1:] + padding])
        longest = max(longest, padding)
    packed = PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )
    return ids[None], positions[None], packed
