"""What a plan is made of: a recipe, the architectures of its models, and the hardware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.preference import DpoConfig, KtoConfig
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig, SftConfig
from reasoner_rl.config.rollout import HfEngineConfig, VllmEngineConfig
from reasoner_rl.config.training import CriticConfig, MegatronBackendConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.plan.architecture import Architecture
from reasoner_rl.plan.hardware import Hardware
from reasoner_rl.types import Role

Planned = OnlineConfig | SftConfig | PreferenceConfig
Offload = Literal["none", "optimizer", "all"]
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Model:
    """One model of a run."""

    role: Role
    architecture: Architecture
    trained: int  # parameters that are trained; 0: it is frozen
    offload: Offload  # what of it moves to host memory when it has no turn
    adapters: int  # parameters of low-rank adapters, beside the architecture's

    @property
    def parameters(self) -> int:
        """With adapters; the head of a critic or reward model is too small to count."""
        return self.architecture.parameters + self.adapters


@dataclass(frozen=True, slots=True)
class Setup:
    """A recipe that is planned."""

    config: Planned
    models: tuple[Model, ...]
    hardware: Hardware

    @property
    def policy(self) -> Model:
        """The model that is trained to respond."""
        return self.models[0]

    @property
    def ranks(self) -> int:
        """Workers."""
        return self.config.cluster.ranks

    @property
    def ranks_per_machine(self) -> int:
        """Workers of one machine."""
        return self.ranks // getattr(self.config.cluster, "nodes", 1)

    @property
    def megatron(self) -> MegatronBackendConfig | None:
        """The backend, if it is Megatron."""
        backend = self.config.training.backend
        return backend if isinstance(backend, MegatronBackendConfig) else None

    @property
    def sharing(self) -> int:
        """FSDP2's ranks that share one copy of the state."""
        return getattr(self.config.training.backend, "shard_ranks", None) or self.ranks

    @property
    def replicas(self) -> int:
        """Shares into which a batch is divided."""
        return self.config.training.backend.data_parallel_size(self.ranks)

    @property
    def element(self) -> int:
        """Bytes of a number in forward and backward passes."""
        return BYTES[self.config.model.dtype]

    @property
    def sync_element(self) -> int:
        """Bytes of a number that a weight sync gathers: the narrower of trainer's and rollout engine's format.

        Weights beside which adapters are added up travel in float32.
        """
        held = self.element if self.megatron is not None else BYTES["float32"]
        return held if self.config.model.lora is not None else min(held, self.engine_element)

    @property
    def engine_element(self) -> int:
        """Bytes of a number in generation."""
        return BYTES[self.config.rollout.engine.dtype or self.config.model.dtype]

    @property
    def vllm(self) -> VllmEngineConfig | None:
        """The rollout engine, if it is vLLM."""
        engine = self.config.rollout.engine
        return engine if isinstance(engine, VllmEngineConfig) and self.config.generates else None

    @property
    def embedded(self) -> HfEngineConfig | None:
        """The rollout engine, if it is the embedded one."""
        engine = self.config.rollout.engine
        return engine if isinstance(engine, HfEngineConfig) and self.config.generates else None

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return self.config.data.prompts.max_tokens

    @property
    def longest_response(self) -> int:
        """Tokens of the longest response that is trained on."""
        config = self.config
        return (
            config.rollout.sampling.max_response_tokens
            if isinstance(config, OnlineConfig)
            else config.data.max_response_tokens
        )

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest prompt and response."""
        return self.longest_prompt + self.longest_response

    @property
    def sequences_per_update(self) -> int:
        """Sequences in one optimizer update, of all ranks."""
        config = self.config
        if isinstance(config, OnlineConfig):
            return step_arithmetic(config).responses_per_update
        pairs = isinstance(config, PreferenceConfig) and config.algorithm.data == "pairs"
        return config.batch.examples_per_step * (2 if pairs else 1)

    @property
    def micro_batch_sequences(self) -> int:
        """Sequences of the greatest length in the largest micro-batch; a longer one than the budget stands alone."""
        fitting = max(1, self.config.batch.micro_batch_tokens // self.longest_sequence)
        return min(fitting, -(-self.sequences_per_update // self.replicas))

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens of the largest micro-batch there can be."""
        return self.micro_batch_sequences * self.longest_sequence

    @property
    def micro_batches(self) -> int:
        """Passes of a rank in one update, if all sequences have the greatest length."""
        return -(-self.sequences_per_update // (self.replicas * self.micro_batch_sequences))


Read = Callable[[str], Architecture]


def make_setup(config: Planned, hardware: Hardware, read: Read) -> Setup:
    """The models of a recipe, the policy first. ``read`` gives the architecture of a path."""
    model, training = config.model, config.training
    policy = read(model.path)

    def frozen(role: Role, path: str, offload: Offload) -> Model:
        return Model(role, read(path), 0, offload, 0)

    trained = policy.trained_parameters(model)
    adapters = trained if model.lora is not None else 0
    models = [Model("policy", policy, trained, training.offload, adapters)]
    if (path := _reference(config)) is not None:
        models.append(frozen("reference", path, training.offload))
    if isinstance(config, OnlineConfig):
        if config.teacher is not None:
            models.append(frozen("teacher", config.teacher.path, config.teacher.offload or training.offload))
        if config.algorithm.kind == "ppo":
            models.append(_critic(config, read))
        if config.reward_model is not None:
            judge = config.reward_model
            offload = judge.offload or training.offload
            models.append(Model("reward_model", read(judge.path).without_head(), 0, offload, 0))
    _require_engine(hardware, model)
    return Setup(config, tuple(models), hardware)


def _critic(config: OnlineConfig, read: Read) -> Model:
    critic = config.critic or CriticConfig()
    architecture = read(critic.path or config.model.path).without_head()
    trained = architecture.trained_parameters(config.model)
    adapters = trained if config.model.lora is not None else 0
    return Model("critic", architecture, trained, critic.offload or config.training.offload, adapters)


def _reference(config: Planned) -> str | None:
    """The path of a reference that is a model of its own; with LoRA it is the policy without its adapters."""
    if isinstance(config, PreferenceConfig):
        algorithm = config.algorithm
        live = isinstance(algorithm, KtoConfig) or (
            isinstance(algorithm, DpoConfig) and algorithm.reference == "live"
        )
        if live and config.reference is not None:
            return config.reference.path
        return config.model.path if live and config.model.lora is None else None
    if not isinstance(config, OnlineConfig) or config.model.lora is not None:
        return None
    loss_kl = config.algorithm.loss.kl.coefficient
    return config.model.path if loss_kl > 0 or config.algorithm.kl_in_reward.coefficient > 0 else None


def _require_engine(hardware: Hardware, model: ModelConfig) -> None:
    if hardware.on_cpu and model.dtype == "bfloat16":
        raise ConfigError(
            "--hardware cpu plans model.dtype=float32: CPUs compute bfloat16 slowly and its memory there was not "
            "checked; add model.dtype=float32, or name a GPU with --hardware"
        )
