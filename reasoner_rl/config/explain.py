"""What is wrong with a recipe, one line per problem: file, key, value given, rule, nearest key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from reasoner_rl.config.keys import Key, walk_keys
from reasoner_rl.config.translate.hints import foreign_hint, is_foreign
from reasoner_rl.errors import did_you_mean

KeyPath = tuple[str, ...]
_NOT_A_SECTION = ("model_type", "model_attributes_type", "dict_type")
_LONGEST_VALUE = 120
OVERRIDE = "override"  # the name of the layer that the command line gives


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of keys; later layers are laid over earlier ones."""

    name: str
    tree: Mapping[str, Any]


def explain(
    error: ValidationError, kind: str, tree: Mapping[str, Any], layers: Sequence[Layer], recipe: str
) -> str:
    """Return one line per problem.

    ``tree`` is what was validated, ``layers`` what it was merged from, and ``recipe`` the name to blame for a
    key that no layer gives. A rule between sections is about the recipe and all that was laid over it.
    """
    rules: dict[
        str, list[str]
    ] = {}  # by the beginning of the line: the members of a union each have their rule
    for detail in error.errors(include_url=False):
        missing = detail["type"] in ("missing", "union_tag_not_found")
        path = _plain_path(detail["loc"], tree, missing)
        if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
            path = (*path, "kind")
        foreign = _foreign_places(detail["type"], path, kind, tree)
        for place in foreign or [path]:
            missing = missing and not foreign
            rule = _rule("extra_forbidden" if foreign else detail["type"], detail, kind, place, tree)
            origin = _origin(place[:-1] if missing else place, layers, recipe)
            subject = _subject(
                ".".join(place), "" if missing else _value(detail["type"], _child_at(tree, place)), rule
            )
            found = rules.setdefault(f"{origin}: {subject}", [])
            if rule not in found:
                found.append(rule)
    return "\n".join(beginning + ", or ".join(found) for beginning, found in rules.items())


