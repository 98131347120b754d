"""The card of a prepared data set: everything that is known of it, for people in Markdown and for programs in JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reasoner_rl.datasets.measures import Lengths

SHOWN = 20  # rows of a list in the card; the report has all


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file, by what it holds."""

    path: str
    rows: int | None  # of a source: None
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the rows come from."""

    title: str
    repository: str | None  # on the hub
    commit: str | None
    split: str | None
    reference: str | None
    licence: str | None
    used_for: str | None
    files: tuple[FileFacts, ...]


@dataclass(frozen=True, slots=True)
class Flagged:
    """A problem with something to look at."""

    where: str  # file and row
    what: str


@dataclass(frozen=True, slots=True)
class ComparedWith:
    """What training problems have in common with one evaluation set."""

    path: str
    problems: int
    too_short: int  # for the rule of runs of words
    evaluation: Mapping[
        str, int
    ]  # kind -> problems of the evaluation set of which it is the strongest overlap
    affected: int  # problems of the evaluation set that overlap in any way
    train: int  # training problems that overlap in any way
    pairs: tuple[Mapping[str, object], ...]  # row, evaluation row, kind, similarity


@dataclass(frozen=True, slots=True)
class Card:
    """The contents of the card of a prepared data set."""

    name: str
    command: str
    versions: Mapping[str, str]
    origin: Origin
    columns: str  # how the rows were read
    template: str
    data_sources: Mapping[str, int]
    counts: Mapping[str, int]  # what became of the rows, in order
    expected: int | None  # problems, by the publisher
    bad: tuple[str, ...]
    conflicts: tuple[Flagged, ...]
    refused: tuple[Flagged, ...]  # ground truths that the verifier does not take as their own answer
    refused_dropped: bool
    compared: tuple[ComparedWith, ...]
    contaminated_dropped: bool
    answer_types: Mapping[str, int]
    lengths: tuple[Lengths, ...]
    notes: tuple[str, ...]
    written: Mapping[str, FileFacts]  # by what they are for


def markdown(card: Card) -> str:
    """The card as a Markdown document."""
    return "\n".join(
        [
            *_heading(card),
            *_counts(card),
            *_measures(card),
            *_golds(card),
            *_overlaps(card),
            *_listed("Rows that could not be used", card.bad),
            *_listed(
                "Problems with different ground truths (kept)",
                [f"{one.where}: {one.what}" for one in card.conflicts],
            ),
            "",
        ]
    )


def _heading(card: Card) -> Iterator[str]:
    origin = card.origin
    yield f"# {card.name}"
    yield f"\n{origin.title}\n"
    facts = {
        "hub repository": origin.repository,
        "commit": origin.commit,
        "split": origin.split,
        "reference": origin.reference,
        "licence": origin.licence,
        "used for": origin.used_for,
        "read as": card.columns,
        "prompt": card.template,
        "data source": ", ".join(f"{name} ({count:,})" for name, count in card.data_sources.items()),
        "made by": f"`{card.command}`",
        "versions": ", ".join(f"{name} {version}" for name, version in card.versions.items()),
    }
    yield from _table(["", ""], [[key, value] for key, value in facts.items() if value])
    yield "\n## Files\n"
    sources = [["source", file.path, "", f"{file.bytes:,}", file.sha256] for file in origin.files]
    made = [
        [role, file.path, f"{file.rows:,}", f"{file.bytes:,}", file.sha256]
        for role, file in card.written.items()
    ]
    yield from _table(["", "file", "rows", "bytes", "SHA-256"], [*sources, *made])


def _counts(card: Card) -> Iterator[str]:
    yield "\n## Counts\n"
    yield from _table(["", "rows"], [[what, f"{count:,}"] for what, count in card.counts.items()])
    if card.expected is not None:
        yield f"\nThe publisher's set has {card.expected:,} problems."
    yield from (f"\n{note}" for note in card.notes)


def _measures(card: Card) -> Iterator[str]:
    yield "\n## Answers\n\nTypes as the answers are written:\n"
    total = sum(card.answer_types.values())
    rows = [[kind, f"{count:,}", f"{count / total:.1%}"] for kind, count in card.answer_types.items()]
    yield from _table(["type", "problems", "share"], rows)
    yield "\n## Lengths of the problems\n\nOf the whole prompt as it is written, without a chat template.\n"
    rows = [
        [one.unit, f"{one.least:,}", f"{one.median:,g}", f"{one.percentile_95:,}", f"{one.most:,}"]
        for one in card.lengths
    ]
    yield from _table(["unit", "least", "median", "95th percentile", "most"], rows)
    for one in card.lengths:
        most = max(count for _, count in one.histogram)
        yield f"\n{one.unit}:\n"
        yield from _table(
            ["up to", "problems", ""],
            [[f"{bound:,}", f"{count:,}", "█" * round(30 * count / most)] for bound, count in one.histogram],
        )


def _golds(card: Card) -> Iterator[str]:
    if not card.refused:
        yield "\n## Ground truths\n\nThe verifier takes each ground truth as its own answer."
        return
    done = "dropped" if card.refused_dropped else "kept; --drop-refused-golds drops them"
    yield from _listed(
        f"Ground truths that the verifier does not take as their own answer ({done})",
        [f"{one.where}: {one.what}" for one in card.refused],
    )


def _overlaps(card: Card) -> Iterator[str]:
    if not card.compared:
        return
    done = "dropped" if card.contaminated_dropped else "kept; --drop-contaminated drops them"
    yield f"\n## In common with evaluation sets\n\nTraining problems that overlap are {done}.\n"
    yield from _table(*overlap_table(card.compared))


def overlap_table(compared: Sequence[ComparedWith]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: a line for each evaluation set."""
    kinds = list(compared[0].evaluation)
    columns = ["evaluation set", "problems", *kinds, "any", "too short for runs", "training problems"]
    rows = [
        [
            one.path,
            f"{one.problems:,}",
            *(f"{one.evaluation[kind]:,}" for kind in kinds),
            f"{one.affected:,}",
            f"{one.too_short:,}",
            f"{one.train:,}",
        ]
        for one in compared
    ]
    return columns, rows


def _listed(title: str, lines: Sequence[str]) -> Iterator[str]:
    if not lines:
        return
    yield f"\n## {title}\n\n{len(lines):,}:\n"
    yield from (f"- {_cell(line)}" for line in lines[:SHOWN])
    if len(lines) > SHOWN:
        yield f"- ... and {len(lines) - SHOWN:,} more, which the report (.json) lists"


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    yield from ("| " + " | ".join(_cell(str(cell)) for cell in row) + " |" for row in rows)


def _cell(text: str) -> str:
    """A text on one line, without what Markdown takes for the end of a cell."""
    return " ".join(text.split()).replace("|", "\\|")
