"""`data generate`: files that recipes read, what is never replaced silently, and the flags of each generator."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reasoner_rl.cli.app import app
from reasoner_rl.config.data import DAPO_PROMPT, ColumnMap, DatasetConfig
from reasoner_rl.datasets.generated.generators import GENERATORS
from reasoner_rl.datasets.generated.options import options_of
from reasoner_rl.prompts.read import read_problems
from reward_fns import compute_score

SMALL = ("--train", "12", "--heldout", "4")


def generate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", "generate", *arguments])


def refusal(*arguments: str) -> str:
    result = generate(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    return result.stderr


def test_jsonl_is_read_with_the_keys_that_are_printed(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    result = generate("countdown", "--out", str(folder), *SMALL, "--sft", "3", "--most", "3", "--seed", "4")
    assert result.exit_code == 0, result.output
    assert f"{folder}/train.jsonl: 12 rows" in result.stdout
    assert (
        f"data.train.path={folder}/train.jsonl data.train.columns.data_source=data_source "
        f"evaluation.datasets='[{{path: {folder}/heldout.jsonl, columns: {{data_source: data_source}}}}]'"
    ) in result.stdout
    columns = ColumnMap(data_source="data_source", solution="solution")
    worked, report = read_problems(DatasetConfig(path=folder / "sft.jsonl", columns=columns))
    assert (report.kept, report.duplicates) == (3, 0)
    for problem in worked:
        assert compute_score(problem.data_source, problem.solution or "", problem.ground_truth)["acc"]
    record = json.loads((folder / "generated.json").read_text())
    assert (record["generator"], record["seed"], record["options"]["most"]) == ("countdown", 4, 3)
    for name, described in record["files"].items():
        assert described["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert sorted(path.name for path in folder.iterdir()) == sorted([*record["files"], "generated.json"])


def test_verl_parquet_holds_the_same_problems(tmp_path: Path) -> None:
    for kind, more in (("jsonl", ()), ("verl", ("--format", "verl", "--prompt-template", "dapo"))):
        result = generate("countdown", "--out", str(tmp_path / kind), *SMALL, *more)
        assert result.exit_code == 0, result.output
    columns = ColumnMap(data_source="data_source")
    flat, _ = read_problems(
        DatasetConfig(path=tmp_path / "jsonl" / "train.jsonl", columns=columns, prompt_template="dapo")
    )
    nested, _ = read_problems(DatasetConfig(path=tmp_path / "verl" / "train.parquet"))
    assert [p.messages for p in nested] == [p.messages for p in flat]
    assert [p.ground_truth for p in nested] == [p.ground_truth for p in flat]
    assert {p.data_source for p in nested} == {"countdown"}
    assert nested[2].extra_info == {"split": "train", "index": 2, "difficulty": 3}
    assert DAPO_PROMPT.partition("{problem}")[0] in nested[0].messages[0]["content"]


def test_files_are_never_replaced_silently(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path))
    assert generate("modular-arithmetic", *out, *SMALL).exit_code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert generate("modular-arithmetic", *out, *SMALL).exit_code == 0, "the same files may be written again"
    text = refusal("modular-arithmetic", *out, *SMALL, "--seed", "1")
    assert "heldout.jsonl, train.jsonl, generated.json would change" in text
    assert "train.jsonl" in refusal("modular-arithmetic", *out, *SMALL, "--format", "verl")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert generate("modular-arithmetic", *out, *SMALL, "--seed", "1", "--overwrite").exit_code == 0
    assert (tmp_path / "train.jsonl").read_bytes() != before["train.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(before)
    (tmp_path / "file").touch()
    assert f"--out={tmp_path}/file" in refusal("chains", "--out", str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("countdwn",), ("`reasoner-rl data generate countdwn`", "Did you mean 'countdown'?")),
        (("countdown", "--fewest", "5"), ("--most 4: must be at least --fewest, which is 5",)),
        (("ladder", "--rarer", "0"), ("--rarer 0.0: must be above 0 and at most 1",)),
        (("chains", "--prompt-template", "dapo"), ("--prompt-template has no effect with --format jsonl",)),
        (
            ("chains", "--format", "verl", "--prompt-template", "Solve."),
            ("--prompt-template must contain {problem}, or be 'dapo'; it is 'Solve.'",),
        ),
    ],
)
def test_mistakes_leave_no_folder(arguments: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path) -> None:
    text = refusal(*arguments, "--out", str(tmp_path / "out"))
    for part in parts:
        assert part in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", GENERATORS)
def test_help_names_every_flag_with_its_default(name: str) -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["data", "generate", name, "--help"])
    assert result.exit_code == 0
    for entry in options_of(GENERATORS[name].options):
        assert f"{entry.flag} " in result.output, entry.flag
        assert f"{entry.meaning[1:].split(',')[0]}" in result.output
