"""The ladder's problems: answers, rungs, lengths, what is held out, and impossible wishes."""

from __future__ import annotations

import json
import random
import re
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.commands.make_tiny_model import build_tokenizer
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig, SftConfig
from reward_fns.math_answer import compute_score

ROOT = Path(__file__).resolve().parents[2]
ladder = runpy.run_path(str(ROOT / "data" / "make_ladder.py"))
Files = dict[str, list[dict[str, Any]]]


def make(folder: Path, *arguments: str) -> Files:
    ladder["main"](["--out", str(folder), *arguments])
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("*.jsonl"))
    }


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Files]:
    """The files as the recipes use them, with the folder."""
    folder = tmp_path_factory.mktemp("ladder")
    return folder, make(folder)


def value(problem: str) -> int:
    """From the left, modulo 10."""
    found = re.fullmatch(r"Compute ([0-9](?:[-+*][0-9])+) \?\n", problem)
    assert found is not None
    chain = found[1]
    result = int(chain[0])
    for operator, digit in re.findall("([-+*])([0-9])", chain):
        operand = int(digit)
        result = {"+": result + operand, "-": result - operand, "*": result * operand}[operator]
    return result % 10


def test_no_heldout_problem_is_taught_or_trained_on(default: tuple[Path, Files]) -> None:
    _, files = default
    assert {name: len(rows) for name, rows in files.items()} == {"heldout": 400, "sft": 24000, "train": 4000}
    distinct = {name: {row["problem"] for row in rows} for name, rows in files.items()}
    assert (len(distinct["heldout"]), len(distinct["train"])) == (400, 4000)
    assert not distinct["heldout"] & (distinct["sft"] | distinct["train"])


def test_all_rungs_have_as_many_problems_and_every_row_names_its_own(default: tuple[Path, Files]) -> None:
    folder, files = default
    for row in [row for rows in files.values() for row in rows]:
        assert row["terms"] == len(re.findall("[0-9]", row["problem"]))
    counts = {name: Counter(row["terms"] for row in rows) for name, rows in files.items()}
    assert counts["heldout"] == dict.fromkeys(range(3, 13), 40)
    assert counts["train"] == dict.fromkeys(range(3, 13), 400)
    report = json.loads((folder / "report.json").read_text())
    assert report["settings"]["seed"] == 0
    for name, of_terms in counts.items():
        assert report["files"][name]["rows"] == len(files[name])
        assert report["files"][name]["by_terms"] == {str(terms): n for terms, n in of_terms.items()}


def test_the_verifier_of_the_recipe_agrees_with_every_answer(default: tuple[Path, Files]) -> None:
    _, files = default
    for row in files["heldout"] + files["sft"][::50]:
        assert int(row["answer"]) == value(row["problem"])
        written = row.get("solution", f"Answer: {value(row['problem'])}")
        wrong = f"Answer: {(value(row['problem']) + 1) % 10}"
        right = compute_score("ladder", written, row["answer"], extraction="answer")
        assert (right["acc"], right["score"]) == (True, 1.0)
        assert not compute_score("ladder", wrong, row["answer"], extraction="answer")["acc"]


def test_a_guess_is_right_one_time_in_ten(default: tuple[Path, Files]) -> None:
    _, files = default
    answers = Counter(row["answer"] for row in files["train"])
    assert all(330 < answers[str(digit)] < 470 for digit in range(10))  # 400 +- 3.7 standard deviations


def test_the_three_styles() -> None:
    row = ladder["row"]
    assert row("3+5*7-9", "worked") == {
        "problem": "Compute 3+5*7-9 ?\n",
        "answer": "7",
        "terms": 4,
        "solution": "3+5=8, 8*7=6, 6-9=7. Answer: 7",
    }
    assert row("1-4*3", "halting")["solution"] == "1-4=7......., 7*3=1........ Answer: 1"
    assert row("1-4*3", "direct")["solution"] == "Answer: 1"
    assert "solution" not in row("1-4*3")