def show(value: Any) -> str:
    """Return a value on one line, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _foreign_places(error: str, path: KeyPath, kind: str, tree: Mapping[str, Any]) -> list[KeyPath]:
    """The keys of other frameworks in a section that is unknown, or that lacks the key `kind`."""
    match error:
        case "extra_forbidden":
            section = path
        case "union_tag_not_found":
            section = path[:-1]
        case _:
            return []
    return [place for place in _leaves(_child_at(tree, section), section) if is_foreign(".".join(place))]


def _leaves(tree: Any, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path


def _foreign(kind: str, path: KeyPath) -> str:
    return foreign_hint(".".join(path), (key.path for key in walk_keys(kind)))


def _plain_path(loc: Sequence[str | int], tree: Any, missing: bool) -> KeyPath:
    """Drop what pydantic puts between the keys: the kind of a variant, the member of a union."""
    path: list[str] = []
    for place, part in enumerate(loc):
        child = _child(tree, str(part))
        if child is not None:
            tree = child[0]
        elif not (missing and place == len(loc) - 1):
            continue
        path.append(str(part))
    return tuple(path)


def _child(tree: Any, key: str) -> tuple[Any] | None:
    """What stands under ``key``, in a tuple of its own as it may be None; None if nothing does."""
    if isinstance(tree, Mapping) and key in tree:
        return (tree[key],)
    if isinstance(tree, list) and key.isdecimal() and int(key) < len(tree):
        return (tree[int(key)],)
    return None


def _child_at(tree: Any, path: KeyPath) -> Any:
    for key in path:
        child = _child(tree, key)
        tree = child[0] if child is not None else None
    return tree


def _value(error: str, value: Any) -> str:
    """The value as text; nothing for a whole section with a key too many or a rule between its keys."""
    whole_section = isinstance(value, Mapping) and error in ("extra_forbidden", "value_error")
    return "" if whole_section else f" = {show(value)}"


def _origin(path: KeyPath, layers: Sequence[Layer], recipe: str) -> str:
    for layer in reversed(layers):
        tree: Any = layer.tree
        for key in path:
            child = _child(tree, key)
            if child is None:
                break
            tree = child[0]
        else:
            return layer.name if path else _whole(layers, recipe)
    return recipe


def _whole(layers: Sequence[Layer], recipe: str) -> str:
    return f"{recipe} with the overrides" if layers[-1].name == OVERRIDE else recipe


def _subject(path: str, value: str, rule: str) -> str:
    """What a line is about; nothing where the rule itself begins with the key."""
    return "" if not path or rule.startswith(f"{path}.") else f"{path}{value}: "


def _rule(error: str, detail: Any, kind: str, path: KeyPath, tree: Mapping[str, Any]) -> str:
    context = detail.get("ctx", {})
    match error:
        case "extra_forbidden":
            return f"unknown key.{_suggest(kind, path, tree)}"
        case "missing":
            return "required, but not given"
        case "union_tag_not_found":
            kinds = next(key.type for key in walk_keys(kind) if key.path == ".".join(path))
            return f"required, but not given: must be {_one_of(kinds.split(' | '))}"
        case "union_tag_invalid" | "literal_error":
            allowed = re.findall(r"'([^']*)'", context.get("expected_tags", context.get("expected", "")))
            near = did_you_mean(str(context.get("tag", detail["input"])), allowed)
            return f"must be {_one_of(allowed)}{'.' if near else ''}{near}"
        case "string_type" if isinstance(detail["input"], Mapping | list):
            return "must be text; text that begins with a bracket needs quotes, such as '\"{problem}\"' in a shell"
        case _ if error in _NOT_A_SECTION:
            return _must_be_a_section(kind, ".".join(path), detail["input"])
        case _:
            return str(detail["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")


def _one_of(words: Sequence[str]) -> str:
    return repr(words[0]) if len(words) == 1 else "one of " + ", ".join(words)


def _must_be_a_section(kind: str, path: str, given: Any) -> str:
    """How a section is given, for one that is no mapping; of true, false and null also what may have been meant."""
    key = next((key for key in walk_keys(kind) if key.path == path), None)
    if key is None:
        return "must be a section, with keys of its own"
    if key.shape == "variants" and given is not False:
        return f"must be a section; its kind is chosen by {path}.kind"
    if given is True:
        return f"must be a section, with keys of its own; {_turned_on(kind, key)}"
    if given is False or given is None:
        return f"must be a section, with keys of its own; {_turned_off(key)}"
    return "must be a section, with keys of its own"


def _turned_on(kind: str, section: Key) -> str:
    """How to have a section with no more keys than it requires."""
    keys = [key for key in walk_keys(kind) if key.path.rpartition(".")[0] == section.path]
    required = [key.path for key in keys if key.default is PydanticUndefined]
    if required:
        return f"to have it, set {' and '.join(required)}"
    if section.shape == "section":
        return f"it is always there; its keys are {', '.join(key.path.rpartition('.')[2] for key in keys)}"
    return f"{section.path}='{{}}' takes its defaults"


def _turned_off(section: Key) -> str:
    """How a section is turned off, as far as it can be."""
    if isinstance(section.off, str):
        return section.off
    if section.default is None or section.off is not None:
        return f"{section.path}=null turns it off"
    return "it cannot be turned off"


def _suggest(kind: str, path: KeyPath, tree: Mapping[str, Any]) -> str:
    """What a key of another framework is here; the nearest key of the section; the keys of that very name elsewhere."""
    *parents, name = ["0" if part.isdigit() else part for part in path]
    section = "".join(f"{parent}." for parent in parents)
    keys = walk_keys(kind)
    here = [key for key in keys if key.path.startswith(section)]
    other_kinds = [key.variant[1] for key in here if key.path == section + name and key.variant]
    if other_kinds:
        chosen = _child_at(tree, (*path[:-1], "kind"))
        return f" It belongs to kind {' and '.join(other_kinds)}, and {section}kind is {chosen}"
    elsewhere = dict.fromkeys(repr(key.path) for key in keys if key.path.rpartition(".")[2] == name)
    is_whole_path = len(path) > 1 and is_foreign(".".join(path))
    if (is_whole_path or not elsewhere) and (foreign := _foreign(kind, path)):
        return foreign
    near = did_you_mean(name, {key.path.removeprefix(section).split(".")[0] for key in here})
    if near:
        return near.replace("'", f"'{'.'.join(path[:-1])}{'.' if parents else ''}", 1)
    return f" Did you mean {' or '.join(elsewhere)}?" if elsewhere else ""
