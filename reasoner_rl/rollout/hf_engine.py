"""The embedded rollout engine: a batched sampling loop over a transformers model.

It needs nothing but PyTorch and transformers, runs anywhere, and is the fastest choice for models of up to some tens
of millions of parameters. Places of ended responses are given to waiting ones. Left out on purpose: paged caches and
tensor parallelism, which are what the vLLM engine is for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.rollout import HfEngineConfig, SamplingConfig
from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.experts import as_in_checkpoints
from reasoner_rl.rollout.attention import DECODE_ATTENTION
from reasoner_rl.rollout.decoding import DecodingBatch, Ended, Pending, TokenRules
from reasoner_rl.rollout.engine import (
    MAX_DECODING_STEPS,
    EngineState,
    GenerationRequest,
    Generator,
    StepOutput,
    end_of_sequence_ids,
    only_dtype,
    require_state,
)
from reasoner_rl.rollout.in_flight import InFlight, require_idle
from reasoner_rl.rollout.stop_strings import split_stops
from reasoner_rl.tokenizer import require_folder
from reasoner_rl.types import Rollout

_CACHED_LAYERS = {"full_attention", "sliding_attention"}


class HfRolloutEngine(Generator):
    """Generates with its own plain (unsharded) copy of the policy; implements `RolloutEngine`.

    Args:
        model: a transformers causal language model. The engine takes it over: it moves it to ``device``, switches
            gradients and dropout off and sets its attention function.
        tokenizer: decodes responses, and names one end-of-sequence token; the model's generation config may name more.
        max_batch_sequences: responses decoded side by side.
        unused_ids: ids of the model's vocabulary that get no probability, because no token has them.

    Raises:
        UserError: the model's attention cannot be set, or it has layers other than full or sliding-window attention.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        max_batch_sequences: int,
        device: torch.device,
        unused_ids: Sequence[int] = (),
    ) -> None:
        _check_architecture(model)
        model.set_attn_implementation(DECODE_ATTENTION)
        self._model: nn.Module = model.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._eos_ids = end_of_sequence_ids(getattr(model, "generation_config", None), tokenizer)
        self._unused_ids = torch.tensor(unused_ids, dtype=torch.int64, device=device)
        self._max_batch_sequences = max_batch_sequences
        self._device = device
        self._policy_version = 0
        self.state: EngineState = "ready"
        self._weights_complete = True
        self._in_flight = InFlight()
        self._waiting = deque[Pending]()
        self._batch: DecodingBatch | None = None

    @property
    def policy_version(self) -> int:
        """Version passed to the last `load_weights`."""
        return self._policy_version

    @property
    def weight_dtype(self) -> torch.dtype | None:
        """See `RolloutEngine.weight_dtype`."""
        return only_dtype(self._model)

    @property
    def decoder(self) -> nn.Module:
        """The model without its output embedding, to compare what is inside."""
        model: Any = self._model
        decoder: nn.Module = model.get_decoder()
        return decoder

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        """See `Generator.submit`. Raises RuntimeError unless ready."""
        require_state(self, "generate", "ready")
        if not self._weights_complete:
            raise RuntimeError("generate needs complete weights; the last load_weights failed")
        self._in_flight.add(requests, sampling)
        self._waiting += [
            Pending(
                request.number,
                sample,
                (request.seed, request.first_sample + sample),
                request.prompt_ids,
                tuple(request.begun),
                request.limit(sampling),
            )
            for request in requests
            for sample in range(request.samples)
        ]

    @torch.inference_mode()
    def step(self) -> StepOutput:
        """See `Generator.step`."""
        require_state(self, "generate", "ready")
        finished = tokens = 0
        for _ in range(MAX_DECODING_STEPS):
            self._fill()
            if self._batch is None or self._in_flight.any_finished:
                break
            tokens += self._batch.going
            for pending, rollout in self._rollouts(self._batch.step()):
                self._in_flight.record(pending.request, pending.sample, rollout)
                finished += 1
        if not self._in_flight:
            self._batch = None  # what it has read is of these weights
        return StepOutput(self._in_flight.take().finished, finished, tokens)

    def cancel(self) -> None:
        """See `Generator.cancel`."""
        self._in_flight.clear()
        self._waiting.clear()
        self._batch = None

    def interrupt(self) -> StepOutput:
        """See `Generator.interrupt`."""
        begun = self._rollouts(self._batch.unfinished()) if self._batch else []
        by_sample = {(pending.request, pending.sample): rollout for pending, rollout in begun}
        output = self._in_flight.interrupt(by_sample, self._policy_version)
        self.cancel()
        return output

    def _fill(self) -> None:
        """Give free rows to waiting responses, in their order; the batch ends with its last response."""
        if self._batch is None and self._waiting:
            self._batch = self._new_batch()
        if self._batch is None:
            return
        addable = min(self._max_batch_sequences - self._batch.going, len(self._waiting))
        if not addable and not self._batch.going:
            self._batch = None
        elif self._batch.worth_rearranging(addable):
            self._batch.rearrange([self._waiting.popleft() for _ in range(addable)])

    def _new_batch(self) -> DecodingBatch:
        sampling = self._in_flight.sampling
        stop_ids, stop_texts = split_stops(self._tokenizer, sampling.stop)
        ending = torch.tensor(sorted({*self._eos_ids, *stop_ids}), device=self._device)
        rules = TokenRules(ending, self._unused_ids, stop_texts)
        return DecodingBatch(self._model, sampling, rules, self._tokenizer)

    def _rollouts(self, ended: Sequence[Ended]) -> list[tuple[Pending, Rollout]]:
        if not ended:  # of nothing, a tokenizer makes one empty text
            return []
        whole = [[*e.pending.begun, *e.token_ids] for e in ended]
        texts = self._tokenizer.batch_decode(whole, skip_special_tokens=True)
        version = self._policy_version
        return [
            (e.pending, Rollout(e.token_ids, e.logprobs, "length" if e.cut_off else "stop", version, text))
            for e, text in zip(ended, texts, strict=True)
        ]

    @torch.no_grad()
    def load_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copy full tensors into the model in place, cast to its dtype.

        Tied weights may come under either name or both. Buffers may be left out.

        Raises:
            ValueError: names the weights that are missing, unknown or of the wrong shape. The engine then refuses to
                generate until a load succeeds.
            RuntimeError: the engine is asleep.
        """
        require_state(self, "load_weights", "weights", "ready")
        self._weights_complete = False
        targets = self._as_in_checkpoints(self._model.state_dict(keep_vars=True).items())
        loaded: set[int] = set()
        problems: list[str] = []
        for name, tensor in tensors:
            target = targets.get(name)
            if target is None:
                problems.append(f"{name} is unknown")
                continue
            loaded.add(target.data_ptr())  # which tied weights share
            if target.shape != tensor.shape:
                problems.append(f"{name} has shape {tuple(tensor.shape)}, not {tuple(target.shape)}")
            else:
                target.copy_(tensor)
        parameters = self._as_in_checkpoints(self._model.named_parameters())
        problems += [f"{name} is missing" for name, p in parameters.items() if p.data_ptr() not in loaded]
        if problems:
            raise ValueError("the weights do not fit the rollout model: " + "; ".join(problems))
        self._policy_version = version
        self._weights_complete = True

    def _as_in_checkpoints(self, named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        config: Any = self._model.config
        return dict(as_in_checkpoints(config, named))

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """See `RolloutEngine.score`."""
        require_state(self, "score", "ready")
        ids = torch.tensor([list(token_ids)], device=self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            logits.index_fill_(-1, self._unused_ids, -torch.inf)
        chosen: list[float] = logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].tolist()
        return chosen

    def sleep(self) -> None:
        """Move the weights off the GPU. On a CPU there is nothing to give back: caches are freed with their batch."""
        require_idle(self._in_flight)
        self.state = "asleep"
        self._model.to("cpu")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def wake_weights(self) -> None:
        """Bring the weights back; they are those from before `sleep`."""
        require_state(self, "wake_weights", "asleep")
        self._model.to(self._device)
        self.state = "weights"

    def use_shared_weights(self, version: int) -> None:
        """See `RolloutEngine.adopt`."""
        require_state(self, "adopt", "weights", "ready")
        self._policy_version = version

    def wake_cache(self) -> None:
        """Get ready to generate; a cache is made anew for each batch."""
        require_state(self, "wake_cache", "weights")
        self.state = "ready"

    def differing_tensors(self, tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
        """See `RolloutEngine.differing`."""
        require_state(self, "differing", "weights", "ready")
        held = self._as_in_checkpoints(self._model.state_dict().items())
        return [name for name, tensor in tensors if not torch.equal(held[name], tensor.to(held[name]))]


def build_hf_engine(
    model_config: ModelConfig,
    engine_config: HfEngineConfig,
    tokenizer: Any,
    device: torch.device,
    unused_ids: Sequence[int] = (),
) -> HfRolloutEngine:
    """Load the checkpoint that training starts from into an engine of its own."""
    require_folder("model.path", model_config.path)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            model_config.path,
            dtype=getattr(torch, engine_config.dtype or model_config.dtype),
            trust_remote_code=model_config.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path={model_config.path!r} cannot be loaded: {error}") from error
    return HfRolloutEngine(model, tokenizer, engine_config.max_batch_sequences, device, unused_ids)


def _check_architecture(model: Any) -> None:
    name = type(model).__name__
    if not getattr(model, "_supports_attention_backend", False):
        raise UserError(
            f"rollout.engine.kind: hf sets the model's attention function, and {name} lets none be set. Use vllm."
        )
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if unfit := sorted(kinds - _CACHED_LAYERS):
        raise UserError(
            f"rollout.engine.kind: hf generates with full and sliding-window attention layers; "
            f"{name} has {', '.join(unfit)}. Use vllm."
        )
