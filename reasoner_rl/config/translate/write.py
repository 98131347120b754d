"""A translation as a YAML file that explains itself."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from reasoner_rl.config.explain import show
from reasoner_rl.config.translate.terms import Translation
from reasoner_rl.config.yaml_text import dump_yaml

_WIDTH = 110


def write_recipe(translation: Translation) -> str:
    """Return the recipe as YAML: where each key comes from, the arithmetic, and at the end what is left over."""
    command = f"reasoner-rl config from-{translation.framework.lower()}"
    lines = [f"# Made by `{command}`. Behind each key stands the one that it comes from."]
    for task in translation.to_do:
        lines += _comment(f"To do: {task}.")
    lines += _section(translation.tree, "", translation)
    lines += list(leftovers(translation))
    return "\n".join(lines) + "\n"


def leftovers(translation: Translation) -> Iterator[str]:
    """The lines of comment about settings that are not in the recipe."""
    theirs = translation.framework
    if translation.without:
        yield "#"
        yield f"# Settings of {theirs} without a counterpart here, or without effect:"
        for why, keys in _by_reason(translation.without).items():
            yield from _comment(f"{', '.join(keys)}: {why}", "- ")
    if translation.neutral:
        yield "#"
        yield f"# At {theirs}'s defaults, which need no counterpart:"
        yield from _comment(", ".join(translation.neutral), "  ")
    if translation.unknown:
        yield "#"
        yield "# Not understood, and not in the recipe:"
        for key, value in translation.unknown.items():
            yield from _comment(f"{key} = {show(value)}.{translation.nearest(key)}", "- ")


def summary(translation: Translation) -> str:
    """One line on how much was translated."""
    counts = [
        (len(translation.origins), "keys of the recipe"),
        (len(translation.without), "settings without a counterpart or effect"),
        (len(translation.unknown), "not understood"),
        (len(translation.to_do), "to do by hand"),
    ]
    return ", ".join(f"{count} {what}" for count, what in counts)


def _section(tree: Mapping[str, Any], path: str, translation: Translation) -> Iterator[str]:
    indent = "  " * path.count(".") + ("  " if path else "")
    for key, value in tree.items():
        below = f"{path}.{key}" if path else key
        if words := translation.words.get(below):
            yield from (indent + line for line in _comment(words))
        origin = translation.origins.get(below)
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:"
            yield from _section(value, below, translation)
            continue
        first, *others = dump_yaml({key: value}).rstrip("\n").split("\n")
        yield f"{indent}{first}" + (f"   # {origin}" if origin else "")
        yield from (indent + line for line in others)


def _by_reason(without: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for key, why in without.items():
        reasons.setdefault(why, []).append(key)
    return reasons


def _comment(text: str, mark: str = "") -> list[str]:
    width = _WIDTH - 2
    wrapped = textwrap.wrap(
        text,
        width,
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [f"# {line}" for line in wrapped]
