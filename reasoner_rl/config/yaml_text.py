"""YAML as people expect it: `1e-6` is a number, `010`, `1:30`, `no` and `2024-01-01` are text, no key comes twice.

PyYAML follows YAML 1.1, where these are text, 8, 90, false and a date. The plain words read here are those of YAML
1.2 without its hexadecimal and octal numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from reasoner_rl.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_MERGE_TAG = f"{_TAG}merge"
_TEXT_TAG = f"{_TAG}str"
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_PLAIN_WORDS = {
    "null": re.compile(r"^(?:~|null|Null|NULL|)$"),
    "bool": re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"),
    "float": _FLOAT,
    "merge": re.compile(r"^<<$"),
}

_ODD_LINE_BREAKS = re.compile("[\x85\u2028\u2029\ufeff]")


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, value in node.value:
            if key.tag == _MERGE_TAG:
                continue
            if key.tag != _TEXT_TAG:
                raise yaml.MarkedYAMLError(
                    problem="a key must be text; put it in quotes", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
            if ":" in key.value and key.style is None and _is_absent(value):
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} has no value; a space must follow the colon",
                    problem_mark=key.start_mark,
                )
        return node


def _is_absent(value: yaml.Node) -> bool:
    return isinstance(value, yaml.ScalarNode) and value.value == "" and value.style is None


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        # PyYAML writes these line breaks as they are, and reads them back as spaces; in quotes it escapes them.
        style = '"' if _ODD_LINE_BREAKS.search(data) else None
        return self.represent_scalar(_TEXT_TAG, data, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)

_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern in _PLAIN_WORDS.items():
    _Loader.add_implicit_resolver(_TAG + _kind, _pattern, None)
    # Added to those of YAML 1.1: what either version would not read as text is written in quotes.
    _Dumper.add_implicit_resolver(_TAG + _kind, _pattern, None)


def parse_yaml(text: str, place: str) -> Any:
    """Return what the YAML ``text`` holds. Raises ConfigError with ``place`` and the line."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{place}{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: not valid YAML: {error}") from None


def parse_value(text: str, place: str) -> Any:
    """Return what ``text`` holds where a value alone is given: YAML in brackets or quotes, else the text as it stands.

    As it stands it is a number, true, false or null if it looks like one; a `#` or a `:` in it means nothing.
    """
    text = text.strip()
    if text.startswith(("[", "{", "'", '"')):
        try:
            return parse_yaml(text, place)
        except ConfigError as error:
            raise ConfigError(f"{error}; text that begins with a bracket or a quote needs quotes") from None
    loader = _Loader("")
    node = yaml.ScalarNode(loader.resolve(yaml.ScalarNode, text, (True, False)), text)
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{place}: not valid YAML: {error}") from None


def dump_yaml(value: Any) -> str:
    """Return ``value``, made of mappings, lists and scalars, as YAML that `parse_yaml` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def flat_keys(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as key.path -> value; an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_keys(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
