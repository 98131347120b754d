"""What every rollout engine can do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from torch import Tensor

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.types import Rollout

# asleep: holds as little device memory as it can. weights: has room for weights and none to generate. ready: generates.
EngineState = Literal["asleep", "weights", "ready"]
# Most tokens that a response grows by in a step; bounds how long a caller waits to hear of progress, or to cancel.
MAX_DECODING_STEPS = 64


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Draw ``samples`` responses to one prompt, or continue one."""

    prompt_ids: tuple[int, ...]
    samples: int
    seed: int  # response j is drawn from its own random stream (seed, j), whatever else is in the batch
    number: int = 0  # the caller's name for it, unique among those in flight
    first_sample: int = 0  # the j of its first response
    # Tokens of the one response that were drawn before. The rollout holds what is added, and the text of the whole.
    begun: tuple[int, ...] = ()
    max_tokens: int | None = (
        None  # most tokens to add; sampling.max_response_tokens, less those begun, if unset
    )

    def limit(self, sampling: SamplingConfig) -> int:
        """Most tokens to add to each response."""
        room = sampling.max_response_tokens - len(self.begun)
        return room if self.max_tokens is None else min(room, self.max_tokens)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a generator has finished since its last step."""

    # The number of the request, and its responses.
    finished: list[tuple[int, list[Rollout]]] = field(default_factory=list)
    responses: int = 0  # those of requests that are still in flight count too
    tokens: int = 0  # decoded since then, to show progress; vLLM counts a response's when it has ended
    # Of an interruption: the number of a request that has not finished, and what there is of its responses. One that
    # has not begun has no tokens, and one that has not ended the finish reason "length".
    interrupted: list[tuple[int, list[Rollout]]] = field(default_factory=list)

    def followed_by(self, later: StepOutput) -> StepOutput:
        """Both together."""
        return StepOutput(
            self.finished + later.finished,
            self.responses + later.responses,
            self.tokens + later.tokens,
            self.interrupted + later.interrupted,
        )


class Generator(Protocol):
    """Answers prompts step by step, so that the caller can act on what is finished while the rest is in flight.

    Rollouts' logprobs are those of the distribution sampled from, after temperature, top-k and top-p. A special token
    in ``sampling.stop`` ends a response as end-of-sequence does. Ids that no token has get no probability.
    """

    @abstractmethod
    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        """Take on more work. Whatever is in flight already must have the same ``sampling``.

        Raises ValueError for an empty prompt, another sampling, or a stop text that holds a special token.
        """

    @abstractmethod
    def step(self) -> StepOutput:
        """Generate until a request is finished, or for `MAX_DECODING_STEPS` at most.

        Returns an empty output if nothing is in flight.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Drop everything that is in flight."""

    @abstractmethod
    def interrupt(self) -> StepOutput:
        """Stop everything that is in flight, and return what there is of it, to be continued by other requests.

        Requests of which nothing was drawn may be left out.
        """

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        sampling: SamplingConfig,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[list[Rollout]]:
        """Return the responses of each request, in order; all are cancelled if something goes wrong.

        ``progress`` is called after every step, with how many more responses are finished and tokens decoded.
        """
        found: dict[int, list[Rollout]] = {}
        try:
            self.submit([replace(r, number=number) for number, r in enumerate(requests)], sampling)
            while len(found) < len(requests):
                output = self.step()
                found.update(output.finished)
                if progress is not None:
                    progress(output.responses, output.tokens)
        except Exception:  # Ctrl-C ends the process, and must not wait for workers to tidy up
            self.cancel()
            raise
        return [found[number] for number in range(len(requests))]


class RolloutEngine(Generator, Protocol):
    """Generates responses with a copy of the policy's weights.

        ready --sleep--> asleep --wake_weights--> weights --load_weights--> weights --wake_cache--> ready

    A new engine is ready, with the weights of the checkpoint it was built from. A call in the wrong state raises
    RuntimeError. Sleeping may lose the weights, so they are loaded between waking and generating.
    """

    state: EngineState

    @property
    def policy_version(self) -> int:
        """Version passed to the last `load_weights`."""
        ...

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Return the logprob, at temperature 1, of every token of ``token_ids`` [n] but the first: [n - 1]."""
        ...

    def sleep(self) -> None:
        """Give memory back to training."""
        ...

    def wake_weights(self) -> None:
        """Take back the memory of the weights."""
        ...

    def load_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over full tensors under their Hugging Face names. Raises ValueError naming what does not fit."""
        ...

    def use_shared_weights(self, version: int) -> None:
        """Generate as policy ``version``: the weights were changed in place, by a trainer that shares their storage."""
        ...

    def wake_cache(self) -> None:
        """Take back the rest of the memory, and get ready to generate."""
        ...

    def differing_tensors(self, tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
        """Return the names of the tensors that are not, to the bit, what the engine holds in its number format.

        For finding out what went wrong; the engine's weights are undefined afterwards.
        """
        ...


def require_state(engine: RolloutEngine, call: str, *states: EngineState) -> None:
    """Raise RuntimeError unless the engine is in one of ``states``."""
    if engine.state not in states:
        raise RuntimeError(f"{call} needs an engine that is {' or '.join(states)}; it is {engine.state}")


def end_of_sequence_ids(generation_config: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a response: the tokenizer's, and those that the model's generation config names."""
    named = getattr(generation_config, "eos_token_id", None)
    ids = set(named if isinstance(named, list) else [named]) | {tokenizer.eos_token_id}
    return sorted(ids - {None})
