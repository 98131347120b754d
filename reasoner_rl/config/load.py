"""From a recipe's name or file, and overrides, to a checked configuration; and back to YAML.

files joined by `extends` -> overrides -> one tree -> pydantic models
"""

from __future__ import annotations

import importlib.resources
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from reasoner_rl.config.base import expand_home
from reasoner_rl.config.explain import OVERRIDE, Layer, explain, show
from reasoner_rl.config.infer import kind_of
from reasoner_rl.config.keys import walk_keys
from reasoner_rl.config.kinds import RECIPE_KINDS, AnyRecipe
from reasoner_rl.config.yaml_text import dump_yaml, parse_value, parse_yaml
from reasoner_rl.errors import ConfigError, did_you_mean

RECIPES = Path(str(importlib.resources.files("reasoner_rl"))) / "recipes"

_END_OF_SENTENCE = re.compile(r"(?<!Dr)\.\s+|[.:]?$")
_SURROGATE = re.compile("[\ud800-\udfff]")  # what bytes of an argument become that are not UTF-8


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}


@dataclass(frozen=True, slots=True)
class RecipeSummary:
    """A shipped recipe in a list."""

    name: str
    kind: str
    description: str  # the first sentence of its file's comment


def describe_recipes() -> list[RecipeSummary]:
    """Return what the shipped recipes are, in the order of their names."""
    found = []
    for name, path in shipped_recipes().items():
        layers = _read_layers(path, ())
        description = first_sentence(path.read_text(encoding="utf-8"))
        found.append(RecipeSummary(name, kind_of(layers, str(path)), description))
    return found


