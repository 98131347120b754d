"""`reasoner-rl data generate NAME`: problems with exact answers, made by a seed, as files that recipes read."""

from __future__ import annotations

import filecmp
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet

from reasoner_rl.commands.hashes import file_hash
from reasoner_rl.commands.out_folder import naming_out
from reasoner_rl.config.data import resolved_template
from reasoner_rl.datasets.generated.generators import Generator
from reasoner_rl.datasets.generated.rows import Row, Splits
from reasoner_rl.datasets.table import problem_table
from reasoner_rl.errors import ConfigError
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.summary import write_json, write_jsonl
from reasoner_rl.prompts.read import Problem, truth_text

Format = Literal["jsonl", "verl"]
ENDINGS: dict[Format, str] = {"jsonl": ".jsonl", "verl": ".parquet"}
SPLITS = ("heldout", "train", "sft")
RECORD = "generated.json"


@dataclass(frozen=True, slots=True)
class FileForm:
    """How rows become files."""

    format: Format = "jsonl"
    prompt_template: str | None = None  # of verl rows, whose prompts are whole; `{problem}` alone if None

    def __post_init__(self) -> None:
        if self.prompt_template is None:
            return
        if self.format == "jsonl":
            raise ConfigError(
                "--prompt-template has no effect with --format jsonl: the recipe's data.train.prompt_template is laid "
                "around the problems of such files"
            )
        if "{problem}" not in self.template:
            raise ConfigError(
                f"--prompt-template must contain {{problem}}, or be 'dapo'; it is {self.prompt_template!r}"
            )

    @property
    def template(self) -> str:
        """The prompt template with its shorthand resolved."""
        return resolved_template(self.prompt_template)

    def name(self, split: str) -> str:
        """The file of a split."""
        return f"{split}{ENDINGS[self.format]}"

    def write(self, file: Path, split: str, name: str, rows: Sequence[Row]) -> None:
        """Write the rows of one split; ``name``: the data source of rows that do not name theirs."""
        if self.format == "jsonl":
            write_jsonl(file, rows)
            return
        problems = [_problem(row, self.template, name, split, index) for index, row in enumerate(rows)]
        pyarrow.parquet.write_table(problem_table(problems).table, file)


JSONL = FileForm()


def generate_data(
    generator: Generator,
    options: Any,
    seed: int,
    folder: Path,
    form: FileForm = JSONL,
    overwrite: bool = False,
) -> None:
    """Write a file per split into ``folder``, and ``generated.json``, which says how they were made.

    The same arguments give the same files. Raises ConfigError if the options cannot be met, and unless ``overwrite`` if
    a file is there and would change.
    """
    splits = generator.generate(options, seed)
    with naming_out(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_files_of_other_calls(folder, [form.name(split) for split in splits])
        with tempfile.TemporaryDirectory(dir=folder, prefix=".generating-") as temporary:
            made = _write_all(Path(temporary), generator, options, seed, form, splits)
            changing = [file.name for file in made if _differs(file, folder / file.name)]
            if changing and not overwrite:
                raise ConfigError(
                    f"--out={folder}: {', '.join(changing)} would change; choose another folder, or say --overwrite"
                )
            for file in made:
                file.replace(folder / file.name)
    for split, rows in splits.items():
        say(f"{folder / form.name(split)}: {len(rows):,} rows")
    say(f"in a recipe: {' '.join(_keys(folder, form, splits))}")


def _problem(row: Row, template: str, data_source: str, split: str, index: int) -> Problem:
    """A row as it is read; columns besides problem, answer, data source and solution are in extra_info."""
    own = ("problem", "answer", "data_source", "solution")
    truth = truth_text(row["answer"])
    assert truth is not None, f"{split}, row {index + 1}: no ground truth"
    return Problem(
        uid=f"{split}/{index}",
        messages=({"role": "user", "content": template.replace("{problem}", row["problem"])},),
        ground_truth=truth,
        data_source=row.get("data_source", data_source),
        extra_info={
            "split": split,
            "index": index,
            **{name: value for name, value in row.items() if name not in own},
        },
        solution=row.get("solution"),
    )


def _write_all(
    folder: Path, generator: Generator, options: Any, seed: int, form: FileForm, splits: Splits
) -> list[Path]:
    """Write the files and the record of how they were made."""
    files: dict[str, Mapping[str, Any]] = {}
    for split, rows in splits.items():
        file = folder / form.name(split)
        form.write(file, split, generator.name, rows)
        files[file.name] = {"rows": len(rows), "sha256": file_hash(file)}
    made_by = {"generator": generator.name, "seed": seed, "options": asdict(options), **asdict(form)}
    write_json(folder / RECORD, {**made_by, "files": files})
    return [folder / name for name in (*files, RECORD)]


def _refuse_files_of_other_calls(folder: Path, names: Sequence[str]) -> None:
    """Problems of another call could be the same as those that are held out now."""
    possible = [f"{split}{ending}" for split in SPLITS for ending in ENDINGS.values()]
    others = [name for name in possible if name not in names and (folder / name).exists()]
    if others:
        raise ConfigError(
            f"--out={folder}: {', '.join(others)} would not be written by this call, and may hold the same problems; "
            "delete it, or choose another folder"
        )


def _differs(new: Path, old: Path) -> bool:
    return old.exists() and not (old.is_file() and filecmp.cmp(new, old, shallow=False))


def _keys(folder: Path, form: FileForm, splits: Splits) -> list[str]:
    """The keys of a recipe that name the files of training and held-out problems."""
    named = form.format == "jsonl" and "data_source" in splits["train"][0]
    train, heldout = (folder / form.name(split) for split in ("train", "heldout"))
    columns = ", columns: {data_source: data_source}" if named else ""
    return [
        f"data.train.path={train}",
        *(["data.train.columns.data_source=data_source"] if named else []),
        f"evaluation.datasets='[{{path: {heldout}{columns}}}]'",
    ]
