"""Decoding responses side by side: one token per row and step, and rows of ended responses are given to others."""

from __future__ import annotations

import inspect
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.profiler import record_function

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.rollout.attention import RowBlock, row_blocks
from reasoner_rl.rollout.kv_cache import BLOCK_TOKENS, KvCache, aligned
from reasoner_rl.rollout.sampling import UniformStreams, choose_tokens
from reasoner_rl.rollout.stop_strings import StopStringWatcher

PREFILL_TOKENS = 16384  # bounds the activations of one prefill pass
# Rows are rearranged, which copies the cache, when so large a share of them has ended or can be added.
REARRANGE_FROM = 0.2


@dataclass(frozen=True, slots=True)
class Pending:
    """A response to be drawn."""

    request: int
    sample: int
    stream: tuple[int, int]  # of random numbers
    prompt_ids: tuple[int, ...]
    begun: tuple[int, ...]  # tokens of the response that were drawn before
    limit: int  # most tokens to add


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Which tokens and texts end a response, and which tokens are never chosen. The ids are on the model's device."""

    ending: Tensor  # [E] int64; they end a response
    unused: Tensor  # [U] int64; ids of the model that no token has
    stop_texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Ended:
    """A response that is whole, or was cut off at its limit. R tokens."""

    pending: Pending
    token_ids: array[int]  # [R] int32
    logprobs: array[float]  # [R] float32, of the distribution sampled from
    cut_off: bool


