"""Options of generators: one frozen record per generator, whose fields carry their meaning and their bounds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from reasoner_rl.errors import ConfigError


def option(default: Any, meaning: str, *, at_least: float | None = None, at_most: float | None = None) -> Any:
    """A field of a record of options: its default, its meaning for the help text, and its bounds, if it has any."""
    return field(default=default, metadata={"meaning": meaning, "at_least": at_least, "at_most": at_most})


@dataclass(frozen=True, slots=True)
class Option:
    """One field of a record of options."""

    name: str
    default: Any
    meaning: str

    @property
    def flag(self) -> str:
        """What the command line calls it."""
        return flag(self.name)


def flag(name: str) -> str:
    """What the command line calls a field."""
    return f"--{name.replace('_', '-')}"


def options_of(record: type[Any]) -> Iterator[Option]:
    """The fields of a record of options, in order."""
    return (Option(entry.name, entry.default, entry.metadata["meaning"]) for entry in fields(record))


def check_bounds(options: Any) -> None:
    """Raise ConfigError naming the flag, the value and the rule if a field of the record is out of its bounds."""
    for entry in fields(options):
        low, high = entry.metadata["at_least"], entry.metadata["at_most"]
        value = getattr(options, entry.name)
        if (low is None or low <= value) and (high is None or value <= high):
            continue
        rule = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{flag(entry.name)} {value}: must be {rule}")


def parser_of(record: type[Any], description: str) -> argparse.ArgumentParser:
    """The parser of a script with the flags ``--out``, ``--seed`` and one flag per field of the record."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="decides every problem (default 0)")
    for entry in options_of(record):
        parser.add_argument(
            entry.flag,
            type=type(entry.default),
            default=entry.default,
            help=f"{entry.meaning} (default {entry.default})",
        )
    return parser


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many problems are made."""

    train: int = option(4096, "training problems", at_least=1)
    heldout: int = option(300, "held-out problems", at_least=1)

    @property
    def counts(self) -> dict[str, int]:
        """By the name of the file, in the order in which they are drawn."""
        return {"heldout": self.heldout, "train": self.train}


@dataclass(frozen=True, slots=True)
class SizesWithLesson(Sizes):
    """Sizes of sets that can be had with worked solutions."""

    sft: int = option(0, "further problems, with worked solutions, for SFT", at_least=0)

    @property
    def counts(self) -> dict[str, int]:
        """See `Sizes.counts`."""
        return {"heldout": self.heldout, "train": self.train, "sft": self.sft}
