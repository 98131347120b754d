"""What a translation is made of: tables of their keys, the settings that are given, the recipe drafted from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from reasoner_rl.config.translate.read import is_filled_in
from reasoner_rl.errors import ConfigError, did_you_mean

_KEYS_BY_NAME = 4  # of a section without a counterpart, at most; of more the number is said


@dataclass(frozen=True, slots=True)
class Term:
    """One of their keys: what it is here, and what it is there where it is left out."""

    ours: str = ""  # the path of our key; empty if there is none
    default: Any = None
    note: str = ""  # what differs, or why there is no counterpart


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The keys of one framework, or of one of its trainers."""

    framework: str  # as it is written: verl, TRL
    terms: Mapping[str, Term]
    sections: Mapping[str, str] = field(default_factory=dict)  # why all keys below a path have no counterpart

    def section_of(self, key: str) -> str | None:
        """The longest path in ``sections`` that ``key`` stands below, or is; None if there is none."""
        found = [path for path in self.sections if key == path or key.startswith(f"{path}.")]
        return max(found, key=len, default=None)


class Settings:
    """The settings that are given, with the framework's defaults behind them.

    given: without those whose values hold a variable that nothing fills in; they are in ``unread``.
    """

    def __init__(self, given: Mapping[str, Any], vocabulary: Vocabulary) -> None:
        self.given = {key: value for key, value in given.items() if is_filled_in(value)}
        self.unread = {key: value for key, value in given.items() if key not in self.given}
        self.vocabulary = vocabulary

    def value(self, key: str) -> Any:
        """The value of a key of the table, or its default."""
        default = self.vocabulary.terms[key].default
        return self.given.get(key, default)

    def number(self, key: str) -> float:
        """The same, which must be a number. Raises ConfigError."""
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "must be a number")
        return value

    def integer(self, key: str) -> int:
        """The same, which must be a whole number. Raises ConfigError."""
        value = self.number(key)
        if value != int(value):
            raise self._wrong(key, "must be a whole number")
        return int(value)

    def size(self, key: str) -> int:
        """The same, which must be a whole number above 0. Raises ConfigError."""
        if (value := self.integer(key)) < 1:
            raise self._wrong(key, "must be at least 1")
        return value

    def switch(self, key: str) -> bool:
        """The same, which must be true or false. Raises ConfigError."""
        value = self.value(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "must be true or false")
        return value

    def chosen(self, key: str, words: Mapping[str, str]) -> str:
        """What a word of theirs is here. Raises ConfigError if it is none of ``words``."""
        value = str(self.value(key))
        if value not in words:
            raise self._wrong(key, f"has no counterpart: those with one are {', '.join(words)}")
        return words[value]

    def _wrong(self, key: str, rule: str) -> ConfigError:
        return ConfigError(f"{self.vocabulary.framework}'s {key} = {self.given.get(key)!r}: {rule}")


@dataclass(slots=True)
class Draft:
    """A recipe on the way: our keys with their values, where each comes from, and what could not be said."""

    values: dict[str, Any] = field(default_factory=dict)  # by path
    origins: dict[str, tuple[str, ...]] = field(default_factory=dict)  # our path -> their keys
    words: dict[str, str] = field(default_factory=dict)  # our path -> how the value follows
    without: dict[str, str] = field(default_factory=dict)  # their key -> why it has no counterpart
    to_do: list[str] = field(default_factory=list)  # what the user has to set

    def put(self, ours: str, value: Any, *theirs: str, words: str = "") -> None:
        """Set one of our keys, which follows from ``theirs``."""
        self.values[ours] = value
        self.origins[ours] = theirs
        if words:
            self.words[ours] = words

    def copy(self, ours: str, read: Callable[[str], Any], theirs: str, words: str = "") -> None:
        """Set one of our keys to the value of one of theirs. read: a method of `Settings`."""
        self.put(ours, read(theirs), theirs, words=words)

    def leave_out(self, key: str, why: str) -> None:
        """Say why one of their keys is nothing here."""
        self.without[key] = why


@dataclass(frozen=True, slots=True)
class Translation:
    """A recipe, and an account of every setting that was given."""

    framework: str
    tree: Mapping[str, Any]  # the recipe
    origins: Mapping[str, str]  # our path -> their keys
    words: Mapping[str, str]  # our path -> how the value follows
    without: Mapping[str, str]  # their key, or `section.* (3 keys)` -> why it has no counterpart
    neutral: tuple[str, ...]  # keys without counterpart that are at their defaults
    unknown: Mapping[str, Any]  # keys that were not understood -> their values
    known: Collection[str]  # keys of the framework
    to_do: tuple[str, ...]

    def nearest(self, key: str) -> str:
        """Return `` Did you mean 'x'?`` for a key that was not understood, or an empty string."""
        return did_you_mean(key, self.known)


def account(draft: Draft, settings: Settings) -> Translation:
    """Put the draft together, and find for every setting that is given where it has gone."""
    vocabulary = settings.vocabulary
    without = {key: why for key, why in draft.without.items() if key in settings.given}
    for key in settings.unread.keys() & vocabulary.terms.keys():
        default = f"{vocabulary.framework}'s default is taken"
        without[key] = f"its value {settings.unread[key]!r} holds a variable that nothing sets; {default}"
    neutral: list[str] = []
    unknown: dict[str, Any] = {}
    below: dict[str, list[str]] = {}  # sections without counterpart -> those of their keys that are given
    said = {key for keys in draft.origins.values() for key in keys} | without.keys()
    for key, value in {**settings.given, **settings.unread}.items():
        term = vocabulary.terms.get(key)
        if key in said:
            continue
        if term is not None:
            if value == term.default:
                neutral.append(key)
            elif not term.ours:
                without[key] = term.note
            else:
                without[key] = "without effect beside the other settings"
            continue
        section = vocabulary.section_of(key)
        if section is not None:
            below.setdefault(section, []).append(key)
        else:
            unknown[key] = value
    for section, keys in below.items():
        names = keys if len(keys) <= _KEYS_BY_NAME else [f"{section}.* ({len(keys)} keys)"]
        without.update(dict.fromkeys(names, vocabulary.sections[section]))
    origins = {ours: _origin(theirs, settings) for ours, theirs in draft.origins.items() if theirs}
    return Translation(
        framework=vocabulary.framework,
        tree=_tree(draft.values),
        origins=origins,
        words=draft.words,
        without=without,
        neutral=tuple(neutral),
        unknown=unknown,
        known=vocabulary.terms.keys(),
        to_do=tuple(draft.to_do),
    )


def _origin(theirs: tuple[str, ...], settings: Settings) -> str:
    given = [key for key in theirs if key in settings.given]
    return ", ".join(given) if given else f"{theirs[0]}, {settings.vocabulary.framework}'s default"


def _tree(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *parents, name = path.split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    return tree