def first_sentence(text: str) -> str:
    """Return the first sentence of the comment that a YAML text begins with; empty if it begins with none.

    Commands, which stand on indented lines of the comment, end it too.
    """
    lines = itertools.takewhile(lambda line: re.match(r"# \S", line), text.splitlines())
    comment = " ".join(line.removeprefix("# ").strip() for line in lines)
    return _END_OF_SENTENCE.split(comment, maxsplit=1)[0]


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Return the configuration that a recipe and overrides make.

    ``source`` is the name of a shipped recipe or the path of a YAML file. A file may begin with
    `extends: NAME_OR_PATH`, relative to itself: its sections are merged over those of the other; lists are
    replaced, and so is a section that holds the keys of a `kind` when another kind is chosen. ``overrides``
    read `key.path=value`, with the value as `parse_value` reads it; an element of a list is `key.0.path=value`, and
    the index after the last appends.

    Raises ConfigError with one line for each problem.
    """
    layers = _read_layers(_locate(str(source), Path(), is_path=isinstance(source, Path)), ())
    return _resolve(layers, layers[-1].name, overrides)


def check_tree(tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> AnyRecipe:
    """Return the configuration that a mapping of sections makes, as the YAML file with the same content would.

    Paths of ``extends`` are relative to the current folder. Raises ConfigError as `load_recipe` does.
    """
    return _resolve(_with_extended(dict(tree), "the recipe", Path(), ()), "the recipe", overrides)


def change_recipe(config: AnyRecipe, overrides: Sequence[str]) -> AnyRecipe:
    """Return a recipe with overrides laid over it, which read as in `load_recipe`. Raises ConfigError as that does."""
    return _resolve([Layer("the recipe", config.model_dump(mode="json"))], "the recipe", overrides)


def check_text(text: str, name: str) -> AnyRecipe:
    """Return the configuration that the YAML ``text`` makes by itself. Raises ConfigError as `load_recipe` does."""
    return _resolve([Layer(name, parse_yaml(text, name))], name)


def _resolve(layers: Sequence[Layer], recipe: str, overrides: Sequence[str] = ()) -> AnyRecipe:
    if overrides:
        layers = [*layers, Layer(OVERRIDE, _override_tree(overrides))]
    kind = kind_of(layers, recipe)
    kind_sections = frozenset(key.path for key in walk_keys(kind) if key.shape == "variants")
    tree: Any = _tree_to_merge_over(kind)
    for layer in layers:
        tree = _merge(tree, layer.tree, "", kind_sections, layer.name)
    try:
        return RECIPE_KINDS[kind].model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, kind, tree, layers, recipe)) from None


def dump_recipe(config: AnyRecipe) -> str:
    """Return the whole configuration as YAML; `load_recipe` reads it back to an equal object."""
    return dump_yaml(config.model_dump(mode="json"))


def _locate(source: str, folder: Path, is_path: bool = False) -> Path:
    shipped = shipped_recipes()
    if not (is_path or "/" in source or source.endswith((".yaml", ".yml"))):
        if source not in shipped:
            raise ConfigError(
                f"unknown recipe {source!r}; shipped recipes: {', '.join(shipped) or 'none'} "
                f"(the path of a file ends in .yaml).{did_you_mean(source, shipped)}"
            )
        return shipped[source]
    path = folder / expand_home(source)
    if not path.is_file():
        if path.is_dir():
            raise ConfigError(
                f"recipe {path} is a folder; a run's folder holds its recipe: {path / 'recipe.yaml'}"
            )
        siblings = [file.name for file in path.parent.glob("*.y*ml")]
        hint = did_you_mean(path.name, siblings) or did_you_mean(path.stem, shipped)
        raise ConfigError(f"recipe file {path} does not exist.{hint}")
    return path


def _read_layers(path: Path, extended_by: tuple[Path, ...]) -> list[Layer]:
    """Read a file and all that it extends, the furthest first."""
    if path.resolve() in extended_by:
        chain = " -> ".join(str(file) for file in (*extended_by, path.resolve()))
        raise ConfigError(f"{path}: extends goes round in a circle: {chain}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe file {path} cannot be read: {error}") from None
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        what = "the file is empty" if tree is None else f"it holds {show(tree)}"
        raise ConfigError(f"{path}: a recipe is a mapping of sections; {what}")
    return _with_extended(tree, str(path), path.parent, (*extended_by, path.resolve()))


def _with_extended(
    tree: dict[str, Any], name: str, folder: Path, extended_by: tuple[Path, ...]
) -> list[Layer]:
    """The recipe ``tree``, called ``name`` in messages, behind all that it extends by paths relative to ``folder``."""
    base = tree.pop("extends", None)
    layer = Layer(name, tree)
    if base is None:
        return [layer]
    if not isinstance(base, str):
        raise ConfigError(f"{name}: extends = {show(base)}: must be the name of a shipped recipe or a path")
    try:
        located = _locate(base, folder)
    except ConfigError as error:
        raise ConfigError(f"{name}: extends: {error}") from None
    return [*_read_layers(located, extended_by), layer]


def _override_tree(overrides: Sequence[str]) -> dict[str, Any]:
    """Join all overrides into one tree; of two with the same key the later one counts."""
    tree: dict[str, Any] = {}
    for override in overrides:
        if _SURROGATE.search(override):
            raise ConfigError(f"override {override!r}: must be UTF-8")
        key, separator, text = override.partition("=")
        names = key.strip().split(".")
        if not separator or not all(names):
            raise ConfigError(f"override {override!r}: must read key.path=value")
        value = parse_value(text, f"override {override!r}")
        for name in reversed(names):
            value = {name: value}
        tree = _merge(tree, value, "", frozenset(), OVERRIDE)
    return tree


def _tree_to_merge_over(kind: str) -> dict[str, Any]:
    """The default kinds, so that `algorithm.loss.clip_low=0.1` needs no kind, and the default lists, whose
    elements can then be overridden one by one."""
    tree: dict[str, Any] = {}
    optional = tuple(f"{key.path}." for key in walk_keys(kind) if key.shape in ("optional section", "list"))
    sections = {key.path: key for key in walk_keys(kind)}
    for path, key in sections.items():
        section = sections.get(path.rpartition(".")[0])
        # A section that may be left out has no kind by default.
        chooses_kind = (
            path.endswith(".kind")
            and section is not None
            and (section.shape, section.default is None) == ("variants", False)
        )
        if path.startswith(optional) or key.variant or not (chooses_kind or key.shape == "list"):
            continue
        if section is not None and section.default is PydanticUndefined and not chooses_kind:
            continue  # that the section is missing is what is to be told
        value: Any = key.default if chooses_kind else _plain(key.default)
        for name in reversed(path.split(".")):
            value = {name: value}
        tree = _merge(tree, value, "", frozenset(), "defaults")
    return tree


def _plain(default: Any) -> list[Any]:
    return [item.model_dump(mode="json") if hasattr(item, "model_dump") else item for item in default]


def _merge(base: Any, change: Any, path: str, kind_sections: frozenset[str], origin: str) -> Any:
    """Return ``base`` with ``change`` laid over it; neither is modified."""
    if not isinstance(change, Mapping):
        return change
    if isinstance(base, list) and change and all(key.isdecimal() for key in change):
        return _merge_elements(base, change, path, kind_sections, origin)
    if not isinstance(base, Mapping):
        base = {}
    if path in kind_sections and change.get("kind", base.get("kind")) != base.get("kind"):
        base = {}
    merged = dict(base)
    for key, value in change.items():
        below = f"{path}.{key}" if path else key
        merged[key] = _merge(base.get(key), value, below, kind_sections, origin)
    return merged


def _merge_elements(
    base: list[Any], change: Mapping[str, Any], path: str, kind_sections: frozenset[str], origin: str
) -> list[Any]:
    merged = list(base)
    for key in sorted(change, key=int):
        index = int(key)
        if index > len(merged):
            raise ConfigError(
                f"{origin}: {path}.{index}: the list has {len(merged)} elements; the largest index is "
                f"{len(merged)}, which appends"
            )
        old = merged[index] if index < len(merged) else None
        merged[index : index + 1] = [_merge(old, change[key], f"{path}.0", kind_sections, origin)]
    return merged