class DecodingBatch:
    """The responses that are being drawn, one per row. What is said of them is kept on the host.

    An ended response keeps its row until `rearrange`. Responses depend on their own context and random numbers alone,
    up to rounding.
    """

    def __init__(self, model: nn.Module, sampling: SamplingConfig, rules: TokenRules, tokenizer: Any) -> None:
        self._sampling, self._rules, self._tokenizer = sampling, rules, tokenizer
        self._ending = rules.ending.cpu().numpy()
        self._decoder = Decoder(model, rules.ending.device)
        self._pending: list[Pending] = []
        self._watchers: list[StopStringWatcher] = []  # one per row if there are stop texts
        self._streams = UniformStreams([])
        self._begun = numpy.zeros(0, numpy.int64)  # [rows] tokens drawn before
        self._drawn = numpy.zeros(0, numpy.int64)  # [rows] tokens added
        self._limits = numpy.zeros(0, numpy.int64)  # [rows] tokens
        self._going = numpy.zeros(0, bool)  # [rows]
        width = sampling.max_response_tokens
        self._token_ids = numpy.zeros(
            (0, width), numpy.int32
        )  # [rows, T]; entries past `drawn` are undefined
        self._logprobs = numpy.zeros((0, width), numpy.float32)

    @property
    def going(self) -> int:
        """Responses that have not ended."""
        return int(self._going.sum())

    def worth_rearranging(self, addable: int) -> bool:
        """Whether enough rows have ended, or can be added, for `rearrange` to be worth a copy of the cache."""
        rows = len(self._pending)
        return addable >= max(1, REARRANGE_FROM * rows) or rows - self.going > REARRANGE_FROM * rows

    def rearrange(self, added: Sequence[Pending]) -> None:
        """Drop the rows of ended responses, and start ``added`` in new ones."""
        kept, limits = numpy.flatnonzero(self._going), [pending.limit for pending in added]
        self._limits = numpy.concatenate([self._limits[kept], numpy.array(limits, numpy.int64)])
        self._drawn = _extended(self._drawn[kept], len(added))
        self._token_ids = _extended(self._token_ids[kept], len(added))
        self._logprobs = _extended(self._logprobs[kept], len(added))
        self._going = numpy.ones(len(self._limits), bool)
        self._pending = [self._pending[row] for row in kept] + list(added)
        self._begun = numpy.concatenate([self._begun[kept], [len(pending.begun) for pending in added]])
        self._streams.rearrange(kept, [(pending.stream, len(pending.begun)) for pending in added])
        if self._rules.stop_texts:
            self._watchers = [self._watchers[row] for row in kept] + [self._watcher(p) for p in added]
        self._decoder.rearrange(kept, added, int((self._limits - self._drawn).max()))

    def _watcher(self, pending: Pending) -> StopStringWatcher:
        watcher = StopStringWatcher(self._tokenizer, self._rules.stop_texts)
        for token in pending.begun:
            watcher.completes(token)
        return watcher

    def step(self) -> list[Ended]:
        """Draw one token per row; returns the responses that ended with it.

        Raises FloatingPointError if the model's probabilities for one of them were NaN.
        """
        uniforms = torch.from_numpy(self._streams.next()).to(self._decoder.logits.device)
        logits = self._without_early_endings(self._decoder.logits)
        chosen, chosen_logprobs = choose_tokens(logits, self._sampling, uniforms, self._rules.unused)
        tokens, rows = chosen.cpu().numpy(), numpy.flatnonzero(self._going)
        self._token_ids[rows, self._drawn[rows]] = tokens[rows]
        self._logprobs[rows, self._drawn[rows]] = chosen_logprobs.cpu().numpy()[rows]
        self._drawn[rows] += 1
        complete = self._going & numpy.isin(tokens, self._ending)
        if self._watchers:
            complete |= self._completed_by_text(tokens)
        ended = self._going & (complete | (self._drawn == self._limits))
        self._going &= ~ended
        if self.going:
            self._decoder.step(chosen)
        return [self._ended(int(row), cut_off=not complete[row]) for row in numpy.flatnonzero(ended)]

    def unfinished(self) -> list[Ended]:
        """What there is of the responses that have not ended, but for those without a token."""
        rows = numpy.flatnonzero(self._going & (self._drawn > 0))
        return [self._ended(int(row), cut_off=True) for row in rows]

    def _without_early_endings(self, logits: Tensor) -> Tensor:
        """Rows with fewer than min_response_tokens cannot end."""
        early = self._begun + self._drawn < self._sampling.min_response_tokens
        if not early.any():
            return logits
        rows = torch.from_numpy(numpy.flatnonzero(early)).to(logits.device)
        logits = logits.clone()
        logits[rows.unsqueeze(1), self._rules.ending] = -torch.inf
        return logits

    def _completed_by_text(self, tokens: NDArray[numpy.int64]) -> NDArray[numpy.bool_]:
        """Which rows [rows] have now written a stop string."""
        return numpy.array(
            [
                going and watcher.completes(token)
                for watcher, token, going in zip(
                    self._watchers, tokens.tolist(), self._going.tolist(), strict=True
                )
            ]
        )

    def _ended(self, row: int, cut_off: bool) -> Ended:
        length = self._drawn[row]
        token_ids, logprobs = self._token_ids[row, :length], self._logprobs[row, :length]
        if numpy.isnan(logprobs).any():
            raise FloatingPointError("the model's probabilities are NaN: its weights or activations overflow")
        ids, numbers = array("i", token_ids.tobytes()), array("f", logprobs.tobytes())
        return Ended(self._pending[row], ids, numbers, cut_off)


def _extended(rows: NDArray[Any], more: int) -> NDArray[Any]:
    return numpy.concatenate([rows, numpy.zeros((more, *rows.shape[1:]), rows.dtype)])


@dataclass(frozen=True, slots=True)
class Contexts:
    """What the model has read, a context per row, padded on the left: the last token of each is in the last column."""

    cache: KvCache
    padding: Tensor  # [rows] int64, columns
    logits: Tensor  # [rows, V]; they predict each row's next token
    blocks: Sequence[RowBlock] | None = None  # for attention


def joined(parts: Sequence[tuple[Contexts, Tensor]], spare_tokens: int) -> Contexts:
    """The given rows [n] int64 of each part, repeats allowed, one part below the other, without needless padding.

    spare_tokens: room to leave for more.
    """
    columns = max(part.cache.get_seq_length() for part, _ in parts)
    padding = torch.cat([part.padding[rows] + columns - part.cache.get_seq_length() for part, rows in parts])
    needless = int(padding.min())
    cache = aligned([(part.cache, rows) for part, rows in parts], columns - needless, spare_tokens)
    return Contexts(cache, padding - needless, torch.cat([part.logits[rows] for part, rows in parts]))


