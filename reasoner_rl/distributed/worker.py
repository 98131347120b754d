"""What one process of a run does. The driver talks to workers only through these methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from reasoner_rl.batching.plan import Share
from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.hybrid.engine import HybridEngine
from reasoner_rl.hybrid.layers import PartGap
from reasoner_rl.hybrid.streaming import Bucket, ReceivedWeights, SentWeights
from reasoner_rl.metrics import Metrics, merge
from reasoner_rl.observability.measurements import memory_metrics
from reasoner_rl.rollout.engine import GenerationRequest, StepOutput
from reasoner_rl.training.backend import LossFunction
from reasoner_rl.training.checkpoint import reading
from reasoner_rl.types import MicroBatch, Role


class Worker:
    """One rank: its part of a hybrid engine, which is built by `reasoner_rl.distributed.building`.

    losses: what each model that is trained minimises.
    saves_reference: the reference changes, and is in checkpoints.
    reference_is_base: the reference is the policy without its adapters, and no model of its own.
    product: the model whose weights are exported.
    """

    def __init__(
        self,
        engine: HybridEngine,
        tokenizer: PreTrainedTokenizerBase,
        losses: Mapping[Role, LossFunction],
        *,
        reference_is_base: bool = False,
        saves_reference: bool = False,
        product: Role = "policy",
    ) -> None:
        self._engine, self._tokenizer, self._losses = engine, tokenizer, losses
        self._reference_is_base, self._product = reference_is_base, product
        self._saved: list[Role] = [*losses, *(["reference"] if saves_reference else [])]  # type: ignore[list-item]

    def generate(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> StepOutput:
        """Take on requests, and generate until one is finished or for as long as `Generator.step` does."""
        if requests:
            self._engine.submit(requests, sampling)
        return self._engine.step()

    def cancel(self) -> None:
        """Drop everything that is in flight."""
        self._engine.cancel()

    def interrupt(self) -> StepOutput:
        """Stop everything that is in flight, and return what there is of it."""
        return self._engine.interrupt()

    def logprobs(self, role: Role, share: Share) -> dict[int, Tensor]:
        """Response logprobs [R] by sample index, of the policy or the reference; ends the generate phase."""
        batches = share.pack().micro_batches
        if role == "reference" and self._reference_is_base:
            found = self._engine.take_turn("policy").logprobs(batches, adapters=False)
        else:
            found = self._engine.take_turn(role).logprobs(batches)
        return _by_sample(batches, found)

    def entropies(self, role: Role, share: Share) -> dict[int, Tensor]:
        """Entropies [R] over response tokens, by sample index, of the policy; ends the generate phase."""
        batches = share.pack().micro_batches
        return _by_sample(batches, self._engine.take_turn(role).entropies(batches))

    def values(self, role: Role, share: Share) -> dict[int, Tensor]:
        """Values [R] of the states before the response tokens, by sample index; ends the generate phase."""
        batches = share.pack().micro_batches
        return _by_sample(batches, self._engine.take_turn(role).values(batches))

    def update(
        self, role: Role, shares: Sequence[Share], epochs: int, examples: Sequence[Share] = ()
    ) -> Metrics:
        """One optimizer update per share, all of them once per epoch; ends the generate phase.

        examples: supervised ones, a share of them for every update of every epoch, or none.
        """
        model, loss = self._engine.take_turn(role), self._losses[role]
        mini_batches = [share.pack() for share in shares] * epochs
        if examples:
            pairs = zip(mini_batches, examples, strict=True)
            mini_batches = [batch.followed_by(share.pack()) for batch, share in pairs]
        updated = [model.update(batch, loss) for batch in mini_batches]
        return merge([*updated, memory_metrics()])

    def refresh_reference(self) -> None:
        """Make the reference what the policy is now; they need not be on the device together."""
        shards = self._engine.take_turn("policy").host_shards()
        self._engine.take_turn("reference").set_shards(shards)

    def publish(self, version: int) -> Metrics:
        """Give the policy's weights to generation; begins the generate phase. Returns what that cost."""
        return self._engine.publish(version)

    def send_weights(self, version: int, keep: Callable[[Bucket], Any]) -> tuple[SentWeights | None, Metrics]:
        """Hand the policy's weights to ``keep``, bucket by bucket, on rank 0; the other ranks help to gather them."""
        return self._engine.send_weights(version, keep if dist.get_rank() == 0 else None)

    def load_weights(self, weights: ReceivedWeights) -> Metrics:
        """Generate with weights that were sent from now on. Returns what that cost."""
        return self._engine.receive_weights(weights)

    def policy_hash(self) -> str:
        """What tells whether the policy's weights have changed by a bit; ends the generate phase."""
        return self._engine.policy_hash()

    def part_gaps(self, token_ids: Sequence[int]) -> list[PartGap]:
        """Where rollout engine and trainer part on these tokens; ends the generate phase."""
        return self._engine.part_gaps(token_ids)

    def save(self, folder: Path) -> None:
        """Write the state of every model that changes into a folder of its own below an existing ``folder``."""
        for role, model in self._engine.each_on_device(self._saved):
            (folder / role).mkdir(exist_ok=True)
            model.save(folder / role)

    def load(self, folder: Path) -> list[str]:
        """Restore what `save` wrote; weights must be published afterwards. Raises UserError if it cannot be read.

        Returns what to tell of it: which models' tensors were divided anew.
        """
        told = []
        with reading(folder):
            for role in self._saved:
                if role == "reference" and not (folder / role).is_dir():
                    continue  # made before the recipe asked for refreshing: it is the recipe's model
                if note := self._engine.take_turn(role).load(folder / role):
                    told.append(f"{role}: {note}")
        return told

    def export(self, folder: Path) -> None:
        """Write the weights that the run has made, and the tokenizer, as a Hugging Face checkpoint; rank 0 writes."""
        for _, model in self._engine.each_on_device([self._product]):
            model.export_hf(folder)
        if dist.get_rank() == 0:
            self._tokenizer.save_pretrained(folder)


def _by_sample(batches: Sequence[MicroBatch], found: Sequence[Tensor]) -> dict[int, Tensor]:
    by_index: dict[int, Tensor] = {}
    for batch, values in zip(batches, found, strict=True):
        by_index.update(batch.split_responses(values))
    return by_index
