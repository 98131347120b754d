"""What one process of a run does. The driver talks to workers only through these methods."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig
from reasoner_rl.config.rollout import EngineConfig, HfEngineConfig, SamplingConfig, VllmEngineConfig
from reasoner_rl.config.training import FsdpBackendConfig, TrainingConfig
from reasoner_rl.errors import require_package
from reasoner_rl.hybrid.engine import HybridEngine
from reasoner_rl.hybrid.proof import SyncProof, proof_token_ids
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.metrics import Metrics, merge
from reasoner_rl.observability.measurements import memory_metrics
from reasoner_rl.rollout.engine import GenerationRequest, Generator, RolloutEngine, Turn
from reasoner_rl.rollout.hf_engine import build_hf_engine
from reasoner_rl.rollout.vllm_engine import VllmRolloutEngine, build_vllm_engine
from reasoner_rl.seeding import derive_seed
from reasoner_rl.tokenizer import load_tokenizer, unused_ids
from reasoner_rl.training.backend import Head, TrainBackend
from reasoner_rl.training.checkpoint import reading
from reasoner_rl.training.device import default_device
from reasoner_rl.training.fsdp import FsdpBackend, single_process_group
from reasoner_rl.training.megatron.layer_choice import settle_layers
from reasoner_rl.types import MiniBatch


class GenerationWorker:
    """Only generates, with the weights of the recipe's checkpoint: for evaluation."""

    def __init__(self, config: EvalConfig) -> None:
        tokenizer = load_tokenizer(config.model)
        self._generator: Generator = build_engine(
            config.model,
            config.engine,
            tokenizer,
            context_tokens=config.prompts.max_tokens + config.sampling.max_response_tokens,
            seed=config.run.seed,
            unused_ids=unused_ids(config.model, tokenizer),
        )

    def turn(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> Turn:
        """Take on requests, and generate until one is finished or the turn is over."""
        if requests:
            self._generator.submit(requests, sampling)
        return self._generator.advance()

    def abort(self) -> None:
        """Drop everything that is in flight."""
        self._generator.abort()


class Worker(GenerationWorker):
    """A hybrid engine, built from the recipe, that generates, updates and saves."""

    def __init__(self, config: OnlineConfig) -> None:
        torch.manual_seed(derive_seed(config.run.seed, "torch"))  # new adapters are the same on all ranks
        loss, arithmetic = config.algorithm.loss, step_arithmetic(config)
        self._loss = partial(policy_loss, config=loss)
        self.tokenizer = load_tokenizer(config.model)
        unused = unused_ids(config.model, self.tokenizer)
        backend = build_backend(
            config.model,
            config.training,
            temperature=config.rollout.sampling.temperature,
            total_updates=arithmetic.total_updates,
            updates_per_step=arithmetic.updates_per_step,
            entropy_gradient=loss.entropy_coefficient > 0,
            with_reference=loss.kl.coefficient > 0,
            unused_ids=unused,
        )
        engine = config.rollout.engine
        longest = max(
            sampling.max_response_tokens for sampling in (config.rollout.sampling, config.evaluation_sampling)
        )
        proof_ids = proof_token_ids(self.tokenizer)
        rollout = build_engine(
            config.model,
            engine,
            self.tokenizer,
            context_tokens=max(config.data.prompts.max_tokens + longest, len(proof_ids) + 1),
            seed=config.run.seed,
            dummy_weights=True,  # the first publish replaces them
            unused_ids=unused,
        )
        exact = {config.model.dtype, engine.dtype or config.model.dtype} == {"float32"}
        tolerance = config.rollout.sync_tolerance or (1e-3 if exact else None)
        proof = SyncProof(config.rollout.sync_check, proof_ids, tolerance)
        shared = isinstance(engine, VllmEngineConfig) and engine.share_weights
        if shared:
            assert isinstance(backend, FsdpBackend)
            assert isinstance(rollout, VllmRolloutEngine)
            backend.train_in(rollout.storage(backend.parameter_shapes()))
        self._engine = HybridEngine(backend, rollout, proof, config.training.offload, shared=shared)
        self._generator = self._engine

    def logprobs(self, batch: MiniBatch, reference: bool) -> dict[int, Tensor]:
        """Response logprobs [R] by sample index, by the trainer; ends the generate phase."""
        self._engine.begin_training()
        by_index: dict[int, Tensor] = {}
        outputs = self._engine.logprobs(batch.micro_batches, reference=reference)
        for micro_batch, values in zip(batch.micro_batches, outputs, strict=True):
            by_index.update(micro_batch.split_responses(values))
        return by_index

    def update(self, mini_batches: Sequence[MiniBatch]) -> Metrics:
        """One optimizer update a mini-batch; ends the generate phase."""
        self._engine.begin_training()
        return merge([self._engine.update(mini_batches, self._loss), memory_metrics()])

    def publish_weights(self, version: int) -> Metrics:
        """Give the trainer's weights to generation; begins the generate phase. Returns what that cost."""
        return self._engine.publish(version)

    def save(self, folder: Path) -> None:
        """Write the trainer's state into an existing folder."""
        with self._engine.weights_at_hand() as backend:
            backend.save(folder)

    def load(self, folder: Path) -> None:
        """Restore the trainer's state; weights must be published afterwards. Raises UserError if it cannot be read."""
        self._engine.begin_training()
        with reading(folder):
            self._engine.backend.load(folder)

    def export(self, folder: Path) -> None:
        """Write weights and tokenizer as a Hugging Face checkpoint; rank 0 writes."""
        with self._engine.weights_at_hand() as backend:
            backend.export_hf(folder)
        if dist.get_rank() == 0:
            self.tokenizer.save_pretrained(folder)


def build_worker(config: OnlineConfig | EvalConfig) -> GenerationWorker:
    """The worker of a recipe. In a process group of several ranks, all of them must call it together."""
    return GenerationWorker(config) if isinstance(config, EvalConfig) else Worker(config)


def build_backend(
    model: ModelConfig,
    training: TrainingConfig,
    *,
    temperature: float = 1.0,
    total_updates: int,
    updates_per_step: int = 1,
    entropy_gradient: bool = False,
    with_reference: bool = False,
    head: Head = "policy",
    unused_ids: Sequence[int] = (),
) -> TrainBackend:
    """The training backend that the recipe names, of a policy or of a critic; see FsdpBackend for the arguments.

    Raises MissingExtraError if it is not installed, and ConfigError if Megatron's layers cannot be those of the recipe.
    """
    single_process_group()
    backend = training.backend
    if isinstance(backend, FsdpBackendConfig):
        return FsdpBackend(
            model,
            training,
            backend,
            temperature=temperature,
            total_updates=total_updates,
            updates_per_step=updates_per_step,
            entropy_gradient=entropy_gradient,
            with_reference=with_reference,
            head=head,
            unused_ids=unused_ids,
        )
    for package, name in (("megatron.core", "megatron-core"), ("mbridge", "mbridge")):
        require_package(package, name, "megatron", "training.backend.kind=megatron")
    device = default_device()
    layers = settle_layers(backend.layers, device)  # which megatron-core, once it is imported, cannot change
    from reasoner_rl.training.megatron.backend import MegatronBackend

    return MegatronBackend(
        model,
        training,
        backend,
        layers=layers,
        device=device,
        temperature=temperature,
        total_updates=total_updates,
        updates_per_step=updates_per_step,
        with_reference=with_reference,
        head=head,
        unused_ids=unused_ids,
    )


def build_engine(
    model: ModelConfig,
    engine: EngineConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context_tokens: int,
    seed: int,
    dummy_weights: bool = False,
    unused_ids: Sequence[int] = (),
) -> RolloutEngine:
    """The rollout engine that the recipe names, with the weights of ``model.path``.

    context_tokens: longest prompt and response together.
    dummy_weights: it need not read the weights, because others are published before it generates; vLLM then does not.
    unused_ids: ids of the model's vocabulary that get no probability; a backend beside the engine must get the same.
    """
    device = default_device()
    if isinstance(engine, HfEngineConfig):
        return build_hf_engine(model, engine, tokenizer, device, unused_ids)
    return build_vllm_engine(
        model,
        engine,
        tokenizer,
        device,
        context_tokens=context_tokens,
        seed=seed,
        dummy_weights=dummy_weights,
        unused_ids=unused_ids,
    )
