"""Proof, after every weight sync, that generation uses the trained weights: a wrong sync is a silent one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.metrics import Metrics, maximum
from reasoner_rl.rollout.engine import RolloutEngine
from reasoner_rl.training.backend import TrainBackend
from reasoner_rl.types import MicroBatch, TrainSample

SyncCheckKind = Literal["logprobs", "tensors", "none"]

# Sums, and words that every tokenizer knows: any weight that is wrong moves some of their logprobs.
TEXT = "The quick brown fox jumps over the lazy dog. Compute 3+5-7 and 12*11: 3+5=8, 8-7=1, 12*11=132. Answer: 132"
NAMED = 10  # tensors named in an error

# In bfloat16 the gap between two engines with equal weights depends on the model, so it is measured at a run's first
# sync: that gap may be FIRST_LIMIT at most, and later ones FACTOR times it, or FLOOR where that is more.
FIRST_LIMIT, FACTOR, FLOOR = 0.5, 4.0, 0.02


class WeightSyncError(RuntimeError):
    """The rollout engine does not have the trainer's weights."""


class WeightSource(Protocol):
    """Has weights as they were trained: a backend, or what was sent by one."""

    def full_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Full tensors under their Hugging Face names."""
        ...


class SyncCheck:
    """Compares the two engines.

    Args:
        check: "logprobs": both score a fixed text, a forward pass of some dozen tokens. "tensors": every tensor is
            compared to the bit. "none": nothing is.
        token_ids: the fixed text, at least two tokens.
        tolerance: largest mean gap of the text's logprobs, in nats. None: learned from the first sync, as described at
            `FIRST_LIMIT`.
    """

    def __init__(self, check: SyncCheckKind, token_ids: Sequence[int], tolerance: float | None) -> None:
        self._check, self._token_ids = check, list(token_ids)
        self._limit = FIRST_LIMIT if tolerance is None else tolerance
        self._rule = "rollout.sync_tolerance"
        if tolerance is None:
            self._rule = f"the limit of a first sync; set {self._rule} for another limit"
        self._learns = tolerance is None
        self._gap: float | None = None

    def expected(self, backend: TrainBackend) -> list[float]:
        """The fixed text's logprobs by the trainer. Collective: every rank must call it.

        Raises FloatingPointError if they are NaN: then it is training that went wrong, not the sync.
        """
        if self._check != "logprobs":
            return []
        [logprobs] = backend.logprobs([as_micro_batch(self._token_ids)], temperature=1.0)
        if logprobs.isnan().any():
            raise FloatingPointError("the model's probabilities are NaN: its weights or activations overflow")
        scores: list[float] = logprobs.tolist()
        return scores

    def compare_scores(self, expected: Sequence[float], rollout: RolloutEngine) -> None:
        """Raise WeightSyncError unless the rollout engine gives the fixed text the ``expected`` logprobs."""
        if self._check != "logprobs":
            return
        scored = rollout.score(self._token_ids)
        self._gap = fmean(abs(a - b) for a, b in zip(scored, expected, strict=True))
        if not self._gap <= self._limit:  # NaN is no agreement either
            raise WeightSyncError(
                f"after the weight sync the logprobs of a fixed text differ by {self._gap:.3g} nats on average between "
                f"trainer and rollout engine; at most {self._limit:.3g} is rounding ({self._rule})"
            )
        if self._learns:
            self._limit, self._learns = max(FLOOR, FACTOR * self._gap), False
            self._rule = (
                f"{FACTOR:g} times the {self._gap:.3g} nats of this run's first sync, and at least {FLOOR:g}; "
                "set rollout.sync_tolerance for another limit"
            )

    def compare_tensors(self, backend: WeightSource, rollout: RolloutEngine) -> None:
        """Raise WeightSyncError naming the tensors that differ, if tensors are to be compared. Collective."""
        if self._check == "tensors" and (names := rollout.differing_tensors(backend.full_weights())):
            raise WeightSyncError(f"after the weight sync these tensors differ: {_listed(names)}")

    def differing_tensors(self, backend: WeightSource, rollout: RolloutEngine) -> str:
        """Say which tensors differ, found by a second sync. Collective."""
        if names := rollout.differing_tensors(backend.full_weights()):
            return f"these tensors differ: {_listed(names)}"
        return "no tensor differs, so the two engines compute differently with the same weights"

    def metrics(self) -> Metrics:
        """``sync/check_gap``, the mean gap, and ``sync/check_limit``, what it may be; both in nats, if measured."""
        if self._gap is None:
            return {}
        return {"sync/check_gap": maximum(self._gap), "sync/check_limit": maximum(self._limit)}


def any_rank(flag: bool) -> bool:
    """Whether ``flag`` holds on any rank. Collective."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return flag
    flags: list[bool] = [False] * dist.get_world_size()
    dist.all_gather_object(flags, flag)
    return any(flags)


def check_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The fixed text in a model's tokens."""
    ids: list[int] = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    return ids


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def as_micro_batch(token_ids: Sequence[int]) -> MicroBatch:
    """The first token as the prompt, all others as the response."""
    response = torch.tensor(token_ids[1:], dtype=torch.int64)
    sample = TrainSample(
        prompt_ids=torch.tensor(token_ids[:1], dtype=torch.int64),
        response_ids=response,
        loss_mask=torch.ones(len(response), dtype=torch.bool),
        advantages=torch.zeros(len(response)),
        rollout_logprobs=torch.zeros(len(response)),
    )
    [micro_batch] = plan_mini_batch([sample], len(token_ids), len(response)).micro_batches
    return micro_batch
