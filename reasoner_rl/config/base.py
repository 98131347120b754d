"""The base of every section of the configuration, and the types that several sections share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

# The keys that turn a section off, which null then stands for; or, where there is no one way, a clause on the ways.
Off = Mapping[str, Any] | str | None


class Section(BaseModel):
    """A frozen group of keys. Unknown keys are errors; every key is documented by its field's description."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
    )

    off: ClassVar[Off] = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_off(cls, given: Any) -> Any:
        return dict(cls.off) if given is None and isinstance(cls.off, Mapping) else given

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, given: Any) -> Any:
        """Refuse what pydantic would take for 1 or 0. (Not by a field validator: a discriminator can have none.)"""
        for name, value in given.items() if isinstance(given, Mapping) else ():
            field, parts = cls.model_fields.get(name), value if isinstance(value, list) else [value]
            if field and any(isinstance(part, bool) for part in parts) and _holds_numbers(field.annotation):
                error = PydanticCustomError("bool_for_number", "must be a number")
                raise ValidationError.from_exception_data(
                    cls.__name__, [InitErrorDetails(type=error, loc=(name,), input=value)]
                )
        return given


def changed_keys(section: Section, keys: Iterable[str]) -> dict[str, Any]:
    """Those of ``keys`` that are not at their default, with their values."""
    defaults = {key: type(section).model_fields[key].default for key in keys}
    return {key: value for key in defaults if (value := getattr(section, key)) != defaults[key]}


def refuse_without_effect(section: Section, keys: Iterable[str], reason: str, within: str = "") -> None:
    """Raise ValueError naming the first of ``keys`` that is not at its default, where keys have no effect.

    A key at its default is not refused, because a resolved recipe holds every key and must be readable.
    reason: such as "with kind 'none'". within: the path of the section, in the one whose rule this is, with its dot.
    """
    for key, value in changed_keys(section, keys).items():
        default = type(section).model_fields[key].default
        shown = "null" if default is None else repr(default)
        given = repr(str(value) if isinstance(value, Path) else value)
        raise ValueError(
            f"{within}{key} {given} has no effect {reason}: leave {key} out, or at its default, {shown}"
        )


def _holds_numbers(annotation: Any) -> bool:
    """Whether a type is a number or made of numbers, and not of truth values."""
    parts = get_args(annotation)
    return annotation in (int, float) or (bool not in parts and any(map(_holds_numbers, parts)))


def overlay(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the keys of ``changes`` over those of ``base``, in nested mappings too."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = overlay(merged[key], value) if both else value
    return merged


def expand_home(place: Any) -> Any:
    """Put the home folder in place of a leading `~`, as a shell does only at the beginning of a word."""
    # Not Path.expanduser, which raises RuntimeError for a user that does not exist.
    return os.path.expanduser(place) if isinstance(place, str) else place  # noqa: PTH111


UserPath = Annotated[Path, BeforeValidator(expand_home)]
UserPathOrName = Annotated[str, BeforeValidator(expand_home)]


def _names_a_function(fn: str) -> str:
    place, _, name = fn.rpartition(":")
    if not place or not name:
        raise ValueError(f"must read package.module:function or path/to/file.py:function; it is {fn!r}")
    return fn


UserFunction = Annotated[str, BeforeValidator(expand_home), AfterValidator(_names_a_function)]
