"""Every key of a recipe, from its models: for lists of keys, and for suggestions."""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from reasoner_rl.config.base import Off, Section
from reasoner_rl.config.kinds import RECIPE_KINDS
from reasoner_rl.errors import ConfigError, did_you_mean

_NAMES: dict[Any, str] = {
    str: "text",
    int: "int",
    float: "float",
    bool: "true | false",
    Path: "path",
    Any: "any",
    types.NoneType: "null",
}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


SectionClass = type[Section]  # a name for what Key, which has a field called type, cannot write


@dataclass(frozen=True, slots=True)
class Key:
    """One key or section, for programs."""

    path: str  # as in an override; an element of a list is `.0`
    variant: tuple[str, str] | None  # (path of the section, its kind) where only one kind has this key
    type: str
    default: Any  # PydanticUndefined if required
    description: str
    shape: Literal["value", "list", "section", "optional section", "variants"]
    section: SectionClass | None = None  # of a section, of one that may be left out, or of a list's elements

    @property
    def off(self) -> Off:
        """What turns the section off."""
        return self.section.off if self.section is not None else None


@functools.cache
def walk_keys(kind: str) -> tuple[Key, ...]:
    """Return every key and section of the recipe ``kind``. Raises ConfigError for an unknown kind."""
    if kind not in RECIPE_KINDS:
        known = ", ".join(RECIPE_KINDS)
        raise ConfigError(
            f"unknown kind of recipe {kind!r}: must be one of {known}.{did_you_mean(kind, RECIPE_KINDS)}"
        )
    return tuple(_walk(RECIPE_KINDS[kind], None, "", None))


def show_default(default: Any) -> str:
    """Return a default as it would stand in YAML, on one line."""
    if default is PydanticUndefined:
        return "required"
    return json.dumps(to_jsonable_python(default), ensure_ascii=False)


def _walk(
    model: type[Section], instance: Section | None, prefix: str, variant: tuple[str, str] | None
) -> Iterator[Key]:
    """Yield the keys of ``model``; their defaults are those of ``instance``, if the section has one."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        default = field.default if instance is None else getattr(instance, name)
        sections = list(_sections(field.annotation))
        if field.discriminator is not None:
            yield from _walk_variants(path, field, sections, default, variant)
            continue
        shape = _shape(field.annotation, sections)
        section = sections[0] if sections else None
        yield Key(path, variant, _type_of(field), default, field.description or "", shape, section)
        for section in sections:
            below = f"{path}.0." if shape == "list" else f"{path}."
            yield from _walk(section, default if isinstance(default, section) else None, below, variant)


def _walk_variants(
    path: str, field: FieldInfo, sections: list[type[Section]], default: Any, variant: tuple[str, str] | None
) -> Iterator[Key]:
    kinds = [section.model_fields["kind"].default for section in sections]
    chosen = getattr(default, "kind", PydanticUndefined)
    description = field.description or ""
    yield Key(path, variant, "section", default, description, "variants")
    yield Key(f"{path}.kind", variant, _literals(kinds), chosen, description, "value")
    for section, kind in zip(sections, kinds, strict=True):
        instance = default if isinstance(default, section) else None
        for key in _walk(section, instance, f"{path}.", (path, kind)):
            if key.path != f"{path}.kind":
                yield key


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """The sections that an annotation is made of: itself, members of a union, elements of a list."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from _sections(part)


def _shape(
    annotation: Any, sections: list[type[Section]]
) -> Literal["value", "list", "section", "optional section"]:
    if get_origin(annotation) in (list, tuple):
        return "list"
    if not sections:
        return "value"
    return "section" if annotation is sections[0] else "optional section"


def _type_of(field: FieldInfo) -> str:
    bounds = [
        f"{symbol} {getattr(rule, name)}"
        for rule in field.metadata
        for name, symbol in _BOUNDS.items()
        if hasattr(rule, name)
    ]
    return ", ".join([_type_name(field.annotation), *bounds])


def _type_name(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(parts[0])
    if annotation in _NAMES:
        return _NAMES[annotation]
    if origin is Literal:
        return _literals(parts)
    if origin in (Union, types.UnionType):
        return " | ".join(_type_name(part) for part in parts)
    if origin is list:
        return f"list of {_type_name(parts[0])}"
    if origin is tuple:
        return f"[{', '.join(_type_name(part) for part in parts)}]"
    if origin in (dict, Mapping):
        return "mapping"
    return "section"


def _literals(words: Any) -> str:
    return " | ".join(str(word) for word in words)
