"""From a recipe to the worker of one process: its rollout engine, its models, and the hybrid engine over them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from reasoner_rl.algorithms.base import Algorithm
from reasoner_rl.algorithms.build import build_algorithm
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.judging import JudgingConfig, Launched
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.recipes import (
    AnsweringConfig,
    EvalConfig,
    OnlineConfig,
    PreferenceConfig,
    TrainConfig,
)
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.config.rollout import EngineConfig, HfEngineConfig, VllmEngineConfig
from reasoner_rl.config.training import (
    CriticConfig,
    FsdpBackendConfig,
    MegatronBackendConfig,
    TrainingConfig,
)
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.errors import require_package
from reasoner_rl.hybrid.engine import HybridEngine, Offload
from reasoner_rl.hybrid.sync_check import SyncCheck, check_token_ids
from reasoner_rl.rollout.engine import RolloutEngine
from reasoner_rl.rollout.hf_engine import build_hf_engine
from reasoner_rl.rollout.vllm_engine import VllmRolloutEngine, build_vllm_engine
from reasoner_rl.seeding import derive_seed
from reasoner_rl.tokenizer import load_tokenizer, unused_ids
from reasoner_rl.training.backend import Head, TrainBackend
from reasoner_rl.training.device import default_device
from reasoner_rl.training.fsdp import FsdpBackend, single_process_group
from reasoner_rl.training.megatron.layer_choice import Layers, settle_layers
from reasoner_rl.types import Role

Part = Literal["all", "models", "generation"]


def build_worker(config: Launched, part: Part = "all") -> Worker:
    """The worker of a recipe, or of a reward model alone.

    part: what it does of a recipe that trains: all, "models" without generation, or "generation" without models.
    In a process group of several ranks, all of them must call it together.
    """
    tokenizer = load_tokenizer(config.model)
    if part == "generation":
        assert isinstance(config, OnlineConfig)
        engine = HybridEngine({}, _rollout_of(config, tokenizer), _sync_check(config, tokenizer), {})
        return Worker(engine, tokenizer, {})
    if isinstance(config, EvalConfig):
        rollout = build_engine(
            config.model,
            config.rollout.engine,
            tokenizer,
            context_tokens=config.data.prompts.max_tokens + config.rollout.sampling.max_response_tokens,
            seed=config.run.seed,
            unused_ids=unused_ids(config.model, tokenizer),
        )
        return Worker(HybridEngine({}, rollout, None, {}), tokenizer, {})
    if isinstance(config, JudgingConfig):
        judge = _build_judge(config.model, config.kind, config.training)
        engine = HybridEngine({"reward_model": judge}, None, None, {"reward_model": "none"})
        return Worker(engine, tokenizer, {}, product="reward_model")
    torch.manual_seed(derive_seed(config.run.seed, "torch"))  # new adapters are the same on all ranks
    algorithm = build_algorithm(config)
    models = build_models(config, algorithm, unused_ids(config.model, tokenizer))
    if isinstance(config, RewardModelConfig) or not config.generates:
        engine = HybridEngine(models, None, None, _offloads(config, models))
    elif part == "models":
        engine = HybridEngine(models, None, _sync_check(config, tokenizer), _offloads(config, models))
    else:
        engine = _with_rollout(config, models, tokenizer)
    return Worker(
        engine,
        tokenizer,
        algorithm.losses,
        reference_is_base="reference" in algorithm.roles and "reference" not in models,
        saves_reference=algorithm.refreshes_reference,
        product=algorithm.product,
    )


def roles_of(config: TrainConfig, algorithm: Algorithm) -> tuple[Role, ...]:
    """The models of a run: those of the algorithm, and the reward model that judges its responses."""
    judged = isinstance(config, OnlineConfig) and config.reward_model is not None
    return (*algorithm.roles, "reward_model") if judged else algorithm.roles


def build_models(
    config: TrainConfig, algorithm: Algorithm, unused: Sequence[int]
) -> dict[Role, TrainBackend]:
    """The model of every role that the algorithm needs.

    With LoRA the reference is the policy without its adapters, unless the recipe names another.
    """
    updates_per_step, total_updates = 1, config.run.steps
    if isinstance(config, OnlineConfig):
        arithmetic = step_arithmetic(config)
        updates_per_step, total_updates = arithmetic.updates_per_step, arithmetic.total_updates
    temperature = config.rollout.sampling.temperature if isinstance(config, OnlineConfig) else 1.0
    build = partial(
        build_backend,
        training=config.training,
        temperature=temperature,
        total_updates=total_updates,
        updates_per_step=updates_per_step,
        unused_ids=unused,
    )
    if isinstance(config, RewardModelConfig):
        return {"reward_model": build(config.model, head=reward_head(config.algorithm.kind))}
    models: dict[Role, TrainBackend] = {
        "policy": build(config.model, entropy_gradient=algorithm.entropy_gradient)
    }
    reference = config.reference_model if isinstance(config, PreferenceConfig) else None
    if "reference" in algorithm.roles and (reference is not None or config.model.lora is None):
        models["reference"] = build(reference or config.model, frozen=True)
    teacher = config.teacher_model if isinstance(config, OnlineConfig) else None
    if "teacher" in algorithm.roles:
        assert teacher is not None
        models["teacher"] = build(teacher, frozen=True)
    if "critic" in algorithm.roles:
        models["critic"] = _build_critic(config, updates_per_step)
    if isinstance(config, OnlineConfig) and config.reward_model is not None:
        checkpoint = config.reward_model_checkpoint
        assert checkpoint is not None
        models["reward_model"] = _build_judge(checkpoint, config.reward_model.kind, config.training)
    return models


def _build_judge(
    checkpoint: ModelConfig, kind: Literal["pointwise", "pairwise"], training: TrainingConfig
) -> TrainBackend:
    """A reward model that is not trained."""
    return build_backend(checkpoint, training, total_updates=1, frozen=True, head=reward_head(kind))


def reward_head(kind: Literal["pointwise", "pairwise"]) -> Head:
    """A comparison is made by a language model, which predicts the label of the better answer."""
    return "score" if kind == "pointwise" else "policy"


def _build_critic(config: TrainConfig, updates_per_step: int) -> TrainBackend:
    """The critic, which is trained in every step, also in those in which the policy is not yet."""
    critic = _critic_config(config)
    own = config.critic_model if isinstance(config, OnlineConfig) else None
    return build_backend(
        own or config.model,
        config.training.model_copy(update={"optimizer": critic.optimizer, "schedule": critic.schedule}),
        total_updates=config.run.steps * updates_per_step,
        updates_per_step=updates_per_step,
        head="value",
    )


def _critic_config(config: TrainConfig) -> CriticConfig:
    given = config.critic if isinstance(config, OnlineConfig) else None
    return given or CriticConfig()


def _offloads(config: TrainConfig, models: Mapping[Role, TrainBackend]) -> dict[Role, Offload]:
    """What each model moves to host memory while it has no turn."""
    offloads: dict[Role, Offload] = dict.fromkeys(models, config.training.offload)
    if "critic" in models:
        offloads["critic"] = _critic_config(config).offload or config.training.offload
    if isinstance(config, OnlineConfig) and config.teacher is not None and "teacher" in models:
        offloads["teacher"] = config.teacher.offload or config.training.offload
    if isinstance(config, OnlineConfig) and config.reward_model is not None:
        offloads["reward_model"] = config.reward_model.offload or config.training.offload
    return offloads


def _with_rollout(
    config: AnsweringConfig, models: dict[Role, TrainBackend], tokenizer: PreTrainedTokenizerBase
) -> HybridEngine:
    """The hybrid engine of models and a rollout engine, which gets its weights from the policy."""
    engine, rollout = config.rollout.engine, _rollout_of(config, tokenizer)
    shared = isinstance(engine, VllmEngineConfig) and engine.share_weights
    if shared:
        policy = models["policy"]
        assert isinstance(policy, FsdpBackend)
        assert isinstance(rollout, VllmRolloutEngine)
        policy.train_in(rollout.storage(policy.parameter_shapes()))
    check = _sync_check(config, tokenizer)
    return HybridEngine(models, rollout, check, _offloads(config, models), shared=shared)


def _rollout_of(config: AnsweringConfig, tokenizer: PreTrainedTokenizerBase) -> RolloutEngine:
    return build_engine(
        config.model,
        config.rollout.engine,
        tokenizer,
        context_tokens=max(config.max_sequence_tokens, len(check_token_ids(tokenizer)) + 1),
        seed=config.run.seed,
        dummy_weights=True,  # the first publish replaces them
        unused_ids=unused_ids(config.model, tokenizer),
    )


def _sync_check(config: AnsweringConfig, tokenizer: PreTrainedTokenizerBase) -> SyncCheck:
    exact = {config.model.dtype, config.rollout.engine.dtype or config.model.dtype} == {"float32"}
    tolerance = config.rollout.sync_tolerance or (1e-3 if exact else None)
    return SyncCheck(config.rollout.sync_check, check_token_ids(tokenizer), tolerance)


def build_backend(
    model: ModelConfig,
    training: TrainingConfig,
    *,
    temperature: float = 1.0,
    total_updates: int,
    updates_per_step: int = 1,
    entropy_gradient: bool = False,
    frozen: bool = False,
    head: Head = "policy",
    unused_ids: Sequence[int] = (),
) -> TrainBackend:
    """The training backend that the recipe names, of a policy or of a critic; see FsdpBackend for the arguments.

    Raises MissingExtraError if it is not installed, and ConfigError if Megatron's layers cannot be those of the recipe.
    """
    single_process_group()
    backend = training.backend
    options: dict[str, Any] = {
        "temperature": temperature,
        "total_updates": total_updates,
        "updates_per_step": updates_per_step,
        "frozen": frozen,
        "head": head,
        "unused_ids": unused_ids,
    }
    if isinstance(backend, FsdpBackendConfig):
        return FsdpBackend(model, training, backend, entropy_gradient=entropy_gradient, **options)
    device = default_device()
    layers = _settle_megatron(backend, device)
    from reasoner_rl.training.megatron.backend import MegatronBackend

    return MegatronBackend(model, training, backend, layers=layers, device=device, **options)


def _settle_megatron(backend: MegatronBackendConfig, device: torch.device) -> Layers:
    """Choose Megatron's layers, which megatron-core, once it is imported, cannot change."""
    for package, name in (("megatron.core", "megatron-core"), ("mbridge", "mbridge")):
        require_package(package, name, "megatron", "training.backend.kind=megatron")
    return settle_layers(backend.layers, device)


def import_backend(training: TrainingConfig) -> None:
    """Import what `build_backend` would, so that a measurement can tell models from libraries."""
    if isinstance(training.backend, MegatronBackendConfig):
        _settle_megatron(training.backend, default_device())
        importlib.import_module("reasoner_rl.training.megatron.backend")


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
