"""Decoding one batch side by side: prefill, then one token a row and step, until every row has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.rollout.kv_cache import BLOCK_TOKENS, KvCache, concatenate
from reasoner_rl.rollout.sampling import UniformStreams, choose_tokens
from reasoner_rl.rollout.stop_strings import StopStringWatcher

PREFILL_TOKENS = 16384  # bounds the activations of one prefill pass
# Rows that have ended are dropped when fewer than this share are still being decoded: each drop copies the cache.
RETIRE_BELOW = 0.8


@dataclass(frozen=True, slots=True)
class Pending:
    """A response to be drawn."""

    request: int  # pending responses to the same request share the prefill of its prompt
    sample: int
    seed: int
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Which tokens and texts end a response, and which tokens are never chosen. The ids are on the model's device."""

    ending: Tensor  # [E] int64; they end a response
    unused: Tensor  # [U] int64; ids of the model that no token has
    stop_texts: Sequence[str]


class Decoded:
    """The responses of a batch of B, in its order. T is the limit on response tokens."""

    def __init__(self, batch: int, limit: int, device: torch.device) -> None:
        self.token_ids = torch.zeros(batch, limit, dtype=torch.int64, device=device)  # [B, T]
        self.logprobs = torch.zeros(batch, limit, device=device)  # [B, T] float32
        self.lengths = torch.full((batch,), limit, device=device)  # [B] int64; entries past it are undefined
        # [B]; True until the response has ended, so that in the end it marks those that were cut off at the limit.
        self.going = torch.ones(batch, dtype=torch.bool, device=device)


def decode_batch(
    model: nn.Module,
    batch: Sequence[Pending],
    sampling: SamplingConfig,
    rules: TokenRules,
    tokenizer: Any,
    decoded: Decoded,
) -> Iterator[int]:
    """Draw the responses of ``batch`` together into ``decoded``; yields, at every step, how many have ended with it.

    Raises FloatingPointError if the model's probabilities are NaN.
    """
    limit, device = sampling.max_response_tokens, rules.ending.device
    decoder = Decoder(model, batch, limit, device)
    streams = UniformStreams([(pending.seed, pending.sample) for pending in batch], device)
    watchers = [StopStringWatcher(tokenizer, rules.stop_texts) for _ in batch] if rules.stop_texts else []
    going = decoded.going
    rows = torch.arange(len(batch), device=device)  # which response each of the decoder's rows holds
    early = torch.cat([rules.unused, rules.ending])
    for position in range(limit):
        forbidden = early if position < sampling.min_response_tokens else rules.unused
        chosen, chosen_logprobs = choose_tokens(
            decoder.logits, sampling, streams.next_column(position)[rows], forbidden
        )
        decoded.token_ids[rows, position], decoded.logprobs[rows, position] = chosen, chosen_logprobs
        ended = torch.isin(chosen, rules.ending) & going[rows]
        if watchers:
            ended |= _ended_by_text(watchers, rows, chosen, going)
        decoded.lengths[rows[ended]] = position + 1
        going[rows[ended]] = False
        yield int(ended.sum())
        remaining = int(going.sum())
        if remaining == 0 or position + 1 == limit:
            break
        if remaining < RETIRE_BELOW * len(rows):
            kept = going[rows].nonzero().squeeze(1)
            decoder.keep(kept)
            rows, chosen = rows[kept], chosen[kept]
        decoder.step(chosen)
    if decoded.logprobs.isnan().any():
        raise FloatingPointError("the model's probabilities are NaN: its weights or activations overflow")
    yield remaining


def _ended_by_text(
    watchers: Sequence[StopStringWatcher], rows: Tensor, chosen: Tensor, going: Tensor
) -> Tensor:
    """Which of the decoder's rows [rows] bool are still being decoded and have now written a stop string."""
    ended = [
        unfinished and watchers[response].completes(token)
        for response, token, unfinished in zip(
            rows.tolist(), chosen.tolist(), going[rows].tolist(), strict=True
        )
    ]
    return torch.tensor(ended, device=chosen.device)


class Decoder:
    """The rows that are being decoded: their cache, and the arguments that describe it to the model.

    Prompts are padded on the left, so that every row's next token goes to the same column of the cache.
    """

    def __init__(self, model: nn.Module, batch: Sequence[Pending], limit: int, device: torch.device) -> None:
        self._model = model
        self._limit = limit
        prompts = {pending.request: pending.prompt_ids for pending in batch}
        places = {request: place for place, request in enumerate(prompts)}
        self._columns = max(map(len, prompts.values()))
        padding = torch.tensor([self._columns - len(prompt) for prompt in prompts.values()], device=device)
        self._cache, logits = self._prefill(list(prompts.values()), padding)
        rows = torch.tensor([places[pending.request] for pending in batch], device=device)
        self._cache.gather_rows(rows, min(limit, BLOCK_TOKENS))
        self._padding = padding[rows]
        self.logits = logits[rows]  # [rows, V]; they predict each row's next token

    def _prefill(self, prompts: list[tuple[int, ...]], padding: Tensor) -> tuple[KvCache, Tensor]:
        """Read each prompt once; the last column's logits are those of the prompt's last token."""
        padded = torch.tensor([(0,) * (self._columns - len(prompt)) + prompt for prompt in prompts])
        rows = max(1, PREFILL_TOKENS // self._columns)
        caches, logits = [], []
        for input_ids, pads in zip(padded.to(padding.device).split(rows), padding.split(rows), strict=True):
            caches.append(KvCache())
            logits.append(self._forward(input_ids, pads, caches[-1], self._columns))
        return concatenate(caches), torch.cat(logits)

    def step(self, tokens: Tensor) -> None:
        """Read one token a row, [rows] int64."""
        self._columns += 1
        self.logits = self._forward(tokens.unsqueeze(1), self._padding, self._cache, self._columns)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but ``rows`` [n] int64."""
        self._cache.gather_rows(rows, BLOCK_TOKENS)
        self._padding = self._padding[rows]

    def _forward(self, input_ids: Tensor, padding: Tensor, cache: KvCache, columns: int) -> Tensor:
        """The logits [rows, V] after ``input_ids`` [rows, n], which fill the cache up to ``columns``."""
        column = torch.arange(columns, device=padding.device)
        positions = column - padding.unsqueeze(1)
        output = self._model(
            input_ids=input_ids,
            attention_mask=(positions >= 0) if padding.any() else None,
            position_ids=positions[:, -input_ids.shape[1] :].clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]
