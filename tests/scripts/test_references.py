"""The runs that a reference is measured with: each mistake is the one that its name says, and the table is right."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reasoner_rl.advantages import group
from reasoner_rl.algorithms.base import Prepared
from reasoner_rl.algorithms.group import GroupPolicyGradient
from reasoner_rl.config.load import load_recipe

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "references.py"
SCORES = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The script's names. What its mistakes replace is put back."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.setattr(group, "group_advantages", group.group_advantages)
    monkeypatch.setattr(GroupPolicyGradient, "prepare", GroupPolicyGradient.prepare)
    return runpy.run_path(str(SCRIPT))


def test_the_advantage_of_the_next_response(references: dict[str, Any]) -> None:
    right = group.group_advantages(SCORES, "group_std")
    references["WRONG_CODE"]["advantages of the next response"]()
    assert torch.equal(group.group_advantages(SCORES, "group_std"), right[:, [1, 2, 3, 0]])


def test_advantages_that_are_not_centred(references: dict[str, Any]) -> None:
    references["WRONG_CODE"]["advantages not centred"]()
    wrong = group.group_advantages(SCORES, "group_std")
    assert torch.allclose(wrong, SCORES / (SCORES.std(1, keepdim=True) + 1e-6))


def test_the_end_of_a_response_that_is_not_trained(
    references: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = torch.ones(1, dtype=torch.bool).expand(
        3
    )  # one cell that all tokens share, as where all are trained
    sample = SimpleNamespace(loss_mask=mask, replace=lambda loss_mask: loss_mask)
    monkeypatch.setattr(GroupPolicyGradient, "prepare", lambda *_: Prepared([sample], {}))  # type: ignore[list-item]
    references["WRONG_CODE"]["end of a response not trained"]()
    ((prepared,), _) = GroupPolicyGradient.prepare(None, [], None)  # type: ignore[arg-type]
    assert prepared.tolist() == [True, True, False]
    assert mask.tolist() == [True] * 3


@pytest.mark.parametrize("recipe", ["quickstart", "ladder_dapo", "word_problems"])
def test_wrong_settings_are_one_change_each(references: dict[str, Any], recipe: str) -> None:
    right = load_recipe(recipe)
    for change in references["wrong_settings"](right).values():
        wrong = load_recipe(recipe, [change])
        assert wrong != right, change
        (section,) = {name for name, value in wrong if value != getattr(right, name)}
        assert change.startswith(section)


def test_a_row_counts_runs_and_metrics(references: dict[str, Any]) -> None:
    found = [{"reward/score": 9, "policy/entropy": 4}, {}, {"policy/entropy": 2}]
    assert references["row"]("x", found) == "| x | 2 of 3 | 2, 4 | policy/entropy 2, reward/score 1 |"
    assert references["row"]("x", [{}, {}]) == "| x | 0 of 2 |  |  |"


def test_names_without_runs_have_no_row(references: dict[str, Any]) -> None:
    table = references["departures"](None, {"as it is": [], "clip-higher at 0.2": []})
    assert [line for line in table.splitlines()[2:] if line] == []
