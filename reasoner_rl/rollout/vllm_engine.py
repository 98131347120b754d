"""vLLM in this process, as a rollout engine whose weights the trainer replaces after every step.

With vllm_cpu, the only module that imports vLLM. One vLLM request per response, each with a seed of its own, so a
response does not depend on the others in the batch; the prompt is computed once, by prefix caching.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor, nn
from transformers import GenerationConfig

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.rollout import SamplingConfig, VllmEngineConfig
from reasoner_rl.errors import ConfigError, require_package
from reasoner_rl.rollout import vllm_cpu
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
from reasoner_rl.rollout.vllm_views import hugging_face_views
from reasoner_rl.seeding import derive_seed
from reasoner_rl.tokenizer import context_length, require_folder
from reasoner_rl.types import FinishReason, Rollout

_SEEDS = 2**63  # vLLM holds seeds in signed 64 bits
_GIB = 2**30
_CHECKS_NAMES = Version("0.31")  # the first version that raises on a weight whose name it does not know


class VllmRolloutEngine(Generator):
    """Implements `RolloutEngine` on a `vllm.LLM` in this process.

    Args:
        llm: with logprobs_mode "processed_logprobs" and every worker in this process.
        eos_ids: tokens that end a response.
        sleep_level: 1 keeps the weights in host memory while asleep, 2 drops them; None: sleeping gives nothing back
            (on a CPU, or when a trainer uses the same weights).
        unused_ids: ids of the model's vocabulary that get no probability, because no token has them.
    """

    def __init__(
        self,
        llm: Any,
        tokenizer: Any,
        eos_ids: Sequence[int],
        sleep_level: int | None,
        unused_ids: Sequence[int] = (),
    ) -> None:
        self._llm, self._engine = llm, llm.llm_engine
        self._params: Any = importlib.import_module("vllm").SamplingParams
        # One list of numbers per response instead of a dictionary per token, where this version of vLLM has it.
        self._flat = {"flat_logprobs": True} if hasattr(self._params(), "flat_logprobs") else {}
        self._tokenizer = tokenizer
        self._eos_ids = list(eos_ids)
        self._sleep_level = sleep_level
        self._policy_version = 0
        self._in_flight = InFlight()
        # vLLM's count of requests -> ours, and number in the group
        self._places: dict[int, tuple[GenerationRequest, int]] = {}
        self._names: dict[int, str] = {}
        self.state: EngineState = "ready"
        if unused_ids:
            llm.apply_model(partial(_mask_logits, ids=unused_ids))

    @property
    def policy_version(self) -> int:
        """Version passed to the last `load_weights`."""
        return self._policy_version

    @property
    def weight_dtype(self) -> torch.dtype | None:
        """See `RolloutEngine.weight_dtype`."""
        [found] = self._llm.apply_model(only_dtype)
        return found

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        """See `Generator.submit`."""
        require_state(self, "generate", "ready")
        samples = [(request, sample) for request in requests for sample in range(request.samples)]
        params = [self._sampling_params(sampling, request, sample) for request, sample in samples]
        self._in_flight.add(requests, sampling)
        prompts = [{"prompt_token_ids": [*request.prompt_ids, *request.begun]} for request, _ in samples]
        names: list[str] = self._llm.enqueue(prompts, params, use_tqdm=False)
        for name, (request, sample) in zip(names, samples, strict=True):
            count = int(name.partition("-")[0])  # newer versions append letters to it
            self._places[count], self._names[count] = (request, sample), name

    def step(self) -> StepOutput:
        """See `Generator.step`."""
        require_state(self, "generate", "ready")
        ended = 0  # tokens of finished responses: vLLM returns nothing of the others
        for _ in range(MAX_DECODING_STEPS):
            if not self._in_flight or self._in_flight.any_finished:
                break
            for output in self._engine.step():
                if output.finished:
                    count = int(output.request_id)
                    del self._names[count]
                    request, sample = self._places.pop(count)
                    rollout = self._to_rollout(output.outputs[0], request.begun)
                    ended += len(rollout.token_ids)
                    self._in_flight.record(request.number, sample, rollout)
        return replace(self._in_flight.take(), tokens=ended)

    def interrupt(self) -> StepOutput:
        """See `Generator.interrupt`. What a batch is computing that vLLM has begun ahead of its results is lost."""
        begun, tokens = {}, 0
        for count, name in self._names.items():
            request, sample = self._places[count]
            rollout = self._to_rollout(_unfinished_output(self._engine, name), request.begun)
            tokens += len(rollout.token_ids)
            begun[request.number, sample] = rollout
        output = self._in_flight.interrupt(begun, self._policy_version)
        self.cancel()
        return replace(output, tokens=tokens)

    def cancel(self) -> None:
        """See `Generator.cancel`.

        vLLM frees the blocks of aborted requests in an order that differs between the ranks of a replica. That is of no
        effect, because weights are loaded and prefixes forgotten before the next generation.
        """
        self._engine.abort_request(list(self._names.values()), internal=True)
        self._in_flight.clear()
        self._places, self._names = {}, {}

    def _sampling_params(self, sampling: SamplingConfig, request: GenerationRequest, sample: int) -> Any:
        stop_ids, stop_texts = split_stops(self._tokenizer, sampling.stop)
        begun = len(request.begun)
        if begun and stop_texts:
            raise ConfigError(
                f"rollout.sampling.stop has {stop_texts[0]!r}, and vLLM would not find it where it begins in the part "
                "of a response that was drawn before: use stop tokens, or rollout.engine.kind: hf"
            )
        # vLLM cannot take up a random stream in its middle, so what is added has one of its own.
        stream = (request.seed, request.first_sample + sample, *([begun] if begun else []))
        return self._params(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=request.limit(sampling),
            min_tokens=min(max(sampling.min_response_tokens - begun, 0), request.limit(sampling)),
            stop=stop_texts or None,
            include_stop_str_in_output=True,
            stop_token_ids=[*self._eos_ids, *stop_ids],
            seed=derive_seed(*stream) % _SEEDS,
            logprobs=0,  # of the sampled token alone
            detokenize=bool(stop_texts),  # vLLM finds stop strings in the text
            **self._flat,
        )

    def _to_rollout(self, output: Any, begun: Sequence[int]) -> Rollout:
        token_ids = tuple(output.token_ids)
        if self._flat:  # one entry per position, that of the sampled token
            assert tuple(output.logprobs.token_ids) == token_ids
            logprobs = tuple(output.logprobs.logprobs)
        else:
            positions = zip(output.logprobs, token_ids, strict=True)
            logprobs = tuple(position[token].logprob for position, token in positions)
        reason: FinishReason = "length" if output.finish_reason in ("length", "abort") else "stop"
        text = self._tokenizer.decode([*begun, *token_ids], skip_special_tokens=True)
        return Rollout(token_ids, logprobs, reason, self._policy_version, text)

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """See `RolloutEngine.score`."""
        require_state(self, "score", "ready")
        params = self._params(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        [output] = self._llm.generate([{"prompt_token_ids": list(token_ids)}], params, use_tqdm=False)
        pairs = zip(output.prompt_logprobs[1:], token_ids[1:], strict=True)
        return [position[token].logprob for position, token in pairs]

    def wake_weights(self) -> None:
        """See `RolloutEngine.wake_weights`."""
        require_state(self, "wake_weights", "asleep")
        if self._sleep_level is not None:
            self._llm.wake_up(tags=["weights"])
        self.state = "weights"

    def load_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """See `RolloutEngine.load_weights`. Of tensors that vLLM fuses, it is not noticed if some are missing."""
        require_state(self, "load_weights", "weights", "ready")
        source = _Source(tensors)

        def load(model: nn.Module) -> list[str]:
            loaded = model.load_weights(iter(source))  # type: ignore[operator]
            return sorted({_as_reported(name) for name, _ in model.named_parameters()} - set(loaded or ()))

        try:
            [missing] = self._llm.apply_model(load)
        except (KeyError, ValueError, AssertionError) as error:  # what vLLM's loaders raise
            if source.error is not None:
                raise
            reason = str(error).partition(". The available")[0]  # the rest of the message lists all names
            raise ValueError(f"the weights do not fit the rollout model: {reason}") from error
        if missing:
            raise ValueError(f"the weights do not fit the rollout model: {', '.join(missing)} got none")
        self.use_shared_weights(version)

    def use_shared_weights(self, version: int) -> None:
        """See `RolloutEngine.adopt`."""
        require_state(self, "adopt", "weights", "ready")
        self._forget_prefixes()
        self._policy_version = version

    def storage(self, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """The engine's own weights under Hugging Face names, for a trainer to train in place.

        shapes: of every tensor of the trainer. Raises ConfigError if the two do not hold the same tensors.
        """

        def views(model: nn.Module) -> dict[str, Tensor]:
            fused: Any = getattr(model, "packed_modules_mapping", {})
            return hugging_face_views({n: p.data for n, p in model.named_parameters()}, fused, shapes)

        [found] = self._llm.apply_model(views)
        return dict(found)

    def wake_cache(self) -> None:
        """See `RolloutEngine.wake_cache`."""
        require_state(self, "wake_cache", "weights")
        if self._sleep_level is not None:
            self._llm.wake_up(tags=["kv_cache"])
        self.state = "ready"

    def sleep(self) -> None:
        """See `RolloutEngine.sleep`."""
        require_idle(self._in_flight)
        if self.state != "asleep":
            self._finish_batches()
            if self._sleep_level is not None:
                self._llm.sleep(level=self._sleep_level)
        self.state = "asleep"

    def _finish_batches(self) -> None:
        """Wait for all work on the device: vLLM unmaps memory at once, even if it is still in use.

        With asynchronous scheduling vLLM starts a batch before it knows that the last response has ended.
        """
        core = self._engine.engine_core.engine_core
        while core.batch_queue:
            self._engine.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def differing_tensors(self, tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
        """See `RolloutEngine.differing`.

        vLLM fuses and pads tensors in ways that differ between models, so each is loaded by vLLM's own loader; one
        that changes anything was different. Holds a copy of the weights in host memory meanwhile.
        """
        require_state(self, "differing", "weights", "ready")

        def compare(model: nn.Module) -> list[str]:
            parameters = {_as_reported(name): parameter for name, parameter in model.named_parameters()}
            before = {name: _copy_to_host(parameter) for name, parameter in parameters.items()}
            changed = []
            for name, tensor in tensors:
                touched = model.load_weights([(name, tensor)])  # type: ignore[operator]
                after = {part: _copy_to_host(parameters[part]) for part in touched}
                if any(not torch.equal(after[part], before[part]) for part in touched):
                    changed.append(name)
                before |= after
            return changed

        [changed] = self._llm.apply_model(compare)
        self._forget_prefixes()
        return changed

    def _forget_prefixes(self) -> None:
        """Keys and values of prompts under the old weights must not be used again."""
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache: requests are still running")


def build_vllm_engine(
    model_config: ModelConfig,
    config: VllmEngineConfig,
    tokenizer: Any,
    device: torch.device,
    *,
    context_tokens: int,
    seed: int,
    dummy_weights: bool = False,
    unused_ids: Sequence[int] = (),
) -> VllmRolloutEngine:
    """Start vLLM in this process.

    context_tokens: longest prompt and response together.
    dummy_weights: start with random weights instead of those of ``model_config.path``, because a trainer publishes its
        own before anything is generated.
    unused_ids: see VllmRolloutEngine.

    Raises MissingExtraError if vLLM is not installed, and ConfigError if it refuses the model or lacks memory.
    """
    require_folder("model.path", model_config.path)
    on_cpu = device.type == "cpu"
    llm_class = _import_llm(on_cpu, config.dtype or model_config.dtype)
    options = vllm_options(model_config, config, on_cpu=on_cpu, context_tokens=context_tokens)
    options |= {"seed": seed, "load_format": "dummy" if dummy_weights else "auto"}
    if not on_cpu:
        torch.cuda.empty_cache()  # blocks that torch only keeps for later would count as taken
        check_memory(config.gpu_memory_utilization, *torch.cuda.mem_get_info(device))
    try:
        llm = llm_class(**options)
    except (ValueError, OSError, NotImplementedError) as error:
        raise refusal(error, model_config, config) from error
    try:
        generation = GenerationConfig.from_pretrained(model_config.path)
    except OSError:
        generation = None
    eos_ids = end_of_sequence_ids(generation, tokenizer)
    can_sleep = not on_cpu and not config.share_weights
    return VllmRolloutEngine(llm, tokenizer, eos_ids, config.sleep_level if can_sleep else None, unused_ids)


def vllm_options(
    model: ModelConfig, config: VllmEngineConfig, *, on_cpu: bool, context_tokens: int
) -> dict[str, Any]:
    """The arguments of `vllm.LLM` that the recipe decides."""
    options: dict[str, Any] = {
        "model": model.path,
        "tokenizer": model.tokenizer or model.path,
        "trust_remote_code": model.trust_remote_code,
        "dtype": config.dtype or model.dtype,
        "max_model_len": min(context_tokens, context_length(model) or context_tokens),
        "max_num_seqs": config.max_batch_sequences,
        "tensor_parallel_size": config.tensor_parallel,
        "distributed_executor_backend": "external_launcher" if config.tensor_parallel > 1 else "uni",
        # It looks up the devices of all ranks, and a worker of Ray sees only its own.
        "disable_custom_all_reduce": config.tensor_parallel > 1,
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "enforce_eager": config.enforce_eager or on_cpu,
        "disable_log_stats": True,
        "use_tqdm_on_load": sys.stderr.isatty(),
    }
    if on_cpu:
        # Whole prompts only: vLLM cannot rewind a CPU generator, which a prompt cut in two needs.
        return options | {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(context_tokens, config.max_batched_tokens),
        }
    return options | {
        "enable_sleep_mode": not config.share_weights,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "max_num_batched_tokens": config.max_batched_tokens,
    }


def check_memory(utilization: float, free: int, whole: int) -> None:
    """Raise ConfigError unless the share of the GPU that vLLM is to take, of ``whole`` bytes, is free."""
    if free < (needed := utilization * whole):
        raise ConfigError(
            f"rollout.engine.gpu_memory_utilization={utilization:g} of a GPU with {whole / _GIB:.1f} GiB needs "
            f"{needed / _GIB:.1f} GiB for vLLM, and {free / _GIB:.1f} GiB are free beside the trainer's weights and "
            "other programs: lower it, or free the GPU"
        )


def refusal(error: Exception, model: ModelConfig, config: VllmEngineConfig) -> ConfigError:
    """The message when vLLM does not start: that memory is short, or that it does not know the model."""
    if "gpu_memory_utilization" in str(error):  # which vLLM names wherever more memory would help
        return ConfigError(
            f"rollout.engine.gpu_memory_utilization={config.gpu_memory_utilization:g}: vLLM lacks memory: {error}"
        )
    if vllm_cpu.CACHE in str(error):
        return ConfigError(f"{vllm_cpu.CACHE}={os.environ.get(vllm_cpu.CACHE)}: vLLM lacks memory: {error}")
    return ConfigError(f"model.path={model.path!r}: vLLM refuses it: {error}")


def _import_llm(on_cpu: bool, dtype: str) -> Any:
    extra = "vllm-cpu" if on_cpu else "vllm"
    require_package("vllm", extra, extra, "rollout.engine.kind=vllm")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine's core in this process too
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if on_cpu:
        vllm_cpu.set_environment()
    elif dtype == "float32":
        # vLLM's attention in float32 is Triton's, whose products are in TF32 otherwise.
        os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    warnings.filterwarnings("ignore", "`torch.distributed.reduce_op` is deprecated", FutureWarning)  # in vLLM
    llm_class: Any = importlib.import_module("vllm").LLM
    if on_cpu:
        vllm_cpu.adapt()
    elif Version(version := metadata.version("vllm")) < _CHECKS_NAMES:
        warnings.warn(
            f"vLLM {version} ignores weights under names that it does not know, so that a weight which the trainer has "
            f"and vLLM lacks is not reported; vLLM {_CHECKS_NAMES} and newer report it",
            stacklevel=2,
        )
    return llm_class


def _unfinished_output(engine: Any, name: str) -> Any:
    """What vLLM has of the one response of a request in flight, as it would return it if it ended now."""
    state = engine.output_processor.request_states[name]
    reasons: Any = importlib.import_module("vllm.v1.engine").FinishReason
    output = state.make_request_output([], None, reasons.ABORT, None)
    return output.outputs[0]


@dataclass(slots=True)
class _Source:
    """A stream of tensors that remembers whether it was the stream that failed, and not its reader."""

    tensors: Iterable[tuple[str, Tensor]]
    error: Exception | None = None

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        try:
            yield from self.tensors
        except Exception as error:
            self.error = error
            raise


def _mask_logits(model: nn.Module, ids: Sequence[int]) -> None:
    """Give ``ids`` no probability wherever vLLM computes logits: in sampling, and in the logprobs of prompts.

    A logits processor of vLLM would act on sampling alone, and a weight sync is checked by logprobs of a prompt.
    """
    compute: Any = model.compute_logits
    masked = torch.tensor(ids, device=next(model.parameters()).device)

    def compute_logits(*args: Any, **options: Any) -> Tensor | None:
        logits: Tensor | None = compute(*args, **options)  # None on ranks that do not sample
        return logits if logits is None else logits.index_fill_(-1, masked, -torch.inf)

    model.compute_logits = compute_logits  # type: ignore[assignment]


def _as_reported(name: str) -> str:
    """A parameter's name as vLLM's loaders report it: they leave out the module that holds the experts."""
    return name.replace(".experts.routed_experts.", ".experts.")


def _copy_to_host(parameter: Tensor) -> Tensor:
    return parameter.detach().to("cpu", copy=True)
