"""What every metric of a run means: its unit, what it is a mean, sum or maximum of, and what it says.

The texts are in glossary.yaml, which also says how keys, units and reductions are written. tests/observability/
test_glossary.py reads off the source which metrics there are, and compares.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import yaml

Unit = Literal[
    "share",
    "number",
    "score",
    "squared score",
    "score per nat",
    "nats",
    "nats per token",
    "nats per response",
    "tokens",
    "tokens per second",
    "responses",
    "groups",
    "comparisons",
    "rows",
    "steps",
    "rounds",
    "versions",
    "seconds",
    "GiB",
    "GiB per second",
]
_PLACEHOLDER = re.compile(r"\{([^}]+)\}")


@dataclass(frozen=True, slots=True)
class MetricDoc:
    """One metric, or all whose keys fit one pattern."""

    key: str  # exact, or with {name} for any text and {a|b} for one of the words
    unit: Unit
    reduced: str  # such as "mean over generated responses"
    meaning: str

    def matches(self, key: str) -> bool:
        """Whether a logged key is of this entry."""
        return _expression(self.key).fullmatch(key) is not None


@dataclass(frozen=True, slots=True)
class MetricGroup:
    """Metrics that are explained together."""

    title: str
    about: str  # what they have in common, or nothing
    metrics: tuple[MetricDoc, ...]


@cache
def glossary() -> tuple[MetricGroup, ...]:
    """All metrics, by group."""
    text = (importlib.resources.files("reasoner_rl.observability") / "glossary.yaml").read_text(
        encoding="utf-8"
    )
    return tuple(map(_group, yaml.safe_load(text)))


def every_metric() -> Iterator[MetricDoc]:
    """The entries of all groups, in order."""
    for group in glossary():
        yield from group.metrics


@cache
def meaning_of(key: str) -> MetricDoc | None:
    """The entry of a key of metrics.jsonl; None if there is none, as for what a user's own algorithm logs.

    Of several patterns that fit, the one that says most of the key counts.
    """
    fitting = [doc for doc in every_metric() if doc.matches(key)]
    return max(fitting, key=lambda doc: len(_PLACEHOLDER.sub("", doc.key)), default=None)


def _group(fields: dict[str, Any]) -> MetricGroup:
    common = {name: fields[name] for name in ("unit", "reduced")}
    entries = {
        key: {"meaning": entry} if isinstance(entry, str) else entry
        for key, entry in fields["metrics"].items()
    }
    docs = (MetricDoc(key, **{**common, **entry}) for key, entry in entries.items())
    return MetricGroup(fields["title"], fields.get("about", ""), tuple(docs))


@cache
def _expression(key: str) -> re.Pattern[str]:
    """The regular expression of a key: text and placeholders alternate."""
    parts = _PLACEHOLDER.split(key)
    choices = (
        f"(?:{'|'.join(map(re.escape, name.split('|')))})" if "|" in name else ".+" for name in parts[1::2]
    )
    pairs = zip(parts[::2], [*choices, ""], strict=True)
    return re.compile("".join(f"{re.escape(text)}{choice}" for text, choice in pairs))
