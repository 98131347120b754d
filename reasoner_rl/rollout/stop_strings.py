"""Finding stop strings in text that grows by a token at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "\ufffd"  # what a tokenizer writes for the first bytes of a character
_CHARACTER_TOKENS = 4  # a UTF-8 character has at most four bytes, so at most as many tokens


class StopStringWatcher:
    """Decodes one response as it grows and says when a stop string has appeared.

    Only the last few tokens are decoded again for each new one. The decoder is shown some whose text is known
    already, for it needs them to place spaces and to join the bytes of a character.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._known: list[int] = []  # tokens that are decoded again as context
        self._new: list[int] = []  # tokens after them, whose text is not final
        self._tail = ""  # final text in which a stop string might begin

    def completes(self, token_id: int) -> bool:
        """Append a token; return whether a stop string is now complete."""
        self._new.append(token_id)
        text = self._tail + self._decode(self._known + self._new)[len(self._decode(self._known)) :]
        if not text.endswith(_REPLACEMENT) or len(self._new) >= _CHARACTER_TOKENS:
            self._known, self._new = self._new, []
            self._tail = text[-max(map(len, self._stop)) :]
        return any(stop in text for stop in self._stop)

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text
