"""Stop strings: which of them are special tokens, and finding the others in text that grows by a token at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasoner_rl.errors import ConfigError

_REPLACEMENT = "\ufffd"  # what a tokenizer writes for the first bytes of a character
_CHARACTER_TOKENS = 4  # a UTF-8 character has at most four bytes, so at most as many tokens


def split_stops(tokenizer: Any, stop: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the ids of the special tokens in ``stop``, and the other texts.

    The text of a response has no special tokens, so that these can be found by their ids alone. Raises ConfigError for
    a text that holds a special token among other characters, which would never be found.
    """
    if not stop:
        return [], []
    special = {
        token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    special |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    texts = [text for text in stop if text not in special]
    for text in texts:
        if found := [token for token in special if token in text]:
            raise ConfigError(
                f"sampling.stop has {text!r}, in which {found[0]!r} is a special token: stop texts are looked for in a "
                "response's text, which has no special tokens. Write the special token as an entry of its own"
            )
    return sorted({special[text] for text in stop if text in special}), texts


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