class Decoder:
    """Lets the model read: prompts when rows are added, and one token per row at every step."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        # Newer versions of transformers call the argument cache, and from 5.40 on nothing else.
        arguments = inspect.signature(model.forward).parameters
        self._cache_argument = "cache" if "cache" in arguments else "past_key_values"
        self._model, self._device = model, device
        nothing = torch.empty(0, dtype=torch.int64, device=device)
        self._contexts = Contexts(KvCache(), nothing, torch.empty(0, device=device))
        # The prompts that were read last: other responses to them may start later.
        self._prompts: tuple[list[tuple[int, ...]], Contexts] = ([], self._contexts)

    @property
    def logits(self) -> Tensor:
        """[rows, V]; they predict each row's next token."""
        return self._contexts.logits

    def rearrange(self, kept: NDArray[numpy.int64], added: Sequence[Pending], remaining: int) -> None:
        """Keep the rows ``kept`` [n] and append one for each of ``added``, with its prompt read.

        remaining: most tokens that any of these rows may still get.
        """
        parts = [(self._contexts, torch.from_numpy(kept).to(self._device))] if len(kept) else []
        if added:
            wanted = [pending.prompt_ids + pending.begun for pending in added]
            prompts, contexts = self._read(wanted)
            places = {prompt: place for place, prompt in enumerate(prompts)}
            parts.append((contexts, torch.tensor([places[prompt] for prompt in wanted], device=self._device)))
        contexts = joined(parts, min(remaining, BLOCK_TOKENS))
        if (
            self._device.type == "cpu"
        ):  # elsewhere blocks are of no use, and the padding would have to be fetched
            blocks = row_blocks(contexts.padding.tolist(), contexts.cache.get_seq_length())
            contexts = replace(contexts, blocks=blocks)
        self._contexts = contexts

    def _read(self, prompts: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], Contexts]:
        """The prompts, each once and in an order, and read; those that were read last time are not read again."""
        before, contexts = self._prompts
        wanted = dict.fromkeys(prompts)
        again = [place for place, prompt in enumerate(before) if prompt in wanted]
        known = [before[place] for place in again]
        for prompt in known:
            del wanted[prompt]
        fresh = list(wanted)
        parts = [(contexts, torch.tensor(again, device=self._device))] if again else []
        if fresh:
            parts += self._prefill(fresh)
        self._prompts = known + fresh, joined(parts, 0)
        return self._prompts

    def _prefill(self, prompts: list[tuple[int, ...]]) -> list[tuple[Contexts, Tensor]]:
        """Read each prompt once, as many at a time as memory is meant for; the parts of `joined`, in order."""
        columns = max(map(len, prompts))
        padding = torch.tensor([columns - len(prompt) for prompt in prompts], device=self._device)
        padded = torch.tensor([(0,) * (columns - len(prompt)) + prompt for prompt in prompts])
        rows = max(1, PREFILL_TOKENS // columns)
        parts = []
        for input_ids, pads in zip(padded.to(self._device).split(rows), padding.split(rows), strict=True):
            cache = KvCache()
            with record_function("prefill"):
                logits = self._forward(input_ids, pads, cache, columns)
            parts.append((Contexts(cache, pads, logits), torch.arange(len(pads), device=self._device)))
        return parts

    def step(self, tokens: Tensor) -> None:
        """Read one token per row, [rows] int64."""
        contexts = self._contexts
        columns = contexts.cache.get_seq_length() + 1
        with record_function("decode"):
            logits = self._forward(
                tokens.unsqueeze(1), contexts.padding, contexts.cache, columns, row_blocks=contexts.blocks
            )
        self._contexts = replace(contexts, logits=logits)

    def _forward(
        self, input_ids: Tensor, padding: Tensor, cache: KvCache, columns: int, **attention: Any
    ) -> Tensor:
        """The logits [rows, V] after ``input_ids`` [rows, n], which fill the cache up to ``columns``."""
        column = torch.arange(columns, device=padding.device)
        positions = column - padding.unsqueeze(1)
        output = self._model(
            input_ids=input_ids,
            attention_mask=(positions >= 0) if padding.any() else None,
            position_ids=positions[:, -input_ids.shape[1] :].clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_argument: cache},
            **attention,
        )
        return output.logits[:, -1]
