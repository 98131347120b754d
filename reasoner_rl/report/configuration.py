"""What is special about a run's configuration: what differs from a shipped recipe, and between runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from reasoner_rl.config.load import dump_recipe, load_recipe, shipped_recipes
from reasoner_rl.config.yaml_text import flat_keys

_OWN = "run.output_dir"  # differs between any two runs


@dataclass(frozen=True, slots=True)
class Difference:
    """One key in a run and in what it is compared with; None also where a side does not have the key."""

    key: str
    here: Any
    there: Any


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[Difference]:
    """The keys whose values differ, in order, without the output folder."""
    keys = sorted((here.keys() | there.keys()) - {_OWN})
    return [Difference(key, here.get(key), there.get(key)) for key in keys if here.get(key) != there.get(key)]


def between_runs(recipes: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """The keys that not all runs have the same value of, with the value of each run; None also where it has none."""
    keys = sorted({key for recipe in recipes for key in recipe} - {_OWN})
    rows = [(key, [recipe.get(key) for recipe in recipes]) for key in keys]
    return [(key, found) for key, found in rows if any(value != found[0] for value in found)]


def nearest_shipped(recipe: Mapping[str, Any]) -> tuple[str, list[Difference]] | None:
    """The shipped recipe of the same kind and algorithm that fewest keys differ from, and these; None if none is.

    A run does not record which recipe it was started with, so the nearest stands in for it.
    """
    alike = {
        name: differences(recipe, shipped)
        for name, shipped in _shipped().items()
        if all(shipped.get(key) == recipe.get(key) for key in ("recipe", "algorithm.kind"))
    }
    return min(alike.items(), key=lambda item: len(item[1]), default=None)


@cache
def _shipped() -> dict[str, dict[str, Any]]:
    return {name: flat_keys(yaml.safe_load(dump_recipe(load_recipe(name)))) for name in shipped_recipes()}
