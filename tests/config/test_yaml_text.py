"""What a value of a recipe or of an override means, and that what is written is read back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoner_rl.config.yaml_text import dump_yaml, parse_value, parse_yaml


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-6", 1e-6),
        ("1E6", 1e6),
        ("+1.5e3", 1500.0),
        ("-2.e-1", -0.2),
        (".5e1", 5.0),
        ("1.0e-6", 1e-6),
        ("1_0e1", 100.0),
    ],
)
def test_numbers_with_exponents_are_numbers(text: str, number: float) -> None:
    assert parse_yaml(text, "here") == number
    assert parse_value(text, "here") == number


@pytest.mark.parametrize(
    "text",
    ["1e", "e6", "1e-6x", "12-e4", ".", "010", "0x10", "1:30", "1:30.5", "no", "on", "2024-01-01", "="],
)
def test_what_only_resembles_a_value_is_text(text: str) -> None:
    assert parse_yaml(text, "here") == text
    assert parse_value(text, "here") == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" 7 ", 7),
        ("-0", 0),
        ("1_000", 1000),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("[1, a]", [1, "a"]),
        ("{a: 010}", {"a": "010"}),
        ("'1'", "1"),
    ],
)
def test_values_of_overrides(text: str, value: object) -> None:
    found = parse_value(text, "here")
    assert (found, type(found)) == (value, type(value))


@settings(deadline=None)
@given(
    st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]))
    | st.floats(allow_nan=False)
    | st.integers()
    | st.from_regex(r"[-+]?[0-9._:eExob]+", fullmatch=True)
)
def test_every_scalar_survives_a_round_trip(value: object) -> None:
    assert parse_yaml(dump_yaml({"key": value}), "here") == {"key": value}


@pytest.mark.parametrize(
    "text", ["1e6", "1e-6", "true", "null", "12", "a: b", "x\ny ", "{problem}", "\x85", "a\u2028b\n"]
)
def test_text_that_looks_like_something_else_survives_a_round_trip(text: str) -> None:
    assert parse_yaml(dump_yaml([text]), "here") == [text]
