"""The ground truths of published sets, written as models write them: the rule of each set accepts its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reward_fns import compute_score

SHARED = Path(os.environ.get("REASONER_RL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))

LINES = (
    "Answer: {}",
    "Answer: {}.",
    "Answer: **{}**",
    "Answer: **{}**.",
    "**Answer:** {}",
    "**Answer: {}.**",
    "Answer: `{}`.",
    "Answer: ${}$.",
    r"Answer: $\boxed{{{}}}$.",
)
BOXES = (r"\boxed{{{}}}", r"**\boxed{{{}}}**.", r"So $x = \boxed{{{}}}$.", r"\boxed{{{}.}}")
HASHES = ("#### {}", "#### {}.", "#### **{}**")


def truths(name: str) -> list[tuple[str, str]]:
    """Data source and ground truth of each row, once."""
    file = SHARED / name
    if not file.is_file():
        pytest.skip(f"{name} is not at hand; set REASONER_RL_DATA to a folder that holds it")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    pairs = (
        (row["data_source"], row["reward_model"]["ground_truth"])
        if "data_source" in row
        else (row["source"], row["answer"])
        for row in rows
    )
    return sorted(set(pairs))


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("math500_test.jsonl", LINES + BOXES),
        ("amc23_test.jsonl", LINES + BOXES),
        ("deepmath_train.jsonl", LINES + BOXES),
        ("dapo_math_17k_sample.jsonl", LINES),
        ("gsm8k_test_first1000.jsonl", LINES + HASHES),
        ("mawps.jsonl", LINES),
        ("svamp_first700.jsonl", LINES),
        ("asdiv_with_formulas.jsonl", LINES),
    ],
)
def test_a_truth_is_accepted_in_each_written_form(name: str, forms: tuple[str, ...]) -> None:
    refused = [
        (form, truth)
        for source, truth in truths(name)
        for form in forms
        if not compute_score(source, f"Thus.\n{form.format(truth)}", truth)["acc"]
    ]
    assert refused == []
