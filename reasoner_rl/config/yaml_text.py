"""YAML as people expect it: `1e-6` is a number, and a key given twice is an error."""

from __future__ import annotations

import re
from typing import Any

import yaml

from reasoner_rl.errors import ConfigError

_FLOAT_TAG = "tag:yaml.org,2002:float"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_TEXT_TAG = "tag:yaml.org,2002:str"

# PyYAML follows YAML 1.1, where a number with an exponent is text unless it has both a point and a sign.
_EXPONENT = re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")

_ODD_LINE_BREAKS = re.compile("[\x85\u2028\u2029\ufeff]")


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
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
        return node


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        # PyYAML writes these line breaks as they are, and reads them back as spaces; in quotes it escapes them.
        style = '"' if _ODD_LINE_BREAKS.search(data) else None
        return self.represent_scalar(_TEXT_TAG, data, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)

# In both directions, so that the text '1e6' is written in quotes.
_Loader.add_implicit_resolver(_FLOAT_TAG, _EXPONENT, list("-+.0123456789"))
_Dumper.add_implicit_resolver(_FLOAT_TAG, _EXPONENT, list("-+.0123456789"))


def parse_yaml(text: str, place: str) -> Any:
    """Return what the YAML ``text`` holds. Raises ConfigError with ``place`` and the line."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{place}{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{place}: not valid YAML: {error}") from None


def dump_yaml(value: Any) -> str:
    """Return ``value``, made of mappings, lists and scalars, as YAML that `parse_yaml` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
