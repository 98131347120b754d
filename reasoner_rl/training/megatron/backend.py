"""Training with Megatron-core: tensor, pipeline and data parallelism, on one rank or many.

The same numbers as `FsdpBackend`: tests compare both with plain transformers. Weights are in ``model.dtype``; in
bfloat16 the optimizer keeps float32 copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from torch import Tensor

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.training import MegatronBackendConfig, TrainingConfig
from reasoner_rl.metrics import Metrics, mean, merge
from reasoner_rl.training.backend import Head, LossFunction, require_head, require_optimizer
from reasoner_rl.training.device import CopyStream
from reasoner_rl.training.export import write_checkpoint
from reasoner_rl.training.gather import Transfer
from reasoner_rl.training.megatron import model as parts
from reasoner_rl.training.megatron.divide import load_whole
from reasoner_rl.training.megatron.files import describe, is_of_layout, read_layout, read_rank, write_layout
from reasoner_rl.training.megatron.layer_choice import Layers
from reasoner_rl.training.megatron.offload import Offload, gradient_buffers
from reasoner_rl.training.megatron.schedule import run
from reasoner_rl.training.megatron.stepped import inner_optimizers, stepped_tensors, stretches_of
from reasoner_rl.training.megatron.stream import stream_in_buckets
from reasoner_rl.training.optimizer import learning_rate_factor, move_state
from reasoner_rl.training.saved import open_checkpoint, saved_by
from reasoner_rl.training.whole import restore_random_state, told_of_division
from reasoner_rl.types import MicroBatch, MiniBatch


class MegatronBackend:
    """A TrainBackend on Megatron-core. Needs an initialised process group; all ranks build it together."""

    def __init__(
        self,
        model: ModelConfig,
        training: TrainingConfig,
        backend: MegatronBackendConfig,
        *,
        layers: Layers,
        device: torch.device,
        temperature: float,
        total_updates: int,
        updates_per_step: int,
        frozen: bool = False,
        head: Head = "policy",
        unused_ids: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        """Load the checkpoint ``model.path`` and divide it; see FsdpBackend for the other arguments.

        layers: what `settle_layers` chose, before this module was imported.
        """
        parts.initialise(backend, seed)
        self.device = device
        self._model_config, self._training, self._backend = model, training, backend
        self._temperature, self._head, self._layers = temperature, head, layers
        self._unused_ids = torch.tensor(unused_ids, dtype=torch.int64, device=device)
        self._total_updates = total_updates
        self._warmup = training.schedule.warmup_steps * updates_per_step
        self._updates = 0
        self._bridge = parts.build_bridge(model, backend, layers, head)
        needs_head = head == "score" and frozen
        bare = parts.build_model(self._bridge, model.path, model.dtype, head, needs_head=needs_head)
        self._trained = not frozen
        self._copies = CopyStream(device)
        self._offloaded, self._offloaded_gradients = Offload(), Offload(keep=False)
        if frozen:
            self._models = bare
            return
        self._models = parts.wrap_for_training(self._bridge, bare, backend)
        self._optimizer = get_megatron_optimizer(
            _optimizer_config(training, backend, model.dtype), self._models
        )
        self._master_copies = _master_copies(self._optimizer, self._models)

    @torch.no_grad()
    def logprobs(
        self,
        micro_batches: Sequence[MicroBatch],
        *,
        temperature: float | None = None,
        adapters: bool = True,
    ) -> list[Tensor]:
        """See TrainBackend. There are no adapters."""
        del adapters
        require_head(self._head, "logprobs", of_policy=True)
        outputs = self._forward(self._models, micro_batches, temperature)
        return self._on_all_stages([output.logprobs for output in outputs], micro_batches)

    @torch.no_grad()
    def entropies(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """See TrainBackend."""
        require_head(self._head, "entropies", of_policy=True)
        outputs = self._forward(self._models, micro_batches)
        return self._on_all_stages([output.entropy for output in outputs], micro_batches)

    @torch.no_grad()
    def values(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """See TrainBackend."""
        require_head(self._head, "values", of_policy=False)
        outputs = self._forward(self._models, micro_batches)
        return self._on_all_stages([output.values for output in outputs], micro_batches)

    def _forward(
        self, models: Sequence[Any], batches: Sequence[MicroBatch], temperature: float | None = None
    ) -> list[Any]:
        for chunk in models:
            chunk.eval()
        return self._run(models, batches, None, temperature)

    def _on_all_stages(self, found: list[Tensor], batches: Sequence[MicroBatch]) -> list[Tensor]:
        """What the last stage found for each batch, [N] float32; the others found nothing."""
        found = found or [torch.empty(len(batch.targets), device=self.device) for batch in batches]
        parts.broadcast_from_last_stage(found)
        return [tensor.cpu() for tensor in found]

    def update(self, mini_batch: MiniBatch, loss: LossFunction) -> Metrics:
        """See TrainBackend. Metrics of the loss come from one rank of each data-parallel replica."""
        require_optimizer(self._trained, "update")
        for chunk in self._models:
            chunk.train()
            chunk.zero_grad_buffer()
        self._optimizer.zero_grad()
        reports = self._run(self._models, mini_batch.micro_batches, loss)
        rate = self._set_rates()
        self._copies.wait()  # the optimizer's state may still be on its way back
        self._optimizer.prepare_grads()
        norm = float(self._optimizer.get_grad_norm())
        if not torch.isfinite(torch.tensor(norm)):
            raise FloatingPointError(f"the gradient norm is {norm}; the update was not made")
        self._optimizer.step()
        self._updates += 1
        shared: Metrics = {"train/grad_norm": mean(norm), "train/lr": mean(rate)}
        return merge([*reports, shared]) if parts.reports_metrics() else shared

    def _run(
        self,
        models: Sequence[Any],
        batches: Sequence[MicroBatch],
        loss: LossFunction | None,
        temperature: float | None = None,
    ) -> list[Any]:
        return run(
            models,
            [batch.to(self.device) for batch in batches],
            vocabulary=self._bridge.vocab_size,
            unused_ids=self._unused_ids,
            temperature=self._temperature if temperature is None else temperature,
            chunk_tokens=self._training.logprob_chunk_tokens,
            objective=loss,
            head=self._head,
        )

    def _set_rates(self) -> float:
        """Set this update's learning rate; norms and biases, which Megatron marks by a multiplier, do not decay."""
        optimizer, schedule = self._training.optimizer, self._training.schedule
        factor = learning_rate_factor(schedule, self._updates, self._warmup, self._total_updates)
        for group in self._optimizer.param_groups:
            group["lr"] = optimizer.lr * factor
            group["weight_decay"] = optimizer.weight_decay * group.get("wd_mult", 1.0)
        return optimizer.lr * factor

    @torch.no_grad()
    def full_weights(self, transfer: Transfer | None = None) -> Iterator[tuple[str, Tensor]]:
        """See TrainBackend. Tied tensors appear once."""
        if transfer is None:
            yield from parts.stream_weights(self._bridge, self._models)
        else:
            yield from stream_in_buckets(self._bridge, self._models, transfer, self.device)

    @torch.no_grad()
    def host_shards(self) -> list[Tensor]:
        """See TrainBackend."""
        return [
            parameter.detach().to("cpu", copy=True)
            for chunk in self._models
            for parameter in chunk.parameters()
        ]

    @torch.no_grad()
    def set_shards(self, shards: Sequence[Tensor]) -> None:
        """See TrainBackend."""
        own = [parameter for chunk in self._models for parameter in chunk.parameters()]
        for parameter, shard in zip(own, shards, strict=True):
            parameter.copy_(shard)

    def offload_optimizer(self) -> None:
        """See TrainBackend. In bfloat16 that includes the float32 copies of the weights. Gradients are dropped."""
        if not self._trained:
            return
        self._move_optimizer(torch.device("cpu"))
        self._copies.finish()
        self._offloaded_gradients.move(gradient_buffers(self._models))
        self._release()

    def offload_weights(self) -> None:
        """See TrainBackend."""
        self._offloaded.move(tensor for chunk in self._models for tensor in chunk.parameters())
        self._release()

    def reload(self) -> None:
        """See TrainBackend. The optimizer's state comes while the next passes compute."""
        self._offloaded.bring_back()
        self._offloaded_gradients.bring_back()
        if self._trained:
            self._move_optimizer(self.device)

    def _move_optimizer(self, device: torch.device) -> None:
        for inner in inner_optimizers(self._optimizer):
            move_state(inner, device, self._copies)
        for copy in self._master_copies:
            copy.data = self._copies.move(copy.data, device)

    def _release(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # copies to the host have arrived
            torch.cuda.empty_cache()

    def save(self, folder: Path) -> None:
        """See TrainBackend. One file per rank, of what the rank has."""
        weights = {"models": [_own_state(chunk) for chunk in self._models]}
        state = weights | (self._training_state() if self._trained else {})
        torch.save(state, folder / f"rank_{dist.get_rank()}.pt")
        if dist.get_rank() == 0:
            write_layout(folder, self._layout())
        dist.barrier()

    def _training_state(self) -> dict[str, Any]:
        """Tensors, numbers and text alone, so that reading them executes nothing."""
        self._copies.wait()
        stretches = stretches_of(self._optimizer, self._models)
        return {
            "updates": self._updates,
            "optimizers": [
                {
                    "state": inner.state_dict(),
                    # Detached, or what Megatron attaches to parameters, gradients among it, would be saved too.
                    "main": [[p.detach() for p in group["params"]] for group in inner.param_groups],
                }
                for inner in inner_optimizers(self._optimizer)
            ],
            "stretches": [[astuple(stretch) for stretch in each] for each in stretches],
            "rng": torch.get_rng_state(),
            "device_rng": {
                "own": torch.cuda.get_rng_state(),
                "megatron": get_cuda_rng_tracker().get_states(),
            },
        }

    @torch.no_grad()
    def load(self, folder: Path) -> str | None:
        """See TrainBackend. Of another layout, or of another backend, it is read by whole tensors."""
        if saved_by(folder) == "megatron" and is_of_layout(read_layout(folder), self._layout()):
            self._load_own(folder)
            return None
        source = open_checkpoint(folder, self._model_config, self._head)
        if self._trained:
            self._copies.wait()
        load_whole(self._bridge, self._models, self._optimizer if self._trained else None, source, folder)
        if self._trained:
            self._updates = source.updates
            restore_random_state(folder)
        return told_of_division(source, describe(self._layout()))

    def _load_own(self, folder: Path) -> None:
        """Restore what this rank has saved itself."""
        # On the CPU, beside which the device need not hold the state twice.
        state = read_rank(folder, dist.get_rank(), mmap=False)
        for chunk, saved in zip(self._models, state["models"], strict=True):
            chunk.load_state_dict(saved, strict=False)
        if not self._trained:
            return
        self._copies.wait()
        inners = inner_optimizers(self._optimizer)
        for inner, saved in zip(inners, state["optimizers"], strict=True):
            inner.load_state_dict(saved["state"])
            for group, values in zip(inner.param_groups, saved["main"], strict=True):
                for parameter, value in zip(group["params"], values, strict=True):
                    parameter.copy_(value)
        self._updates = state["updates"]
        if generators := state.get("device_rng"):  # which checkpoints of earlier versions do not have
            torch.cuda.set_rng_state(generators["own"])
            get_cuda_rng_tracker().set_states(generators["megatron"])
        torch.set_rng_state(state["rng"])

    def _layout(self) -> dict[str, int | bool | str]:
        backend = self._backend
        return {
            "workers": dist.get_world_size(),
            "tensor_parallel": backend.tensor_parallel,
            "pipeline_parallel": backend.pipeline_parallel,
            "virtual_stages": backend.virtual_stages,
            "context_parallel": backend.context_parallel,
            "expert_parallel": backend.expert_parallel,
            "distributed_optimizer": backend.distributed_optimizer,
            "head": self._head,
            "layers": self._layers,
            "vocabulary_multiple": backend.vocabulary_multiple,
        }

    def export_hf(self, folder: Path) -> None:
        """See TrainBackend. Written by rank 0; every rank must call it."""
        write_checkpoint(folder, self._model_config, self.full_weights(), self._head)


def _optimizer_config(
    training: TrainingConfig, backend: MegatronBackendConfig, dtype: str
) -> MegatronOptimizerConfig:
    optimizer = training.optimizer
    return MegatronOptimizerConfig(
        optimizer="adam",
        lr=optimizer.lr,
        weight_decay=optimizer.weight_decay,
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        adam_eps=optimizer.eps,
        clip_grad=optimizer.grad_clip or 0.0,
        bf16=dtype == "bfloat16",
        params_dtype=getattr(torch, dtype),
        use_distributed_optimizer=backend.distributed_optimizer,
    )


def _master_copies(optimizer: Any, models: Sequence[Any]) -> list[Tensor]:
    """What the optimizer steps without its being weights, or views of weights: float32 copies of those in bfloat16."""
    weights = {p.untyped_storage().data_ptr() for chunk in models for p in chunk.parameters()}
    stepped = [tensor for inner in inner_optimizers(optimizer) for tensor in stepped_tensors(inner)]
    return [tensor for tensor in stepped if tensor.untyped_storage().data_ptr() not in weights]


def _own_state(chunk: Any) -> dict[str, Any]:
    """Weights and buffers, without the empty records that TransformerEngine's layers add."""
    return {name: value for name, value in chunk.state_dict().items() if "_extra_state" not in name}
