"""Training with PyTorch FSDP2 (`fully_shard`), on one process or many.

Master weights and optimizer state are float32 and sharded; forward and backward run in ``model.dtype``. Losses come
in already divided by the mini-batch's global denominators, so ranks' gradients must be summed: FSDP averages them,
and the loss is multiplied by the number of ranks to undo that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.training import FsdpBackendConfig, TrainingConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.experts import as_in_checkpoints
from reasoner_rl.metrics import Metrics, mean, merge
from reasoner_rl.training.backend import Head, LossFunction, require_head, require_optimizer
from reasoner_rl.training.checked_files import CheckedReader, load_checked
from reasoner_rl.training.compiled_layers import compile_layers
from reasoner_rl.training.device import CopyStream, default_device
from reasoner_rl.training.export import write_checkpoint
from reasoner_rl.training.fill_shards import fill_shards
from reasoner_rl.training.gather import Transfer, gather_shards
from reasoner_rl.training.optimizer import build_optimizer, build_schedule, move_state
from reasoner_rl.training.policy import (
    Policy,
    adapters_off,
    build_policy,
    decoder_layers,
    is_adapted,
    is_adapter,
    merged_weights,
    tensor_names,
)
from reasoner_rl.training.saved import described_fsdp, open_checkpoint, saved_by
from reasoner_rl.training.value import Critic, build_critic
from reasoner_rl.training.whole import rank_file, restore_random_state, told_of_division
from reasoner_rl.types import MicroBatch, MiniBatch, TokenOutputs

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def single_process_group() -> None:
    """Start a process group of one, so that FSDP runs without torchrun; does nothing if there is a group already."""
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


class FsdpBackend:
    """A TrainBackend on FSDP2. Needs an initialised process group."""

    def __init__(
        self,
        model: ModelConfig,
        training: TrainingConfig,
        backend: FsdpBackendConfig,
        *,
        temperature: float,
        total_updates: int,
        updates_per_step: int,
        entropy_gradient: bool = False,
        frozen: bool = False,
        head: Head = "policy",
        unused_ids: Sequence[int] = (),
    ) -> None:
        """Load the checkpoint ``model.path`` and shard it.

        temperature: of the sampling that produced the responses; logprobs are those of logits / temperature.
        entropy_gradient: whether the loss uses the gradient of the entropy.
        frozen: the model is not trained, and there is no optimizer.
        head: "value" makes a critic of the checkpoint and "score" a reward model; see `load_critic`. Temperature and
            entropy mean nothing then.
        unused_ids: ids of the model's vocabulary that no token has. They get no probability, and of their weights' rows
            nothing but weight decay changes.
        """
        self.device = default_device()
        self._model_config, self._training = model, training
        self._temperature, self._entropy_gradient = temperature, entropy_gradient
        self._head, self._unused_ids = head, unused_ids
        self._world_size = dist.get_world_size()
        self._sharing = backend.shard_ranks or self._world_size  # ranks that share one copy of the model
        self._trained = not frozen
        self._copies = CopyStream(self.device)
        self._policy = self._build(model, backend)
        if frozen:
            self._policy.requires_grad_(False)
            return
        self._optimizer = build_optimizer(self._policy, training.optimizer)
        self._build_schedule = partial(
            build_schedule, self._optimizer, training.schedule, total_updates, updates_per_step
        )
        self._schedule = self._build_schedule()

    def _build(self, model: ModelConfig, backend: FsdpBackendConfig) -> Policy | Critic:
        needs_head = self._head == "score" and not self._trained
        build: Callable[..., Policy | Critic] = partial(
            build_critic, model, self.device, self._head, needs_head=needs_head
        )
        if self._head == "policy":
            chunk_tokens = self._training.logprob_chunk_tokens
            build = partial(build_policy, model, chunk_tokens, self.device, unused_ids=self._unused_ids)
        if self._world_size == 1:
            return self._shard(build(), backend)
        # Rank 0 alone reads the checkpoint, and sends every rank its shards: one copy in host memory, not one per rank.
        whole = build().state_dict() if dist.get_rank() == 0 else {}
        policy = self._shard(build(empty=True), backend)
        # On the device, or the broadcast would go over the CPU's slow network.
        _give_storage(policy, self.device)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(policy, whole, options=options)
        policy.model.tie_weights()
        return policy

    def _shard(self, policy: Policy | Critic, config: FsdpBackendConfig) -> Policy | Critic:
        sharing = self._sharing
        if sharing == self._world_size:
            mesh = init_device_mesh(self.device.type, (sharing,))
        else:  # equal copies of the model, each on `sharing` ranks
            shape = (self._world_size // sharing, sharing)
            mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=("replicate", "shard"))
        reshard = sharing > 1 if config.reshard_after_forward == "auto" else config.reshard_after_forward
        dtype = _DTYPES[self._model_config.dtype]
        options: dict[str, Any] = {"mesh": mesh}
        if dtype is not torch.float32:
            options["mp_policy"] = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        layers = [
            fully_shard(layer, reshard_after_forward=reshard, **options)
            for layer in decoder_layers(policy.model)
        ]
        if sharing > 1:
            _prefetch(layers, config.prefetch_layers)
        if isinstance(policy, Critic):  # in float32, whatever the rest is
            fully_shard(policy.head, mesh=mesh, reshard_after_forward=False)
        # The root (embeddings, last norm, head) is needed again as soon as backward begins, so it stays whole.
        fully_shard(policy, reshard_after_forward=False, **options)
        if config.compile_layers:
            compile_layers(policy.model, policy.attention)
        return policy

    @property
    def decoder(self) -> nn.Module:
        """The model without its output embedding, to compare what is inside."""
        decoder: nn.Module = self._policy.model.get_decoder()
        return decoder

    @property
    def compute_dtype(self) -> torch.dtype:
        """Number format of forward passes."""
        return _DTYPES[self._model_config.dtype]

    @torch.no_grad()
    def logprobs(
        self,
        micro_batches: Sequence[MicroBatch],
        *,
        temperature: float | None = None,
        adapters: bool = True,
    ) -> list[Tensor]:
        """See TrainBackend."""
        require_head(self._head, "logprobs", of_policy=True)
        with nullcontext() if adapters else adapters_off(self._policy):
            found = [output.logprobs.cpu() for output in self._outputs(micro_batches, temperature)]
        _free_gathered(self._policy)
        return found

    @torch.no_grad()
    def entropies(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """See TrainBackend."""
        require_head(self._head, "entropies", of_policy=True)
        found = [output.entropy.cpu() for output in self._outputs(micro_batches)]
        _free_gathered(self._policy)
        return found

    def _outputs(
        self, micro_batches: Sequence[MicroBatch], temperature: float | None = None
    ) -> Iterator[TokenOutputs]:
        self._policy.eval()
        chosen = self._temperature if temperature is None else temperature
        for batch in micro_batches:
            yield self._policy(batch.to(self.device), chosen)

    @torch.no_grad()
    def values(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """See TrainBackend."""
        require_head(self._head, "values", of_policy=False)
        self._policy.eval()
        found = [self._policy(batch.to(self.device)).values.cpu() for batch in micro_batches]
        _free_gathered(self._policy)
        return found

    def update(self, mini_batch: MiniBatch, loss: LossFunction) -> Metrics:
        """See TrainBackend."""
        require_optimizer(self._trained, "update")
        self._policy.train()
        options = (self._temperature, self._entropy_gradient) if self._head == "policy" else ()
        parts: list[Metrics] = []
        for index, batch in enumerate(mini_batch.micro_batches):
            self._sync_gradients(last=index == len(mini_batch.micro_batches) - 1)
            batch = batch.to(self.device)
            outputs = self._policy(batch, *options)
            value, metrics = loss(outputs, batch)
            (value * self._world_size).backward()
            parts.append(metrics)
        gradient_norm = self._clip_gradients()
        rate = float(self._schedule.get_last_lr()[0])
        self._copies.wait()  # the optimizer's state may still be on its way back
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        return merge([*parts, {"train/grad_norm": mean(gradient_norm), "train/lr": mean(rate)}])

    def _sync_gradients(self, *, last: bool) -> None:
        """Say what is communicated of the gradients of the next backward pass, the ``last`` of an update or not.

        Where a rank holds the whole model, a gradient is no larger than the shard, so all is added up locally until the
        last pass. Elsewhere every pass reduces to shards, because whole gradients would not fit, and copies of the
        model (HSDP) add theirs up in the last. Every pass waits for its reductions (FSDP2's is_last_backward): else the
        whole gradient of the embeddings would be kept through the next forward pass.
        """
        assert isinstance(self._policy, FSDPModule)
        if self._sharing == 1:
            self._policy.set_requires_gradient_sync(last)
        else:
            self._policy.set_requires_all_reduce(last)

    def _clip_gradients(self) -> float:
        gradients = [p.grad for p in self._policy.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = _whole(norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient norm is {norm.item()}; the update was not made")
        limit = self._training.optimizer.grad_clip
        if limit is not None:
            torch.nn.utils.clip_grads_with_norm_(self._policy.parameters(), limit, norm)
        return float(norm)

    @torch.no_grad()
    def full_weights(self, transfer: Transfer | None = None) -> Iterator[tuple[str, Tensor]]:
        """See TrainBackend. Adapters are merged; tied tensors appear once, under their first name.

        What is merged is added up in float32, so it travels in float32 too.
        """
        model = self._policy.model
        state = model.state_dict()

        def read(names: Sequence[str]) -> Iterator[Tensor]:
            if transfer is None:
                return (_whole(state[name]) for name in names)
            exact = {name for name in names if is_adapter(name) or is_adapted(name)}
            held = [(state[name], None if name in exact else transfer.dtype) for name in names]
            return gather_shards(held, transfer.bucket_bytes, self.device)

        merged = merged_weights(tensor_names(model), read, self._model_config.lora)
        yield from as_in_checkpoints(model.config, merged)

    def parameter_shapes(self) -> dict[str, torch.Size]:
        """Shape of every whole parameter, by its Hugging Face name."""
        return {name: parameter.shape for name, parameter in self._policy.model.named_parameters()}

    @torch.no_grad()
    def train_in(self, storage: Mapping[str, Tensor]) -> None:
        """Keep the parameters in ``storage`` from now on: float32 tensors by Hugging Face name that others read too.

        To be called before the first pass, which is when FSDP looks at where its shards are. Raises ConfigError on more
        than one rank, where a shard is not the whole.
        """
        if self._world_size > 1:
            raise ConfigError(
                f"rollout.engine.share_weights is for one process, and this run has {self._world_size}"
            )
        for name, parameter in self._policy.model.named_parameters():
            assert isinstance(parameter, DTensor)
            storage[name].copy_(parameter.to_local())
            parameter._local_tensor = storage[name]

    @torch.no_grad()
    def host_shards(self) -> list[Tensor]:
        """See TrainBackend."""
        return [_local(parameter).to("cpu", copy=True) for parameter in self._policy.parameters()]

    @torch.no_grad()
    def set_shards(self, shards: Sequence[Tensor]) -> None:
        """See TrainBackend."""
        for parameter, shard in zip(self._policy.parameters(), shards, strict=True):
            _local(parameter).copy_(shard)

    def offload_optimizer(self) -> None:
        """See TrainBackend. Gradients are gone already: `update` drops them."""
        if self._trained:
            move_state(self._optimizer, torch.device("cpu"), self._copies)
        self._copies.finish()
        _release(self.device)

    def offload_weights(self) -> None:
        """See TrainBackend."""
        self._policy.to("cpu", non_blocking=True)  # through pinned memory too
        _release(self.device)

    def reload(self) -> None:
        """See TrainBackend. The optimizer's state comes while the next passes compute."""
        self._policy.to(self.device, non_blocking=True)
        if self._trained:
            move_state(self._optimizer, self.device, self._copies)

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """State of model and optimizer, each rank's shards.

        To tell the state of an optimizer that has made no step, torch makes one with gradients of 0. It must not count:
        the bias correction of the first real step depends on it.
        """
        self._copies.wait()
        if not self._optimizer.state:
            get_state_dict(self._policy, self._optimizer)
            for state in self._optimizer.state.values():
                state["step"].zero_()
        model, optimizer = get_state_dict(self._policy, self._optimizer)
        return model, dict(optimizer)

    def save(self, folder: Path) -> None:
        """See TrainBackend."""
        if not self._trained:
            save_distributed({"model": get_model_state_dict(self._policy)}, checkpoint_id=folder / "weights")
            return
        model, optimizer = self._state()
        save_distributed({"model": model, "optimizer": optimizer}, checkpoint_id=folder / "weights")
        rest = {"schedule": self._schedule.state_dict(), "rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            rest["device_rng"] = torch.cuda.get_rng_state(self.device)
        torch.save(rest, folder / f"rank_{dist.get_rank()}.pt")

    def load(self, folder: Path) -> str | None:
        """See TrainBackend. What Megatron has saved is read by whole tensors."""
        if saved_by(folder) == "fsdp":
            self._load_own(folder)
            return None
        source = open_checkpoint(folder, self._model_config, self._head)
        if self._trained:
            self._state()  # so that the optimizer has one
        fill_shards(self._policy.model, self._optimizer if self._trained else None, source, folder)
        if self._trained:
            self._schedule = self._build_schedule(updates_made=source.updates)
            restore_random_state(folder)
        return told_of_division(source, described_fsdp(self._world_size))

    def _load_own(self, folder: Path) -> None:
        """Restore what FSDP2 has saved, on as many ranks or on others."""
        if not self._trained:
            weights = {"model": get_model_state_dict(self._policy)}
            load_checked(weights, CheckedReader(folder / "weights"))
            set_model_state_dict(self._policy, weights["model"])
            return
        model, optimizer = self._state()
        state: dict[str, Any] = {"model": model, "optimizer": optimizer}
        load_checked(state, CheckedReader(folder / "weights"))
        set_state_dict(
            self._policy,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        rest = torch.load(rank_file(folder), weights_only=True)
        self._schedule.load_state_dict(rest["schedule"])
        torch.set_rng_state(rest["rng"])
        if "device_rng" in rest and self.device.type == "cuda":
            torch.cuda.set_rng_state(rest["device_rng"], self.device)

    def export_hf(self, folder: Path) -> None:
        """See TrainBackend. Written by rank 0 in ``model.dtype``; every rank must call it."""
        write_checkpoint(folder, self._model_config, self.full_weights(), self._head)


def _prefetch(layers: Sequence[FSDPModule], count: int) -> None:
    """Let each layer, before it computes, begin to gather the weights of the ``count`` that follow it.

    With 0 the order is FSDP2's own: no layer in forward, and in backward the one that is computed next.
    """
    if count == 0:
        return
    for index, layer in enumerate(layers):
        layer.set_modules_to_forward_prefetch(list(layers[index + 1 : index + 1 + count]))
        layer.set_modules_to_backward_prefetch(list(layers[max(0, index - count) : index])[::-1])


def _give_storage(policy: Policy | Critic, device: torch.device) -> None:
    """Allocate parameters that have none; buffers, such as rotary frequencies, keep their values."""
    buffers = {name: buffer.clone() for name, buffer in policy.named_buffers()}
    policy.to_empty(device=device)
    for name, buffer in policy.named_buffers():
        buffer.copy_(buffers[name])


def _free_gathered(policy: nn.Module) -> None:
    """Free the whole copy of the weights, in model.dtype, that a forward pass without a backward pass leaves."""
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _release(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # copies to the host have arrived
        torch.cuda.empty_cache()


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
