"""What must hold for every answer: equality is reflexive, symmetric, blind to rewriting, not to a change of value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from reward_fns import verify_math
from reward_fns.answers import same_answer

VARIABLES = ("x", "y", r"\theta")


@dataclass(frozen=True)
class Node:
    """An expression to be written down."""

    operator: str  # "number", "variable", or an operation
    parts: tuple[Any, ...]


def leaf() -> st.SearchStrategy[Node]:
    numbers = st.integers(1, 40).map(lambda n: Node("number", (n,)))
    return numbers | st.sampled_from(VARIABLES).map(lambda name: Node("variable", (name,)))


def inner(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    two = st.sampled_from(["+", "-", "*", "/"]).flatmap(
        lambda sign: st.tuples(children, children).map(lambda pair: Node(sign, pair))
    )
    power = st.tuples(children, st.integers(2, 3)).map(lambda pair: Node("^", pair))
    root = children.map(lambda child: Node("sqrt", (child,)))
    return two | power | root


EXPRESSIONS = st.recursive(leaf(), inner, max_leaves=7)


def latex(node: Node, style: int = 0) -> str:
    """The expression in LaTeX, in one of several ways."""
    if node.operator in ("number", "variable"):
        return str(node.parts[0])
    first = latex(node.parts[0], style)
    if node.operator == "sqrt":
        return rf"\sqrt{{{first}}}"
    if node.operator == "^":
        return rf"\left({first}\right)^{{{node.parts[1]}}}" if style else f"({first})^{node.parts[1]}"
    second = latex(node.parts[1], style)
    if node.operator == "/":
        return rf"\dfrac{{{first}}}{{{second}}}" if style else f"(({first})/({second}))"
    if node.operator == "*":
        return rf"\left( {first} \right) \cdot \left( {second} \right)" if style else f"({first})({second})"
    return (
        rf"\left[ {first} \right] {node.operator} \left[ {second} \right]"
        if style
        else f"({first} {node.operator} ({second}))"
    )


def rewritten(node: Node, choice: st.DataObject) -> Node:
    """An expression of the same value."""
    parts = tuple(rewritten(part, choice) if isinstance(part, Node) else part for part in node.parts)
    node = Node(node.operator, parts)
    two, way = Node("number", (2,)), choice.draw(st.integers(0, 4))
    if way == 0 and node.operator in ("+", "*"):
        return Node(node.operator, parts[::-1])
    if way == 1:
        return Node("-", (Node("+", (node, two)), two))
    if way == 2:
        return Node("/", (Node("*", (two, node)), two))
    if way == 3 and node.operator == "-":
        return Node("-", (Node("+", (parts[0], two)), Node("+", (parts[1], two))))
    if way == 4 and node.operator == "^" and parts[1] == 2:
        return Node("*", (parts[0], parts[0]))
    return node


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS)
def test_an_expression_is_itself(node: Node) -> None:
    assert same_answer(latex(node), latex(node))


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS, st.data())
def test_a_rewritten_expression_is_the_same(node: Node, choice: st.DataObject) -> None:
    once, again = latex(node), latex(rewritten(node, choice), style=1)
    if len(again) < 900 and has_value(once):
        assert same_answer(once, again), (once, again)
        assert same_answer(again, once), (once, again)


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS, st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from("+-"))
def test_another_value_is_another_answer(node: Node, above: int, below: int, sign: str) -> None:
    once = latex(node)
    other = rf"{once} {sign} \frac{{{above}}}{{{below}}}"
    assert not same_answer(once, other), (once, other)
    assert not same_answer(other, once), (once, other)


def has_value(text: str) -> bool:
    """Whether the expression is defined, which 1/(x - x) is not: then it equals only what is written the same."""
    return same_answer(text, f"1 + {text} - 1")


PIECES = st.sampled_from(
    [
        *(
            "1",
            "2",
            "10",
            "x",
            "y",
            "e",
            "i",
            "+",
            "-",
            "*",
            "/",
            "^",
            "_",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            ",",
            ";",
            "|",
            "!",
        ),
        *(
            " ",
            "=",
            "<",
            r"\le ",
            r"\frac",
            r"\sqrt",
            r"\{",
            r"\}",
            r"\cup ",
            r"\pi ",
            r"\infty ",
            r"\pm ",
            r"\text{cm}",
        ),
        *(
            r"\%",
            r"^\circ",
            "and ",
            "or ",
            r"\begin{pmatrix}",
            r"\end{pmatrix}",
            "&",
            r"\\",
            r"\sin ",
            r"\in ",
            r"\overline",
        ),
    ]
)
SOUP = st.lists(PIECES, max_size=12).map("".join)


@settings(max_examples=400, deadline=None)
@given(SOUP, SOUP)
def test_equality_is_symmetric(left: str, right: str) -> None:
    assert same_answer(left, right) == same_answer(right, left)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | SOUP, st.text(max_size=20) | SOUP)
def test_any_text_gets_a_verdict(solution: str, truth: str) -> None:
    for response in (solution, rf"\boxed{{{solution}}}", f"Answer: {solution}"):
        assert verify_math(response, truth).status in ("correct", "wrong", "unparsed")


@settings(max_examples=300, deadline=None)
@given(st.integers(-(10**30), 10**30), st.integers(-(10**30), 10**30))
def test_integers_are_compared_exactly(left: int, right: int) -> None:
    assert same_answer(f"{left:,}", f"{right}") == (left == right)
    assert same_answer(f"{left}.0", f"+{right}".replace("+-", "-")) == (left == right)
