"""`reasoner-rl config metrics`: what runs log, as people read it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from reasoner_rl.config.key_list import KeyDoc, key_lines
from reasoner_rl.errors import ConfigError
from reasoner_rl.observability.glossary import MetricDoc, MetricGroup, glossary


def metric_lines(words: Sequence[str], width: int, long: bool) -> Iterator[str]:
    """Yield a line of at most ``width`` characters per metric that holds all words, in the style of `key_lines`.

    Words are looked for in a metric's key, unit, reduction and meaning, and in its group's title. With ``long``
    reductions and groups are told too, and everything in full. Raises ConfigError if there is no such metric.
    """
    lowered = [word.lower() for word in words]
    found = [(group, [doc for doc in group.metrics if _holds(group, doc, lowered)]) for group in glossary()]
    if not any(docs for _, docs in found):
        raise ConfigError(f"no metric has {' and '.join(map(repr, words))} in its name, unit or meaning")
    for group, docs in found:
        if docs and long:
            yield from textwrap.wrap(f"{group.title}. {group.about}".strip(), max(width, 40))
        yield from key_lines((_as_key(doc, long) for doc in docs), width, long)


def _holds(group: MetricGroup, doc: MetricDoc, words: Sequence[str]) -> bool:
    text = " ".join([group.title, doc.key, doc.unit, doc.reduced, doc.meaning]).lower()
    return all(word in text for word in words)


def _as_key(doc: MetricDoc, long: bool) -> KeyDoc:
    return KeyDoc(doc.key, f"{doc.unit}, {doc.reduced}" if long else doc.unit, "", doc.meaning)
