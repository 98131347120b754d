"""Seconds of what workers do, as functions of rows and tokens: by the roofline of a GPU, or fitted to measured runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.config.rollout import VllmEngineConfig
from reasoner_rl.plan.architecture import Architecture, read_architecture
from reasoner_rl.plan.cache import vllm_concurrency
from reasoner_rl.plan.hardware import Hardware
from reasoner_rl.plan.setup import Setup, make_setup
from reasoner_rl.plan.time import Efficiency, decode_step_seconds
from reasoner_rl.plan.work import forward_flops


class Costs(Protocol):
    """What a worker's time is computed from. Seconds throughout."""

    @property
    def rows(self) -> int:
        """Responses that a replica draws side by side, at most."""
        ...

    @property
    def cache_tokens(self) -> int:
        """Tokens that a replica has room for keys and values of."""
        ...

    @property
    def message(self) -> float:
        """Between the end of a call and the worker's next one, or the driver's knowledge of it."""
        ...

    def decode(self, rows: int, context: float) -> float:
        """One token of each of ``rows`` responses, ``context`` tokens long on average with their prompts."""
        ...

    def prefill(self, tokens: int, context: float) -> float:
        """Reading ``tokens`` in sequences of ``context`` tokens."""
        ...

    def forward(self, lengths: Sequence[int]) -> float:
        """Logprobs of sequences of these lengths, on one rank."""
        ...

    def update(self, lengths: Sequence[int]) -> float:
        """Forward and backward passes over sequences of these lengths, on one rank, and the optimizer's step."""
        ...

    def sync(self) -> float:
        """Giving the policy's weights to generation."""
        ...


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the data sheet's peaks that are reached; what is not here is `reasoner_rl.plan.time.Efficiency`'s."""

    # Of matrix products in updates and logprobs, an assumption. Recomputation is counted: with it, this is 30 % MFU.
    training: float = 0.4
    message: float = 1e-3  # seconds of a call of Ray there and back; an assumption


@dataclass(frozen=True, slots=True)
class Roofline:
    """Costs of a recipe with vLLM on GPUs; see `reasoner_rl.plan.time` for decoding."""

    setup: Setup
    rows: int
    cache_tokens: int
    efficiency: Efficiency = field(default_factory=Efficiency)
    shares: Shares = field(default_factory=Shares)
    recomputed: bool = True  # whether updates compute the forward pass twice

    @property
    def message(self) -> float:
        """See `Costs`."""
        return self.shares.message

    @property
    def _policy(self) -> Architecture:
        return self.setup.policy.architecture

    @property
    def _tensor_parallel(self) -> int:
        return self.setup.vllm.tensor_parallel if self.setup.vllm is not None else 1

    @property
    def _model_parallel(self) -> int:
        return self.setup.ranks // self.setup.replicas

    def decode(self, rows: int, context: float) -> float:
        """The larger of bytes and operations, and vLLM's own time per token."""
        return decode_step_seconds(self.setup, rows, context, self.efficiency)

    def prefill(self, tokens: int, context: float) -> float:
        """Bound by operations."""
        rate = self._tensor_parallel * self.setup.hardware.flops * self.efficiency.compute
        return tokens * forward_flops(self._policy, context / 2) / rate

    def _operations(self, lengths: Sequence[int]) -> float:
        return sum(length * forward_flops(self._policy, length / 2) for length in lengths)

    def forward(self, lengths: Sequence[int]) -> float:
        """Bound by operations, which the ranks that share a model have in common."""
        rate = self._model_parallel * self.setup.hardware.flops * self.shares.training
        return self._operations(lengths) / rate

    def update(self, lengths: Sequence[int]) -> float:
        """Gradients take twice a forward pass."""
        return (4 if self.recomputed else 3) * self.forward(lengths)

    def sync(self) -> float:
        """All weights are gathered over the network in the engine's type, and loaded."""
        moved = self._policy.parameters * self.setup.engine_element
        gathered = moved / (self.setup.hardware.network_bandwidth * self.efficiency.links)
        return gathered + moved / self._tensor_parallel / self.efficiency.load_bandwidth


def roofline(config: OnlineConfig, hardware: Hardware, shares: Shares | None = None) -> Roofline:
    """The costs of a recipe on GPUs. Raises ValueError where its engine is not vLLM or its cache has no room."""
    setup = make_setup(config, hardware, read_architecture)
    engine, concurrency = config.rollout.engine, vllm_concurrency(setup)
    if not isinstance(engine, VllmEngineConfig) or concurrency is None:
        raise ValueError("the roofline is of vLLM on GPUs: rollout.engine.kind must be vllm")
    if concurrency.longest < 1:
        raise ValueError(f"{hardware.name}: keys and values of one longest response do not fit")
    return Roofline(
        setup,
        engine.max_batch_sequences,
        concurrency.tokens,
        shares=shares or Shares(),
        recomputed=bool(config.model.gradient_checkpointing),
    )


@dataclass(frozen=True, slots=True)
class Fitted:
    """Costs that are linear in rows and tokens, with coefficients fitted to a measured run."""

    rows: int
    decode_fixed: float  # per token drawn by all rows together
    decode_row: float  # per token and row
    prefill_token: float
    forward_token: float
    update_fixed: float  # per update
    update_token: float
    sync_fixed: float
    message: float = 0.0
    cache_tokens: int = 2**40

    def decode(self, rows: int, context: float) -> float:
        """See `Costs`; contexts of the runs are too short to count."""
        return self.decode_fixed + self.decode_row * rows

    def prefill(self, tokens: int, context: float) -> float:
        """See `Costs`."""
        return tokens * self.prefill_token

    def forward(self, lengths: Sequence[int]) -> float:
        """See `Costs`."""
        return sum(lengths) * self.forward_token

    def update(self, lengths: Sequence[int]) -> float:
        """See `Costs`."""
        return self.update_fixed + sum(lengths) * self.update_token

    def sync(self) -> float:
        """See `Costs`."""
        return self.sync_fixed
