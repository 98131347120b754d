"""The text of each token of a run's tokenizer, from its tokenizer.json, so that tokens can be shown one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# A token's text, or its bytes where they are only a part of a character.
Piece = str | list[int]


def find_pieces(folder: Path, recipe: Mapping[str, Any], notes: list[str]) -> list[Piece | None] | None:
    """The piece of every token id of the run's tokenizer, from 0; None, with a note, if no tokenizer.json is found."""
    tried = []
    for path in _candidates(folder, recipe):
        tried.append(str(path))
        if path.is_file():
            try:
                return read_pieces(path)
            except (OSError, ValueError, LookupError, TypeError) as error:
                notes.append(f"{path} cannot be read: {type(error).__name__}: {error}")
    notes.append(
        "tokens are shown by their ids, because no tokenizer.json was found; looked for "
        f"{', '.join(tried) or 'none: no recipe'}"
    )
    return None


def _candidates(folder: Path, recipe: Mapping[str, Any]) -> Iterator[Path]:
    yield folder / "final" / "tokenizer.json"
    for key in ("model.tokenizer", "model.path"):
        if name := recipe.get(key):
            yield Path(name).expanduser() / "tokenizer.json"
            if not Path(name).expanduser().exists() and (cached := _in_hub_cache(name)):
                yield cached


def _in_hub_cache(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "tokenizer.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def read_pieces(path: Path) -> list[Piece | None]:
    """The piece of every id, in the order of ids; None for ids that no token has."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tree["model"]["vocab"]
    if isinstance(vocabulary, list):  # of a unigram model: [[token, score], ...]
        vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
    whole = {entry["id"]: entry["content"] for entry in tree.get("added_tokens", [])}
    of_bytes = _byte_of_character() if "ByteLevel" in json.dumps(tree.get("decoder")) else None
    pieces: list[Piece | None] = [None] * (1 + max([*vocabulary.values(), *whole], default=-1))
    for token, number in vocabulary.items():
        pieces[number] = _piece(token, of_bytes)
    for number, content in whole.items():
        pieces[number] = content
    return pieces


def _piece(token: str, of_bytes: Mapping[str, int] | None) -> Piece:
    if of_bytes is not None:
        data = bytes(of_bytes[char] for char in token if char in of_bytes)
    elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):  # SentencePiece's fallback
        data = bytes([int(token[3:5], 16)])
    else:
        return token.replace("\u2581", " ")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return list(data)


def _byte_of_character() -> dict[str, int]:
    """The characters that stand for bytes in byte-level vocabularies, as GPT-2 defined them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
