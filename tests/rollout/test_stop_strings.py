"""Stop strings are found at the token that completes them, however the text is cut into tokens."""

from __future__ import annotations

from typing import Any

import pytest

from reasoner_rl.errors import ConfigError
from reasoner_rl.rollout.stop_strings import StopStringWatcher, split_stops


class PieceTokenizer:
    """Token i is the i-th piece of bytes; None stands for a special token."""

    def __init__(self, *pieces: bytes | None) -> None:
        self.pieces = pieces

    def decode(self, token_ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return b"".join(self.pieces[token] or b"" for token in token_ids).decode(errors="replace")


def first_hit(stop: list[str], *pieces: bytes | None) -> int | None:
    watcher = StopStringWatcher(PieceTokenizer(*pieces), stop)
    hits = [index for index in range(len(pieces)) if watcher.completes(index)]
    return hits[0] if hits else None


@pytest.mark.parametrize(
    ("stop", "pieces", "expected"),
    [
        (["end"], (b"the ", b"end"), 1),
        (["end"], (b"e", b"n", b"d", b"!"), 2),
        (["end"], (b"e", None, b"nd"), 2),
        (["end"], (b"an ending",), 0),
        (["longer one", "\n"], (b"a", b"b\nc"), 1),
        (["longer one", "x"], (b"long", b"er o", b"n", b"e"), 3),
        (["end"], (b"en", b"en", b"n"), None),
        (["né"], (b"n", b"\xc3", b"\xa9"), 2),
        (["end"], (b"end\xe2",), 0),  # the bytes of the next character do not hold it back
        (["end"], (b"\xff",) * 7 + (b"e", b"nd"), 8),
    ],
)
def test_the_completing_token_is_found(
    stop: list[str], pieces: tuple[Any, ...], expected: int | None
) -> None:
    assert first_hit(stop, *pieces) == expected


def test_real_tokenizer(tiny_tokenizer: Any) -> None:
    token_ids = tiny_tokenizer("1+2=3. Answer: 3 and more")["input_ids"]
    watcher = StopStringWatcher(tiny_tokenizer, ["Answer: 3"])
    hits = [length for length, token in enumerate(token_ids, 1) if watcher.completes(token)]
    assert tiny_tokenizer.decode(token_ids[: hits[0]]) == "1+2=3. Answer: 3"


def test_special_tokens_are_found_by_their_ids(tiny_tokenizer: Any) -> None:
    end, padding = tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id
    assert split_stops(tiny_tokenizer, ["</answer>", "<|pad|>", "pad", "<|eos|>"]) == (
        sorted([end, padding]),
        ["</answer>", "pad"],
    )
    assert split_stops(None, []) == ([], [])


@pytest.mark.parametrize("text", ["<|pad|>\n", "a<|pad|>", "<|pad|><|eos|>"])
def test_a_special_token_among_other_text_would_never_be_found(text: str, tiny_tokenizer: Any) -> None:
    with pytest.raises(ConfigError) as error:
        split_stops(tiny_tokenizer, ["ok", text])
    assert f"sampling.stop has {text!r}, in which " in str(error.value)
    assert "Write the special token as an entry of its own" in str(error.value)
