"""`reasoner-rl data prepare`: a published or own set of problems, read, checked and written in verl's format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet

from reasoner_rl.commands.check_golds import is_json, refused_golds
from reasoner_rl.commands.compare_sets import Rules, compare
from reasoner_rl.commands.data_source import Source
from reasoner_rl.commands.hashes import file_hash
from reasoner_rl.commands.out_folder import naming_out
from reasoner_rl.config.data import DAPO_PROMPT, DatasetConfig
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.datasets.card import Card, ComparedWith, FileFacts, Flagged, Origin, markdown
from reasoner_rl.datasets.columns import Recognised, recognise
from reasoner_rl.datasets.measures import Lengths, answer_types, lengths
from reasoner_rl.datasets.near import require_datasketch
from reasoner_rl.datasets.split import validation_rows
from reasoner_rl.datasets.table import problem_table
from reasoner_rl.datasets.wording import bare, problem_text
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.progress import progress_bar
from reasoner_rl.observability.summary import atomic_path, atomic_writer, write_json
from reasoner_rl.observability.versions import installed_version
from reasoner_rl.prompts.read import Problem, ReadReport, read_problems

Template = Literal["none", "dapo"]
MAX_CHARACTERS = 100_000
_VERSIONS = ("reasoner_rl", "pyarrow", "datasketch")


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """The options of `reasoner-rl data prepare` besides the source."""

    out: Path
    name: str | None = None  # of the files; by default that of the source
    columns: Mapping[str, Any] | None = None  # keys of ColumnMap
    data_source: str | None = None  # of flat rows
    template: Template | None = None  # None: prompts stay as they are
    validation: int = 0  # problems
    seed: int = 0
    against: tuple[Path, ...] = ()
    rules: Rules = field(default_factory=Rules)
    drop_contaminated: bool = False
    drop_refused_golds: bool = False
    on_bad_row: Literal["error", "skip"] = "error"
    max_characters: int = MAX_CHARACTERS
    tokenizer: str | None = None
    overwrite: bool = False
    command: str = "reasoner-rl data prepare"


def prepare_data(source: Source, options: PrepareOptions) -> Card:
    """Read, check and write a set; returns what its card says.

    Raises ConfigError or DataError naming file and row, and then nothing is written.
    """
    name = options.name or source.stem
    places = _places(options, name)
    if options.validation or options.against:
        require_datasketch()
    dataset, read = _dataset(source, options)
    with progress_bar("auto", f"rows of {name}", sum(map(_rows_of, source.paths))) as advance:
        problems, report = read_problems(dataset, advance=advance)
    say(f"{name}: {read.said}; {report}")
    rows = _Rows(dataset, options, [*report.bad])
    problems = rows.usable(problems)
    conflicts = rows.conflicts(problems)
    problems, refused = _check_golds(rows, problems, options)
    problems, compared, contaminated = _compare(problems, options)
    if not problems:
        raise DataError(f"{name}: no problem is left")
    held_out = _validation(problems, options)
    problems = [with_template(problem, options.template) for problem in problems]
    counts = {
        "read": report.rows,
        "bad, skipped": len(rows.bad),
        "repetitions dropped": report.duplicates,
        "refused ground truths dropped": len(refused) if options.drop_refused_golds else 0,
        "overlapping with evaluation sets, dropped": contaminated if options.drop_contaminated else 0,
        "written": len(problems),
    }
    card = Card(
        name=name,
        command=options.command,
        versions={package: installed_version(package) or "not installed" for package in _VERSIONS},
        origin=_origin(source),
        columns=read.said,
        template=options.template or "as in the source",
        data_sources=dict(Counter(problem.data_source for problem in problems).most_common()),
        counts=counts,
        expected=source.expected,
        bad=tuple(rows.bad),
        conflicts=tuple(conflicts),
        refused=tuple(refused),
        refused_dropped=options.drop_refused_golds,
        compared=tuple(compared),
        contaminated_dropped=options.drop_contaminated,
        answer_types=answer_types([problem.ground_truth for problem in problems]),
        lengths=tuple(_lengths(problems, options.tokenizer)),
        notes=tuple(_notes(problems, report, source, options)),
        written={},
    )
    with naming_out(options.out), _all_or_none(places.all()):
        return _write(card, problems, held_out, places)


@dataclass(frozen=True, slots=True)
class _Places:
    """The files that are made."""

    problems: Path
    validation: Path | None
    card: Path
    report: Path

    def all(self) -> list[Path]:
        return [path for path in (self.problems, self.validation, self.card, self.report) if path is not None]


@contextmanager
def _all_or_none(files: Sequence[Path]) -> Iterator[None]:
    """Remove those files that a block that fails has made, so that the same command can be given again."""
    absent = [path for path in files if not path.exists()]
    try:
        yield
    except BaseException:
        for path in absent:
            path.unlink(missing_ok=True)
        raise


def _places(options: PrepareOptions, name: str) -> _Places:
    """Where the files go. Raises ConfigError if one is there and may not be replaced."""
    if "/" in name or not name.strip(". "):
        raise ConfigError(f"--name {name!r}: must be the name of files, without a folder")
    if options.drop_contaminated and not options.against:
        raise ConfigError("--drop-contaminated has no effect without --against FILE")
    validation = options.out / f"{name}_validation.parquet"
    files = [options.out / f"{name}.{ending}" for ending in ("parquet", "md", "json")]
    places = _Places(files[0], validation if options.validation else None, files[1], files[2])
    if places.validation is None and validation.exists():
        raise ConfigError(
            f"--out {options.out}: {validation} would not be written by this call, and may hold the same problems; "
            "delete it, or choose another folder or --name"
        )
    there = [path for path in places.all() if path.exists()]
    if there and not options.overwrite:
        raise ConfigError(f"--out {options.out}: {there[0]} is there; --overwrite replaces it")
    return places


def _dataset(source: Source, options: PrepareOptions) -> tuple[DatasetConfig, Recognised]:
    """How the files are read."""
    given = dict(options.columns or {})
    found = [recognise(path, given, source.columns) for path in source.paths]
    if any(one.verl != found[0].verl or one.columns != found[0].columns for one in found):
        raise DataError(
            f"{source.paths[0]} and other files have different columns ({'; '.join({one.said for one in found})}): "
            "say which to take by --problem-column and --answer-column, or prepare them one by one"
        )
    read, flat_source = found[0], options.data_source or source.data_source
    flags = {"answer_form": "--answer-form", "id": "--id-column", "extra": "--keep-column"}
    unused = [flag for key, flag in flags.items() if key in given]
    unused += ["--data-source"] if options.data_source else []
    if read.verl and unused:
        raise ConfigError(f"{unused[0]} has no effect on {source.paths[0]}, whose rows are in verl's format")
    source_of_flat = None if read.verl or read.columns.data_source else flat_source
    path = source.paths[0] if len(source.paths) == 1 else list(source.paths)
    config = DatasetConfig(
        path=path,
        format="verl" if read.verl else "jsonl",  # also where columns are given that stand beside verl's
        columns=read.columns,
        data_source=source_of_flat,
        on_bad_row=options.on_bad_row,
    )
    return config, read


def _rows_of(path: Path) -> int:
    """How many rows a readable file has, empty lines counted."""
    if path.suffix == ".parquet":
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    with path.open("rb") as file:
        return sum(1 for _ in file)


class _Rows:
    """Checks of the problems that are left after repetitions were dropped. ``bad``: those that were skipped."""

    def __init__(self, dataset: DatasetConfig, options: PrepareOptions, bad: list[str]) -> None:
        self._files = dict(zip(dataset.file_labels, dataset.paths, strict=True))
        self._options = options
        self.bad = bad

    def where(self, problem: Problem) -> str:
        """File and row."""
        return f"{self._files[problem.uid.rpartition('/')[0]]}, row {problem.row}"

    def usable(self, problems: Sequence[Problem]) -> list[Problem]:
        """Problems that are not too long, and whose id is not another's. Raises DataError for others, or skips them.

        A problem may be there several times, with other ground truths: it has one id.
        """
        kept, first_with = [], dict[object, Problem]()
        limit = self._options.max_characters
        for problem in problems:
            size = sum(len(message["content"]) for message in problem.messages)
            if size > limit:
                self._refuse(
                    problem, f"the prompt has {size:,} characters, and --max-characters is {limit:,}"
                )
                continue
            problem = self._with_index(problem)
            index = problem.extra_info.get("index")
            other = first_with.setdefault(index, problem) if index is not None else problem
            if other.messages != problem.messages:
                self._refuse(problem, f"the id {index!r} is that of another problem, in {self.where(other)}")
                continue
            kept.append(problem)
        return kept

    def _with_index(self, problem: Problem) -> Problem:
        """Rows of several files that have no ids are told apart by file and row."""
        own = problem.extra_info.get("index") == problem.row - 1
        if len(self._files) == 1 or not own:
            return problem
        return replace(problem, extra_info={**problem.extra_info, "index": problem.uid})

    def _refuse(self, problem: Problem, reason: str) -> None:
        message = f"{self.where(problem)}: {reason}"
        if self._options.on_bad_row == "error":
            raise DataError(f"{message}; --on-bad-row skip leaves such rows out and lists them")
        self.bad.append(message)

    def conflicts(self, problems: Sequence[Problem]) -> list[Flagged]:
        """Problems that stand in the data with several ground truths."""
        truths: dict[tuple[str, ...], dict[str, Problem]] = {}
        for problem in problems:
            asked = tuple(message["content"] for message in problem.messages)
            truths.setdefault(asked, {}).setdefault(problem.ground_truth, problem)
        return [
            Flagged(
                self.where(next(iter(several.values()))), f"ground truths {', '.join(map(repr, several))}"
            )
            for several in truths.values()
            if len(several) > 1
        ]


def _check_golds(
    rows: _Rows, problems: list[Problem], options: PrepareOptions
) -> tuple[list[Problem], list[Flagged]]:
    found = refused_golds(problems)
    flagged = [
        Flagged(rows.where(problems[number]), f"{problems[number].ground_truth[:200]!r} is {verdict}")
        for number, verdict in found.items()
    ]
    if flagged:
        done = "dropped" if options.drop_refused_golds else "kept"
        say(
            f"{len(flagged):,} ground truths are not taken as their own answer by reward_fns:compute_score ({done}); "
            f"the first: {flagged[0].where}: {flagged[0].what}"
        )
    if options.drop_refused_golds:
        problems = [problem for number, problem in enumerate(problems) if number not in found]
    return problems, flagged


def _compare(
    problems: list[Problem], options: PrepareOptions
) -> tuple[list[Problem], list[ComparedWith], int]:
    compared, overlapping = compare(problems, options.against, options.rules)
    if options.drop_contaminated:
        problems = [problem for number, problem in enumerate(problems) if number not in overlapping]
    return problems, compared, len(overlapping)


def _validation(problems: Sequence[Problem], options: PrepareOptions) -> set[int]:
    if not options.validation:
        return set()
    texts = [problem_text(problem) for problem in problems]
    return set(validation_rows(texts, options.validation, options.seed, options.rules.near))


def with_template(problem: Problem, template: Template | None) -> Problem:
    """The problem with its last message of the user in another template, in place of a known instruction around it."""
    if template is None:
        return problem
    messages = [dict(message) for message in problem.messages]
    asked = max(
        (n for n, message in enumerate(messages) if message["role"] == "user"), default=len(messages) - 1
    )
    text = bare(messages[asked]["content"])
    messages[asked]["content"] = DAPO_PROMPT.replace("{problem}", text) if template == "dapo" else text
    return replace(problem, messages=tuple(messages))


def _lengths(problems: Sequence[Problem], tokenizer: str | None) -> list[Lengths]:
    texts = ["\n".join(message["content"] for message in problem.messages) for problem in problems]
    measured = [
        lengths([len(text) for text in texts], "characters"),
        lengths([len(text.split()) for text in texts], "words"),
    ]
    if tokenizer is not None:
        from reasoner_rl.tokenizer import load_tokenizer

        encoded = load_tokenizer(ModelConfig(path=tokenizer), "--tokenizer")(texts, add_special_tokens=False)
        measured.append(
            lengths([len(ids) for ids in encoded["input_ids"]], f"tokens of {Path(tokenizer).name}")
        )
    return measured


def _notes(
    problems: Sequence[Problem], report: ReadReport, source: Source, options: PrepareOptions
) -> list[str]:
    notes = []
    if report.variants:
        notes.append(
            f"{report.variants:,} rows differ from another in data source or extra_info alone, and are kept. Where a "
            "column makes copies look different, --keep-column says which columns to keep."
        )
    if count := sum(is_json(problem.ground_truth) for problem in problems):
        notes.append(
            f"{count:,} ground truths are lists or mappings (JSON), which are no answers; not checked."
        )
    if options.validation:
        notes.append(
            f"{options.validation:,} problems are for validation, chosen with seed {options.seed}; near duplicates are "
            "on one side."
        )
    if source.expected is not None and source.expected != len(problems):
        notes.append(
            f"The publisher's set has {source.expected:,} problems; these files gave {len(problems):,}."
        )
        say(f"note: {notes[-1]}")
    return notes


def _origin(source: Source) -> Origin:
    files = tuple(facts(path, None) for path in source.paths)
    return replace(source.origin, files=files)


def facts(path: Path, rows: int | None) -> FileFacts:
    """Size and hash of a file."""
    return FileFacts(path.name, rows, path.stat().st_size, file_hash(path))


def _write(card: Card, problems: Sequence[Problem], held_out: set[int], places: _Places) -> Card:
    """Write problems, card and report; returns the card with the files that were written."""
    parts = {
        "training" if places.validation else "problems": (
            places.problems,
            [one for n, one in enumerate(problems) if n not in held_out],
        )
    }
    if places.validation is not None:
        parts["validation"] = (places.validation, [problems[number] for number in sorted(held_out)])
    written, notes = {}, list(card.notes)
    for role, (path, part) in parts.items():
        made = problem_table(part)
        with atomic_path(path) as temporary:
            pyarrow.parquet.write_table(made.table, temporary)
        written[role] = facts(path, len(part))
        if made.as_text:
            notes.append(
                f"{path.name}: extra_info.{', extra_info.'.join(made.as_text)} holds values that one column of parquet "
                "cannot hold as they are, and is JSON as text."
            )
    card = replace(card, written=written, notes=tuple(notes))
    write_json(places.report, asdict(card))
    with atomic_writer(places.card) as file:
        file.write(markdown(card))
    return card
