"""Which forms of an answer count where: the page's table and what is said at the start, asked of the verifiers."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reward_fns import compute_score, math_verify_rule, verify_math
from reward_fns.forms import FORMS, forms_that_count, rules_in_force
from reward_fns.registry import COUNTDOWN, GENERAL, PERCENT, RULES, STRICT, STRICT_OR_BOXED, WORD_PROBLEM

PAGE = Path(__file__).resolve().parents[2] / "docs" / "understand" / "verifier.md"
# Column of the table -> a data source whose rule it is about.
SOURCES = {
    "other sources": "my_file",
    "word problems": "openai/gsm8k",
    "`math_dapo_strict`": "math_dapo_strict",
    "`..._or_boxed`": "math_dapo_strict_or_boxed",
    "`countdown`": "countdown",
}
COLUMN_OF_RULE = {
    **dict.fromkeys((GENERAL, PERCENT), "other sources"),
    **{WORD_PROBLEM: "word problems", STRICT: "`math_dapo_strict`"},
    **{STRICT_OR_BOXED: "`..._or_boxed`", COUNTDOWN: "`countdown`"},
}


def by_hand(solution: str, truth: str) -> dict[str, Any]:
    return {"acc": verify_math(solution, truth).correct}


def counted(column: str) -> dict[str, bool]:
    source = SOURCES[column]
    truth = COUNTDOWN.truth_of_5 if source == "countdown" else "5"
    return forms_that_count(partial(compute_score, source), truth)


def table_of_the_readme() -> dict[str, dict[str, bool]]:
    """Column -> form -> whether the table says that it counts."""
    lines = iter(PAGE.read_text(encoding="utf-8").splitlines())
    title, *columns = cells(next(line for line in lines if line.startswith("| truth `5`")))
    assert title == "truth `5`, response ends with"
    assert set(next(lines)) == {"|", "-"}
    rows = [cells(line) for line in itertools.takewhile(lambda line: line.startswith("|"), lines)]
    assert {cell for row in rows for cell in row[1:]} == {"yes", ""}
    return {name: {row[0]: row[n] == "yes" for row in rows} for n, name in enumerate(columns, start=1)}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_of_the_readme_is_what_the_verifiers_say() -> None:
    table = table_of_the_readme()
    said = {"`verify_math`": forms_that_count(by_hand), **{column: counted(column) for column in SOURCES}}
    assert {column: table[column] for column in said} == said
    assert table.keys() - said == {"math-verify"}
    assert all(list(forms) == list(FORMS) for forms in table.values())


def test_the_table_of_the_readme_is_what_math_verify_says() -> None:
    pytest.importorskip("math_verify")
    assert table_of_the_readme()["math-verify"] == forms_that_count(
        partial(math_verify_rule.compute_score, "")
    )


@pytest.mark.parametrize(("pattern", "rule"), RULES)
def test_every_data_source_is_in_the_column_of_its_rule(pattern: str, rule: Any) -> None:
    said = forms_that_count(partial(compute_score, pattern.replace("*", "_x")), rule.truth_of_5)
    assert said == counted(COLUMN_OF_RULE[rule])


def test_what_is_said_at_the_start() -> None:
    sources = ["train", "gsm8k", "math500", "math_dapo", "train", "", "openai/gsm8k"]
    lines = rules_in_force("reward_fns:compute_score", {"long_decimals": True}, sources)
    by_value = "mathematical answers, compared by value"
    three = r"counts `Answer: 5`, `\boxed{5}`, `<answer>5</answer>`"
    assert lines == [
        "verifier: reward_fns:compute_score",
        f"  data sources 'train', none (no rule of its own) -> {by_value}; {three}; not `#### 5`, `The answer is 5.`",
        "  data sources 'gsm8k', 'openai/gsm8k' -> answers to word problems, compared by value; 50 is right for 50%; "
        f"{three}, `#### 5`; not `The answer is 5.`",
        f"  data source 'math500' -> {by_value}; 50 is right for 50%; {three}; not `#### 5`, `The answer is 5.`",
        f"  data source 'math_dapo' -> {by_value}; {three}; not `#### 5`, `The answer is 5.`",
    ]
    many = rules_in_force("reward_fns:compute_score", {}, map(str, range(9)))
    assert many[1].startswith(
        "  data sources '0', '1', '2', '3', '4', '5' and 3 more (no rule of its own) -> "
    )


def test_the_parameters_of_a_recipe_are_in_what_is_said() -> None:
    lenient = rules_in_force("reward_fns:compute_score", {"extraction": "lenient"}, ["x"])
    assert lenient[1].endswith("`<answer>5</answer>`, `#### 5`, `The answer is 5.`")
    minerva = rules_in_force("reward_fns.math_answer:compute_score", {"extraction": "minerva"}, ["x", "y"])
    assert minerva[1].startswith(
        "  every data source -> mathematical answers, compared by value; counts none of "
    )
    wrong = rules_in_force("reward_fns:compute_score", {"extraktion": "lenient"}, ["x"])
    assert wrong[1] == "  data source 'x' (no rule of its own) -> mathematical answers, compared by value"
    around = rules_in_force("reward_fns.length_penalty:cosine", {"max_length": 9}, ["gsm8k"])
    assert "`#### 5`; not" in around[1]
    assert rules_in_force("my.py:f", {}, ["x"]) == ["verifier: my.py:f, which decides by itself what counts"]