def test_the_response_limit_is_tight() -> None:
    """Worked solutions fit, the longest just without a punishment; halting ones are cut off from eight terms on."""
    tokenizer, rng, dapo = build_tokenizer(), random.Random(0), load_recipe("ladder_dapo")
    assert isinstance(dapo, OnlineConfig)
    limit = dapo.rollout.sampling.max_response_tokens

    def tokens(style: str, terms: int) -> int:
        solution = ladder["row"](ladder["draw_chain"](rng, terms), style)["solution"]
        return len(tokenizer(solution).input_ids) + 1  # the end of the response

    assert (tokens("worked", 12), tokens("halting", 12), limit) == (81, 158, 96)
    assert [tokens(style, terms) for terms in (7, 8) for style in ("worked", "halting")] == [46, 88, 53, 102]
    assert tokens("worked", 12) == limit - dapo.reward.overlong.buffer_tokens
    assert tokens("halting", 7) <= limit < tokens("halting", 8)


def test_the_lesson_has_the_parts_that_its_card_states(default: tuple[Path, Files]) -> None:
    _, files = default
    facts, worked, mixed = files["sft"][:4800], files["sft"][4800:18000], files["sft"][18000:]
    assert {(row["terms"], row["solution"].count("=")) for row in facts} == {(2, 1)}
    assert all(row["solution"].count("=") == row["terms"] - 1 for row in worked)
    assert not any(".." in row["solution"] for row in facts + worked)
    of_terms = Counter(row["terms"] for row in worked)
    assert set(of_terms) == set(range(2, 13))
    for terms in range(2, 8):
        assert of_terms[terms + 1] / of_terms[terms] == pytest.approx(0.75, abs=0.1)
    assert all(480 < count < 620 for count in Counter(row["terms"] for row in mixed).values())  # 6000 / 11
    styles = Counter((row["solution"].count("=") > 0, ".." in row["solution"]) for row in mixed)
    for style, share in (((False, False), 0.45), ((True, False), 0.30), ((True, True), 0.25)):
        assert styles[style] / len(mixed) == pytest.approx(share, abs=0.02)
    assert sum(styles.values()) == len(mixed)


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    sizes = ("--sft", "60", "--train", "60", "--heldout", "60")
    first, again = make(tmp_path / "a", *sizes), make(tmp_path / "b", *sizes)
    assert first == again
    other = make(tmp_path / "c", *sizes, "--seed", "1")
    assert all(first[name] != other[name] for name in ("heldout", "sft", "train"))


def test_the_recipes_differ_in_the_algorithm_alone() -> None:
    warm_start, dapo, grpo = map(load_recipe, ("ladder_sft", "ladder_dapo", "ladder_grpo"))
    assert isinstance(warm_start, SftConfig)
    assert isinstance(dapo, OnlineConfig)
    assert isinstance(grpo, OnlineConfig)
    assert dapo.model.path == str(warm_start.run.output_dir / "final")
    assert (dapo.algorithm.kind, grpo.algorithm.kind) == ("dapo", "grpo")
    assert (dapo.algorithm.loss.clip_high, grpo.algorithm.loss.clip_high) == (0.28, 0.2)
    assert (dapo.algorithm.dynamic_sampling.enabled, grpo.algorithm.dynamic_sampling.enabled) == (True, False)
    assert (dapo.algorithm.loss.aggregation, grpo.algorithm.loss.aggregation) == (
        "token-mean",
        "seq-mean-token-mean",
    )
    assert (dapo.reward.overlong.buffer_tokens, grpo.reward.overlong.buffer_tokens) == (15, 0)
    assert dapo.evaluation == grpo.evaluation
    for section in ("model", "data", "rollout", "batch", "training"):
        assert getattr(dapo, section) == getattr(grpo, section)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--shortest 2", "--shortest 2: must be at least 3"),
        ("--longest 2", "--longest 2: must be at least --shortest, which is 3"),
        ("--sft -4", "--sft -4: must be at least 1"),
        ("--heldout 0", "--heldout 0: must be at least 1"),
        ("--facts-share nan", "--facts-share nan: must be between 0 and 1"),
        ("--worked-share 0.9", "--facts-share 0.2 and --worked-share 0.9: together at most 1"),
        ("--rarer 0", "--rarer 0.0: must be above 0 and at most 1"),
        (
            "--longest 3 --train 4000",
            "--train 4000 and --heldout 400: 4400 chains of 3 terms wanted; at most half of the 4410 that there are",
        ),
    ],
)
def test_impossible_wishes_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        ladder["main"](["--out", str(tmp_path / "out"), *arguments.split()])
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
