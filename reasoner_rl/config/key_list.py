"""The keys of a kind of recipe as people read them: each once, by the name that an override has, filtered by words."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from reasoner_rl.config.base import Section
from reasoner_rl.config.keys import Key, show_default, walk_keys

_LONGEST_DEFAULT = 28
_INDENT = "    "


@dataclass(frozen=True, slots=True)
class KeyDoc:
    """One key, or a section that has the keys of another."""

    path: str  # as in an override
    type: str
    default: str  # as YAML; "required" if there is none, and where kinds differ "0.2, 0.28 with dapo"
    description: str
    kinds: tuple[str, ...] = ()  # of the section that has this key with these kinds alone
    hidden: str = ""  # what can be searched for besides: keys that are listed with another section


def list_keys(kind: str, words: Iterable[str] = ()) -> list[KeyDoc]:
    """Return the keys of the kind of recipe ``kind`` that hold all words in their name, type or meaning.

    In the order of the models. A section that was listed before under another name is one entry, and so is a key that
    several kinds of a section share. Raises ConfigError for an unknown kind.
    """
    lowered = [word.lower() for word in words]
    return [doc for doc in _every_doc(kind) if all(word in _text(doc) for word in lowered)]


def key_lines(docs: Iterable[KeyDoc], width: int, long: bool) -> Iterator[str]:
    """Yield a line of at most ``width`` characters per key; with ``long`` its whole type, default and meaning below it.

    A line reads `path=default  (type)  meaning`.
    """
    for doc in docs:
        default = (
            doc.default
            if long or len(doc.default) <= _LONGEST_DEFAULT
            else cut(doc.default, _LONGEST_DEFAULT)
        )
        head = (
            f"{doc.path}={default}"
            if doc.default not in ("", "required")
            else f"{doc.path}  {doc.default}".rstrip()
        )
        kinds = f" [{', '.join(doc.kinds)}]" if doc.kinds else ""
        about = f"({doc.type}){kinds}"
        if long:
            yield head
            for text in (about, doc.description):
                yield from textwrap.wrap(
                    text,
                    max(width, 40),
                    initial_indent=_INDENT,
                    subsequent_indent=_INDENT,
                    break_on_hyphens=False,
                    break_long_words=False,
                )
        else:
            yield cut(f"{head:<40}  {about}  {doc.description}", width)


def _every_doc(kind: str) -> list[KeyDoc]:
    keys = walk_keys(kind)
    again = _sections_listed_before(keys)
    kinds_of = {
        key.path.removesuffix(".kind"): tuple(key.type.split(" | "))
        for key in keys
        if key.path.endswith(".kind")
    }
    alike: dict[tuple[str, str, str], list[Key]] = {}
    hidden: dict[str, list[str]] = {}
    for key in keys:
        above = next((prefix for prefix in again if key.path.startswith(f"{prefix}.")), None)
        if above is not None and _is_listed_before(key, above, again[above], keys):
            hidden.setdefault(above, []).append(f"{key.path} {key.description}")
        elif key.path in again or _is_a_key(key):
            alike.setdefault((key.path, key.type, key.description), []).append(key)
    return [_doc(same, kinds_of, again, hidden) for same in alike.values()]


def _doc(
    same: list[Key], kinds_of: dict[str, tuple[str, ...]], again: dict[str, str], hidden: dict[str, list[str]]
) -> KeyDoc:
    """The entry of keys that are alike but for the kind that they belong to."""
    key = same[0]
    kinds: tuple[str, ...] = ()
    if key.variant is not None:
        kinds = tuple(k.variant[1] for k in same if k.variant is not None)
        if set(kinds) == set(kinds_of[key.variant[0]]):
            kinds = ()
    description, default = key.description, _defaults(same)
    below = key.path if key.path in again else f"{key.path}.0"
    if below in again:
        description = f"Keys as of {again[below]}. {description}"
        default = default if _is_a_key(key) else ""
    return KeyDoc(key.path, key.type, default, description, kinds, " ".join(hidden.get(below, ())))


def _defaults(same: list[Key]) -> str:
    """The default, and which kinds have others."""
    defaults = {key.variant[1] if key.variant else "": show_default(key.default) for key in same}
    common = Counter(defaults.values()).most_common(1)[0][0]
    others: dict[str, list[str]] = {}
    for kind, default in defaults.items():
        if default != common:
            others.setdefault(default, []).append(kind)
    return ", ".join(
        [common, *(f"{default} with {' and '.join(kinds)}" for default, kinds in others.items())]
    )


def _sections_listed_before(keys: Sequence[Key]) -> dict[str, str]:
    """Path of a section (of a list's elements: with .0) -> path of the first one of the same class."""
    first: dict[type[Section], str] = {}
    again: dict[str, str] = {}
    for key in keys:
        if key.section is None or any(key.path.startswith(f"{prefix}.") for prefix in again):
            continue
        path = f"{key.path}.0" if key.shape == "list" else key.path
        if first.setdefault(key.section, path) != path:
            again[path] = first[key.section]
    return again


def _is_listed_before(key: Key, prefix: str, first: str, keys: Sequence[Key]) -> bool:
    """Whether the section listed first has a key of this name with the same default."""
    path = f"{first}{key.path.removeprefix(prefix)}"
    return any(
        other.path == path and show_default(other.default) == show_default(key.default) for other in keys
    )


def _is_a_key(key: Key) -> bool:
    return key.shape not in ("section", "variants") or key.default is None  # which may be left out


def _text(doc: KeyDoc) -> str:
    return " ".join([doc.path, doc.type, doc.description, *doc.kinds, doc.hidden]).lower()


def cut(text: str, width: int) -> str:
    """Return a text of at most ``width`` characters, the last one an ellipsis if something is left out."""
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"
