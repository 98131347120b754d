"""Training with Megatron-core: tensor, pipeline and data parallelism, on one rank or many.

The same numbers as `FsdpBackend`: tests compare both with plain transformers. Weights are in ``model.dtype``; in
bfloat16 the optimizer keeps float32 copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer
from torch import Tensor

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.training import MegatronBackendConfig, TrainingConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.metrics import Metrics, mean, merge
from reasoner_rl.training.backend import LossFunction
from reasoner_rl.training.export import write_checkpoint
from reasoner_rl.training.megatron import model as parts
from reasoner_rl.training.megatron.schedule import run
from reasoner_rl.training.optimizer import learning_rate_factor, move_state
from reasoner_rl.types import MicroBatch, MiniBatch


class MegatronBackend:
    """A TrainBackend on Megatron-core. Needs an initialised process group; all ranks build it together."""

    def __init__(
        self,
        model: ModelConfig,
        training: TrainingConfig,
        backend: MegatronBackendConfig,
        *,
        device: torch.device,
        temperature: float,
        total_updates: int,
        updates_per_step: int,
        with_reference: bool = False,
        seed: int = 0,
    ) -> None:
        """Load the checkpoint ``model.path`` and divide it; see FsdpBackend for the arguments."""
        parts.initialise(backend, seed)
        self.device = device
        self._model_config, self._training, self._backend = model, training, backend
        self._temperature = temperature
        self._total_updates = total_updates
        self._warmup = training.schedule.warmup_steps * updates_per_step
        self._updates = 0
        self._bridge = parts.build_bridge(model, backend)
        bare = parts.build_model(self._bridge, model.path, model.dtype)
        self._models = parts.wrap_for_training(self._bridge, bare, backend)
        self._reference: list[Any] | None = None
        if with_reference:
            self._reference = parts.build_model(parts.build_bridge(model, backend), model.path, model.dtype)
        self._optimizer = get_megatron_optimizer(
            _optimizer_config(training, backend, model.dtype), self._models
        )

    @torch.no_grad()
    def logprobs(
        self,
        micro_batches: Sequence[MicroBatch],
        *,
        reference: bool = False,
        temperature: float | None = None,
    ) -> list[Tensor]:
        """See TrainBackend. Raises RuntimeError if the reference policy was not asked for at construction."""
        models = self._reference if reference else self._models
        if models is None:
            raise RuntimeError("this backend was built without a reference policy")
        for chunk in models:
            chunk.eval()
        outputs = self._run(models, micro_batches, None, temperature)
        found = [output.logprobs for output in outputs] or [
            torch.empty(len(batch.targets), device=self.device) for batch in micro_batches
        ]
        parts.broadcast_from_last_stage(found)
        return [logprobs.cpu() for logprobs in found]

    def update(self, mini_batch: MiniBatch, loss: LossFunction) -> Metrics:
        """See TrainBackend. Metrics of the loss come from one rank of each data-parallel replica."""
        for chunk in self._models:
            chunk.train()
            chunk.zero_grad_buffer()
        self._optimizer.zero_grad()
        reports = self._run(self._models, mini_batch.micro_batches, loss)
        rate = self._set_rates()
        self._optimizer.prepare_grads()
        norm = float(self._optimizer.get_grad_norm())
        if not torch.isfinite(torch.tensor(norm)):
            raise FloatingPointError(f"the gradient norm is {norm}; the update was not made")
        self._optimizer.step()
        self._updates += 1
        shared: Metrics = {"train/grad_norm": mean(norm), "train/lr": mean(rate)}
        return merge([*reports, shared]) if parts.is_spokesman() else shared

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
            temperature=self._temperature if temperature is None else temperature,
            chunk_tokens=self._training.logprob_chunk_tokens,
            objective=loss,
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
    def full_weights(self) -> Iterator[tuple[str, Tensor]]:
        """See TrainBackend. Tied tensors appear once."""
        yield from parts.stream_weights(self._bridge, self._models)

    def offload_optimizer(self) -> None:
        """See TrainBackend. In bfloat16 that includes the float32 copies of the weights."""
        self._move_optimizer(torch.device("cpu"))

    def offload_weights(self) -> None:
        """Megatron's weights stay where they are; the configuration allows no offload that would call this."""
        raise NotImplementedError("training.offload=all is for training.backend.kind=fsdp")

    def reload(self) -> None:
        """See TrainBackend."""
        self._move_optimizer(self.device)

    def _move_optimizer(self, device: torch.device) -> None:
        for inner in _inner_optimizers(self._optimizer):
            move_state(inner, device)
            if self._model_config.dtype == "bfloat16":  # else what it steps are the weights themselves
                for parameter in (p for group in inner.param_groups for p in group["params"]):
                    parameter.data = parameter.data.to(device)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def save(self, folder: Path) -> None:
        """See TrainBackend. A file a rank: only the same layout can read it."""
        state = {
            "layout": self._layout(),
            "updates": self._updates,
            "models": [_own_state(chunk) for chunk in self._models],
            "optimizers": [
                {"state": inner.state_dict(), "main": [list(group["params"]) for group in inner.param_groups]}
                for inner in _inner_optimizers(self._optimizer)
            ],
            "rng": torch.get_rng_state(),
        }
        torch.save(state, folder / f"rank_{dist.get_rank()}.pt")
        dist.barrier()

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """See TrainBackend. Raises ConfigError if the checkpoint is of another layout."""
        file = folder / f"rank_{dist.get_rank()}.pt"
        made = torch.load(folder / "rank_0.pt", weights_only=False)["layout"]
        if made != self._layout():
            raise ConfigError(
                f"{folder} was made with {made}, and this run has {self._layout()}: Megatron's state cannot be divided "
                "anew. Go on with the same numbers, or start another run from the weights that the first exports"
            )
        state = torch.load(file, weights_only=False)
        for chunk, saved in zip(self._models, state["models"], strict=True):
            chunk.load_state_dict(saved, strict=False)
        inners = _inner_optimizers(self._optimizer)
        for inner, saved in zip(inners, state["optimizers"], strict=True):
            inner.load_state_dict(saved["state"])
            for group, values in zip(inner.param_groups, saved["main"], strict=True):
                for parameter, value in zip(group["params"], values, strict=True):
                    parameter.copy_(value)
        self._updates = state["updates"]
        torch.set_rng_state(state["rng"])

    def _layout(self) -> dict[str, int | bool]:
        backend = self._backend
        return {
            "workers": dist.get_world_size(),
            "tensor_parallel": backend.tensor_parallel,
            "pipeline_parallel": backend.pipeline_parallel,
            "expert_parallel": backend.expert_parallel,
            "distributed_optimizer": backend.distributed_optimizer,
        }

    def export_hf(self, folder: Path) -> None:
        """See TrainBackend. Written by rank 0; every rank must call it."""
        write_checkpoint(folder, self._model_config, self.full_weights())


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


def _inner_optimizers(optimizer: Any) -> list[Any]:
    """The torch optimizers inside Megatron's."""
    return [each.optimizer for each in getattr(optimizer, "chained_optimizers", [optimizer])]


def _own_state(chunk: Any) -> dict[str, Any]:
    """Weights and buffers, without the empty records that TransformerEngine's layers add."""
    return {name: value for name, value in chunk.state_dict().items() if "_extra_state" not in name}
