"""The examples in scripts/examples: each run as it stands, in this process, and what it prints and writes."""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.observability.rollout_table import read_rows
from reward_fns import compute_score

FOLDER = Path(__file__).resolve().parents[2] / "scripts" / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
SHARES = re.compile(r"^accuracy: (\d+)% -> (\d+)%$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ran:
    """An example that was run."""

    out: Path
    printed: str

    def shares(self) -> tuple[int, int]:
        """The accuracies that it printed, in percent."""
        ((before, after),) = SHARES.findall(self.printed)
        return int(before), int(after)

    def check_files(self, count: int) -> None:
        """The last lines name so many things that are there."""
        named = [Path(line) for line in self.printed.splitlines()[-count:]]
        assert all(self.out in path.parents and path.exists() for path in named), named


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """A function that runs an example by its name, into the same folder each time."""

    def run(name: str) -> Ran:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--out", str(tmp_path)])
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        return Ran(tmp_path, capsys.readouterr().out)

    return run


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_readme_names_every_example_and_no_other() -> None:
    table = [line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| [")]
    named = [re.match(r"\| \[(\w+\.py)\]\((\w+\.py)\) \| .* \| \d+ \|$", line) for line in table]
    assert sorted(match.group(1) for match in named if match) == [file.name for file in EXAMPLES]
    assert all(match and match.group(1) == match.group(2) for match in named)


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", (FOLDER / "README.md").read_text())
    assert "../../docs/notebook.ipynb" in links
    assert all((FOLDER / link).is_file() for link in links)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_short_and_says_how_it_is_run(file: Path) -> None:
    text = file.read_text()
    assert text.count("\n") < 60
    assert f"\n    python scripts/examples/{file.name} [--out FOLDER]\n" in text
    assert f'default=Path("runs/examples/{file.stem}")' in text


def test_processes_that_call_the_verifier_import_no_torch() -> None:
    top = ast.parse((FOLDER / "own_verifier.py").read_text()).body
    assert not [
        node for node in top if "reasoner_rl" in ast.unparse(node) and "import" in ast.unparse(node)[:7]
    ]


def test_grpo_on_own_jsonl(run: Callable[[str], Ran]) -> None:
    ran = run("grpo_on_own_jsonl")
    before, after = ran.shares()
    assert before <= 35, "a tenth of the digits are right by chance"
    assert after >= 50
    ran.check_files(3)
    assert len(rows_of(ran.out / "train.jsonl")) == 10
    summary = json.loads((ran.out / "grpo" / "summary.json").read_text())
    assert (summary["algorithm"], round(100 * summary["accuracy_after"])) == ("grpo", after)


def test_own_verifier(run: Callable[[str], Ran]) -> None:
    ran = run("own_verifier")
    before, after = ran.shares()
    assert before <= 10
    assert after >= 80
    ran.check_files(3)
    trials = re.findall(r"^trial: (\w+) has score ([\d.]+) and accuracy ([\d.]+)$", ran.printed, re.MULTILINE)
    assert trials == [("xyz", "0.00", "0.0"), ("hello", "0.40", "0.0"), ("aeixou", "0.83", "1.0")]
    for row in read_rows(ran.out / "run" / "rollouts" / "step_000020.parquet"):
        share = sum(row["response"].count(vowel) for vowel in "aeiou") / len(row["response"])
        assert (row["score"], row["accuracy"]) == (pytest.approx(share), float(share > 0.5))


def test_own_algorithm_and_that_a_finished_run_is_not_made_again(run: Callable[[str], Ran]) -> None:
    ran = run("own_algorithm")
    ((before, after),) = re.findall(r"^mean length: ([\d.]+) -> ([\d.]+) tokens$", ran.printed, re.MULTILINE)
    assert float(before) > 10
    assert float(after) < 4
    ran.check_files(3)
    group = [
        row for row in read_rows(ran.out / "run" / "rollouts" / "step_000004.parquet") if row["group"] == 0
    ]
    scores = [row["score"] for row in group]
    for row in group:
        rank = sum((row["score"] > other) - (row["score"] < other) for other in scores) / 7
        assert row["advantages"] == pytest.approx([rank] * len(row["advantages"]))
    metrics = (ran.out / "run" / "metrics.jsonl").read_bytes()
    again = run("own_algorithm")
    assert again.printed.splitlines()[-4:] == ran.printed.splitlines()[-4:]
    assert (ran.out / "run" / "metrics.jsonl").read_bytes() == metrics


def test_evaluate_and_compare(run: Callable[[str], Ran]) -> None:
    ran = run("evaluate_and_compare")
    ran.check_files(2)
    percents = r"accuracy: step 20 ([\d.]+)%, step 30 ([\d.]+)%\ndifference: ([+-][\d.]+)%, 95 % interval ([+-][\d.]+)%"
    ((first, second, difference, low),) = re.findall(percents, ran.printed)
    results = [json.loads((ran.out / f"step_{step}" / "evaluation.json").read_text()) for step in (20, 30)]
    accuracies = [100 * result["reports"][0]["accuracy"] for result in results]
    assert accuracies == [pytest.approx(float(first), abs=0.06), pytest.approx(float(second), abs=0.06)]
    assert float(difference) == pytest.approx(accuracies[1] - accuracies[0], abs=0.06)
    assert 0 < float(low) < float(difference), "the later checkpoint is better, and not by chance"


def test_dpo_from_own_answers(run: Callable[[str], Ran]) -> None:
    ran = run("dpo_from_own_answers")
    before, after = ran.shares()
    assert before <= 35
    assert after >= 60
    ran.check_files(3)
    truths = {row["problem"]: str(row["answer"]) for row in rows_of(ran.out / "train.jsonl")}
    pairs = rows_of(ran.out / "answers" / "pairs.jsonl")
    assert len(pairs) > 20
    for pair in pairs:
        truth = truths[pair["prompt"][0]["content"]]
        verdicts = [compute_score("train", pair[which], truth)["acc"] for which in ("chosen", "rejected")]
        assert verdicts == [True, False]
