"""Logprobs of a vocabulary divided among ranks against those of the whole, with their gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gloo_rank import gloo_rank
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from reasoner_rl.training.megatron.vocab import vocab_parallel_logprobs

TOKENS, VOCABULARY, TEMPERATURE = 11, 10, 0.7


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(TOKENS, VOCABULARY, generator=generator)
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    return logits, targets, torch.randn(TOKENS, generator=generator), torch.randn(TOKENS, generator=generator)


def unused_ids() -> Tensor:
    """Those that are no target: holes on every rank."""
    _, targets, _, _ = problem()
    unused = torch.tensor(sorted(set(range(VOCABULARY)) - set(targets.tolist())))
    assert len(unused[unused < 5])
    assert len(unused[unused >= 5])
    return unused


def expected(unused: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Logprobs, entropy, and the gradient of a weighted sum of both, by PyTorch."""
    logits, targets, for_logprobs, for_entropy = problem()
    logits.requires_grad_()
    kept = logits if unused is None else logits.index_fill(1, unused, -torch.inf)
    log_probabilities = (kept / TEMPERATURE).log_softmax(-1)
    logprobs = log_probabilities.gather(1, targets[:, None])[:, 0]
    terms = log_probabilities.exp() * log_probabilities.clamp(min=-1e9)
    entropy = -terms.sum(-1)
    (logprobs * for_logprobs + entropy * for_entropy).sum().backward()
    assert logits.grad is not None
    return logprobs.detach(), entropy.detach(), logits.grad


# Of the padded vocabulary, by the number of ranks. Of 32 the second rank has nothing but padding.
SIZES = {1: (10, 16), 2: (10, 32)}


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The folder with what so many ranks compute of all sizes in the same processes, which take long to start."""

    @cache
    def compute_on(ranks: int) -> Path:
        folder = tmp_path_factory.mktemp("vocabulary")
        spawn(compute_all, (ranks, folder), nprocs=ranks)
        return folder

    return compute_on


@pytest.mark.parametrize(
    ("ranks", "padded"),
    [(ranks, padded) for ranks, sizes in SIZES.items() for padded in sizes],
    ids=["one", "padded", "two", "one-all-padding"],
)
def test_the_parts_give_what_the_whole_gives(
    ranks: int, padded: int, computed: Callable[[int], Path]
) -> None:
    found = [torch.load(computed(ranks) / f"{padded}_{rank}.pt") for rank in range(ranks)]
    for key, unused in (("all", None), ("without unused", unused_ids())):
        logprobs, entropy, gradient = expected(unused)
        for rank in found:
            torch.testing.assert_close(rank[key]["logprobs"], logprobs)
            torch.testing.assert_close(rank[key]["entropy"], entropy)
        whole = torch.cat([rank[key]["gradient"] for rank in found], dim=1)
        torch.testing.assert_close(whole[:, :VOCABULARY], gradient)
        assert not whole[:, VOCABULARY:].any(), "padding has no probability, and no gradient"
        assert unused is None or not whole[:, unused].any(), "exactly zero"


def compute_all(rank: int, ranks: int, folder: Path) -> None:
    with gloo_rank(rank, ranks, folder):
        for padded in SIZES[ranks]:
            torch.save(compute(rank, ranks, padded), folder / f"{padded}_{rank}.pt")


def compute(rank: int, ranks: int, padded: int) -> dict[str, dict[str, Tensor]]:
    logits, targets, for_logprobs, for_entropy = problem()
    whole = torch.cat([logits, torch.full((TOKENS, padded - VOCABULARY), 50.0)], dim=1)
    found = {}
    for key, unused in (("all", None), ("without unused", unused_ids())):
        mine = whole.chunk(ranks, dim=1)[rank].clone().requires_grad_()
        outputs = vocab_parallel_logprobs(
            mine,
            targets,
            dist.group.WORLD,
            vocabulary=VOCABULARY,
            temperature=TEMPERATURE,
            chunk_tokens=4,
            unused_ids=unused,
        )
        (outputs.logprobs * for_logprobs + outputs.entropy * for_entropy).sum().backward()
        found[key] = {
            "logprobs": outputs.logprobs.detach(),
            "entropy": outputs.entropy.detach(),
            "gradient": mine.grad,
        }
    return found
