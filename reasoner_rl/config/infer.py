"""The kind of a recipe: as `recipe:` says, or else as follows from algorithm.kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasoner_rl.config.explain import Layer, show
from reasoner_rl.config.keys import walk_keys
from reasoner_rl.config.kinds import RECIPE_KINDS
from reasoner_rl.config.translate.hints import foreign_config
from reasoner_rl.errors import ConfigError, did_you_mean


def kind_of(layers: Sequence[Layer], recipe: str) -> str:
    """Return the kind of the recipe that the layers make. Raises ConfigError if they name none, or several."""
    kinds = {layer.name: layer.tree["recipe"] for layer in layers if "recipe" in layer.tree}
    if not kinds:
        return _inferred(layers, recipe)
    for name, kind in kinds.items():
        if not isinstance(kind, str) or kind not in RECIPE_KINDS:
            hint = did_you_mean(str(kind), RECIPE_KINDS)
            known = ", ".join(RECIPE_KINDS)
            raise ConfigError(
                f"{name}: recipe = {show(kind)}: must be one of {known}{'.' if hint else ''}{hint}"
            )
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{kind!r} in {name}" for name, kind in kinds.items())
        raise ConfigError(f"{recipe}: recipe: a recipe can only extend one of its own kind; found {found}")
    return next(iter(kinds.values()))


def _inferred(layers: Sequence[Layer], recipe: str) -> str:
    """The kind whose algorithms include the one that is named; an iterated recipe is one with rounds."""
    required = f"{recipe}: recipe: required, but not given: must be one of {', '.join(RECIPE_KINDS)}"
    for layer in layers:
        if hint := foreign_config(layer.tree):
            raise ConfigError(f"{required}.{hint}")
    algorithm = _algorithm(layers)
    if algorithm is None:
        raise ConfigError(f"{required}, or algorithm.kind, from which it follows")
    by_kind = {kind: _algorithms(kind) for kind in RECIPE_KINDS}
    found = [kind for kind, algorithms in by_kind.items() if algorithm in algorithms]
    if not found:
        near = did_you_mean(str(algorithm), sorted({name for names in by_kind.values() for name in names}))
        raise ConfigError(f"{required}; algorithm.kind = {show(algorithm)} belongs to no kind.{near}")
    if "iterated" in found:
        in_rounds = any(section in layer.tree for layer in layers for section in ("rounds", "pairs"))
        return "iterated" if in_rounds else next(kind for kind in found if kind != "iterated")
    if len(found) > 1:
        raise ConfigError(f"{required}; algorithm.kind = {show(algorithm)} is of {' and '.join(found)}")
    return found[0]


def _algorithm(layers: Sequence[Layer]) -> Any:
    """algorithm.kind of the last layer that has one."""
    for layer in reversed(layers):
        section = layer.tree.get("algorithm")
        if isinstance(section, dict) and "kind" in section:
            return section["kind"]
    return None


def _algorithms(kind: str) -> list[str]:
    keys = [key for key in walk_keys(kind) if key.path == "algorithm.kind"]
    return keys[0].type.split(" | ") if keys else []
