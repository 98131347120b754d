"""What every training backend can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from reasoner_rl.metrics import Metrics
from reasoner_rl.training.gather import Transfer
from reasoner_rl.types import MicroBatch, MiniBatch, TokenOutputs, ValueOutputs

# What stands on the decoder: the output embedding of a policy, a critic's linear map to one value, or a reward model's
# to one score. The last two differ in nothing but the checkpoints that they are read from and written as.
Head = Literal["policy", "value", "score"]

# (what the model says, the micro-batch) -> (scalar loss, metrics), of a policy and of a critic. The loss is already
# divided by the global denominators of the mini-batch, so gradients of micro-batches and ranks are summed, never
# averaged.
PolicyLossFunction = Callable[[TokenOutputs, MicroBatch], tuple[Tensor, Metrics]]
ValueLossFunction = Callable[[ValueOutputs, MicroBatch], tuple[Tensor, Metrics]]
LossFunction = PolicyLossFunction | ValueLossFunction


def path_key(head: Head) -> str:
    """The key that a message names for the checkpoint of a model with this head."""
    return {
        "policy": "model.path",
        "value": "critic.path (model.path where it is unset)",
        "score": "reward_model.path (model.path in a recipe of kind reward_model)",
    }[head]


def require_optimizer(trained: bool, what: str) -> None:
    """Raise RuntimeError if the model is frozen and ``what`` is of one that is trained."""
    if not trained:
        raise RuntimeError(f"{what} needs a model that is trained, and this one was built frozen")


def require_head(held: Head, what: str, *, of_policy: bool) -> None:
    """Raise RuntimeError if the backend holds another model than ``what`` is of: a policy, or one with a value."""
    if (held == "policy") != of_policy:
        needed = "policy" if of_policy else "value"
        raise RuntimeError(f"{what} needs a backend with a {needed} head, and this one has a {held} head")


class TrainBackend(Protocol):
    """Holds the weights of one model, a policy, a critic or a reward model, and updates them, unless it is frozen.

    A reward model is used as a critic is: where this says critic, either is meant.

    A frozen model, such as a reference policy, has no optimizer: `update` raises RuntimeError, and `save` and `load`
    are of the weights alone.
    """

    @property
    def device(self) -> torch.device:
        """Where micro-batches must be."""
        ...

    def logprobs(
        self,
        micro_batches: Sequence[MicroBatch],
        *,
        temperature: float | None = None,
        adapters: bool = True,
    ) -> list[Tensor]:
        """Return each micro-batch's response logprobs [N] float32, without gradient.

        temperature: another than that of the sampling.
        adapters: False leaves LoRA's adapters out, so that the model is the one it was at the start.
        Raises RuntimeError if it is a critic that is held.
        """
        ...

    def entropies(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Return each micro-batch's entropies [N] float32 of the distributions over response tokens, in nats.

        Without gradient, at the temperature of the sampling. Raises RuntimeError if it is a critic that is held.
        """
        ...

    def values(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Return each micro-batch's values [N] float32 of the states before the response tokens, without gradient.

        Raises RuntimeError if it is a policy that is held.
        """
        ...

    def update(self, mini_batch: MiniBatch, loss: LossFunction) -> Metrics:
        """Sum gradients over the micro-batches, clip, make one optimizer step and one schedule step.

        ``loss``: of `TokenOutputs` for a policy, of `ValueOutputs` for a critic.
        Returns the loss's metrics with ``train/grad_norm`` (before clipping) and ``train/lr``.
        """
        ...

    def full_weights(self, transfer: Transfer | None = None) -> Iterator[tuple[str, Tensor]]:
        """Stream full tensors under the names of a Hugging Face checkpoint. Collective: every rank must exhaust it.

        transfer: gather in buckets and in the number format of a rollout engine; unless given, tensor by tensor in the
            format that they are held in. A reader in that format gets the same numbers, to the bit; the order differs.
        """
        ...

    def host_shards(self) -> list[Tensor]:
        """Copies of this rank's part of the weights in host memory, in an order that equal models have in common."""
        ...

    def set_shards(self, shards: Sequence[Tensor]) -> None:
        """Take over the `host_shards` of a model of the same architecture and layout."""
        ...

    def offload_optimizer(self) -> None:
        """Move the optimizer's state to host memory. On a CPU there is nothing to move."""
        ...

    def offload_weights(self) -> None:
        """Move the weights to host memory."""
        ...

    def reload(self) -> None:
        """Bring back what was moved to host memory."""
        ...

    def save(self, folder: Path) -> None:
        """Write model and, if it is trained, optimizer, schedule and random state into an existing folder."""
        ...

    def load(self, folder: Path) -> str | None:
        """Restore what `save` wrote; training then continues bit for bit on the same machine and layout.

        What another backend wrote, or Megatron on another layout, is read by whole tensors: weights and the optimizer's
        state are the same to the bit, divided anew. Then what to tell of it is returned. Random states of GPUs begin
        anew. Raises ConfigError or UserError where that cannot be done.
        """
        ...

    def export_hf(self, folder: Path) -> None:
        """Write a checkpoint that transformers loads: a causal language model, which vLLM loads too, or a critic."""
        ...
