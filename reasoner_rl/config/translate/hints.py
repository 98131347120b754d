"""What a key of verl or TRL is called here: for the errors of unknown keys."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reasoner_rl.config.translate.terms import Term
from reasoner_rl.config.translate.trl_keys import TRL
from reasoner_rl.config.translate.verl_keys import VERL

# What a file must hold to be one of theirs and no recipe.
_MARKS = {
    "verl": ("actor_rollout_ref",),
    "TRL": ("model_name_or_path", "per_device_train_batch_size", "num_generations"),
}


def foreign_hint(path: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'? That is verl's y here`` for a key of verl or TRL; empty for others.

    path: as it was given; verl's keys are found by their whole path, and all by their last name. known: our keys in
    recipes of the kind.
    """
    candidates = _terms().get(path) or _terms().get(path.rpartition(".")[2], ())
    if not candidates:
        return ""
    here = set(known)
    found: dict[str, list[str]] = {}
    for name, term in candidates:
        if term.ours in here:
            note = f" ({term.note})" if term.note else ""
            found.setdefault(term.ours, []).append(f"{name}{note}")
    if found:
        ours = " or ".join(repr(key) for key in found)
        theirs = " and ".join(dict.fromkeys(name for names in found.values() for name in names))
        return f" Did you mean {ours}? That is {theirs} here"
    reasons = dict.fromkeys(
        f"{name} has no counterpart: {term.note}" for name, term in candidates if not term.ours
    )
    return f" {'; '.join(reasons)}" if reasons else ""


def is_foreign(path: str) -> bool:
    """Whether a whole path is that of a key of verl, or the name of one of TRL."""
    return path in _terms()


def foreign_config(tree: Mapping[str, Any]) -> str:
    """Return a sentence on how to translate a file that is a configuration of verl or TRL; empty for others."""
    for framework, marks in _MARKS.items():
        if any(mark in tree for mark in marks):
            return (
                f" It looks like a configuration of {framework}: `reasoner-rl config from-{framework.lower()} FILE` "
                "makes a recipe of it"
            )
    return ""


@functools.cache
def _terms() -> Mapping[str, tuple[tuple[str, Term], ...]]:
    """By whole path, and by last name where it is longer: (the key's name in a message, its term)."""
    found: dict[str, list[tuple[str, Term]]] = {}
    for key, name, term in _every_term():
        for word in dict.fromkeys((key, key.rpartition(".")[2])):
            if (name, term) not in found.setdefault(word, []):
                found[word].append((name, term))
    return {word: tuple(terms) for word, terms in found.items()}


def _every_term() -> Iterator[tuple[str, str, Term]]:
    for key, term in VERL.terms.items():
        yield key, f"verl's {key}", term
    for vocabulary in TRL.values():
        for key, term in vocabulary.terms.items():
            yield key, f"TRL's {key}", term
