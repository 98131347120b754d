"""Logprobs of a vocabulary divided among ranks against those of the whole, with their gradients."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from reasoner_rl.training.megatron.vocab import vocab_parallel_logprobs

TOKENS, VOCABULARY, TEMPERATURE = 11, 10, 0.7


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(TOKENS, VOCABULARY, generator=generator)
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    return logits, targets, torch.randn(TOKENS, generator=generator), torch.randn(TOKENS, generator=generator)


def expected() -> tuple[Tensor, Tensor, Tensor]:
    """Logprobs, entropy, and the gradient of a weighted sum of both, by PyTorch."""
    logits, targets, for_logprobs, for_entropy = problem()
    logits.requires_grad_()
    log_probabilities = (logits / TEMPERATURE).log_softmax(-1)
    logprobs = log_probabilities.gather(1, targets[:, None])[:, 0]
    entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
    (logprobs * for_logprobs + entropy * for_entropy).sum().backward()
    assert logits.grad is not None
    return logprobs.detach(), entropy.detach(), logits.grad


@pytest.mark.parametrize(
    ("ranks", "padded"), [(1, 10), (1, 16), (2, 10), (2, 32)], ids=["one", "padded", "two", "one-all-padding"]
)
def test_the_parts_give_what_the_whole_gives(ranks: int, padded: int, tmp_path: Path) -> None:
    spawn(compute, (ranks, padded, tmp_path), nprocs=ranks)
    logprobs, entropy, gradient = expected()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(ranks)]
    for rank in found:
        torch.testing.assert_close(rank["logprobs"], logprobs)
        torch.testing.assert_close(rank["entropy"], entropy)
    whole = torch.cat([rank["gradient"] for rank in found], dim=1)
    torch.testing.assert_close(whole[:, :VOCABULARY], gradient)
    assert not whole[:, VOCABULARY:].any(), "padding has no probability, and no gradient"


def compute(rank: int, ranks: int, padded: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    logits, targets, for_logprobs, for_entropy = problem()
    whole = torch.cat([logits, torch.full((TOKENS, padded - VOCABULARY), 50.0)], dim=1)
    mine = whole.chunk(ranks, dim=1)[rank].clone().requires_grad_()
    outputs = vocab_parallel_logprobs(
        mine, targets, dist.group.WORLD, vocabulary=VOCABULARY, temperature=TEMPERATURE, chunk_tokens=4
    )
    (outputs.logprobs * for_logprobs + outputs.entropy * for_entropy).sum().backward()
    torch.save(
        {"logprobs": outputs.logprobs.detach(), "entropy": outputs.entropy.detach(), "gradient": mine.grad},
        folder / f"{rank}.pt",
    )
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # past the interpreter's own end, where threads of gloo were once seen to abort
