"""Settings as users have them: YAML or JSON files, `key=value` overrides, and the command in a launch script.

Scripts are read and not run: assignments are followed from top to bottom, with `${NAME:-default}` and `$((a * b))`;
branches, loops and the environment are not.
"""

from __future__ import annotations

import ast
import operator
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasoner_rl.config.yaml_text import flat_keys, parse_value, parse_yaml
from reasoner_rl.errors import ConfigError

_ARITHMETIC = re.compile(r"\$\(\(((?:[^()]|\([^()]*\))*)\)\)")
_BRACED = re.compile(r"\$\{(\w+)(?::?[-=]([^${}]*))?\}")
_BARE = re.compile(r"\$(\w+)")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_INTERPOLATION = re.compile(r"\$\{(?:oc\.select:)?(?P<key>[A-Za-z_][\w.]*)(?:,\s*(?P<default>[^${}]*))?\}")
_ARRAY = re.compile(r"((?:^|\s)\w+\+?=)\((?!\()")
_NUMBER = re.compile(r"-[\d.]")
_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_]\w*(?:\.[\w-]+)+=")
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def read_text(path: Path) -> str:
    """Return what a file holds. Raises ConfigError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def is_document(path: Path) -> bool:
    """Whether a file is YAML or JSON, by its name."""
    return path.suffix.lower() in (".yaml", ".yml", ".json")


def read_document(path: Path) -> Any:
    """Return what a YAML or JSON file holds."""
    return parse_yaml(read_text(path), str(path))


def resolve(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in OmegaConf's interpolations of whole values, `${a.b}` and `${oc.select:a.b,default}`, as far as they lead.

    Values that Hydra demands of the user, `???`, are left out.
    """
    resolved = {key: value for key, value in settings.items() if value != "???"}
    for key, value in resolved.items():
        seen: set[Any] = set()
        while isinstance(value, str) and value not in seen and (found := _INTERPOLATION.fullmatch(value)):
            seen.add(value)
            default = found["default"]
            fallback = value if default is None else _python_value(parse_value(default, key))
            value = settings.get(found["key"], fallback)
        resolved[key] = value
    return resolved


def read_overrides(overrides: Iterable[str], place: str) -> dict[str, Any]:
    """Return `key=value` overrides as Hydra reads them: a leading + adds a key, and ~ removes one; the last counts."""
    settings: dict[str, Any] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        key = key.strip()
        if key.startswith("~"):
            settings.pop(key.strip("~"), None)
            continue
        if not separator or not key.strip("+"):
            raise ConfigError(f"{place}: {override!r}: must read key=value")
        value = _hydra_value(text, f"{place}: {override!r}")
        settings.update(flat_keys({key.strip("+"): value}))
    return settings


def read_script(path: Path) -> list[str]:
    """Return the words of a launch script, variables filled in; those that are not set in it stay as they are."""
    variables = {"HOME": "~"}
    words: list[str] = []
    for word in _words(read_text(path), path):
        closes_array = word.endswith(")") and word.count(")") > word.count("(")
        expanded = _expand(word[:-1] if closes_array else word, variables)
        name = expanded.partition("=")[0]
        if _ASSIGNMENT.match(expanded) and not _OVERRIDE.match(expanded):
            variables[name] = expanded.partition("=")[2]
        words.append(expanded)
    return words


def overrides_of(words: Sequence[str]) -> list[str]:
    """The words of a script that are Hydra overrides of nested keys."""
    return [word for word in words if _OVERRIDE.match(word)]


def read_flags(words: Sequence[str]) -> dict[str, Any]:
    """Return `--flag value`, `--flag=value`, `--flag value value` (a list) and `--flag` (true) among the words.

    A word that begins with a single dash ends the values of the flag before it.
    """
    given: dict[str, list[str]] = {}
    flag: str | None = None
    for word in words:
        if word.startswith("--") and len(word) > 2:
            flag, separator, text = word[2:].partition("=")
            flag = flag.replace("-", "_")
            given[flag] = [text] if separator else []
        elif word.startswith("-") and not _NUMBER.match(word):  # a short flag, which is no value
            flag = None
        elif flag is not None:
            given[flag].append(word)
    return {flag: _flag_value(values, f"--{flag}") for flag, values in given.items()}


def is_filled_in(value: Any) -> bool:
    """Whether a value holds no variable of a shell, or interpolation of OmegaConf, that was not filled in."""
    if isinstance(value, list):
        return all(is_filled_in(part) for part in value)
    return not (isinstance(value, str) and ("${" in value or _BARE.search(value)))


def _flag_value(values: list[str], place: str) -> Any:
    parsed = [_python_value(parse_value(value, place)) for value in values]
    return True if not parsed else parsed[0] if len(parsed) == 1 else parsed


def _hydra_value(text: str, place: str) -> Any:
    return _python_value(parse_value(text, place))


def _python_value(value: Any) -> Any:
    """Python's words for true, false and none, which both frameworks take; `1.` and `0.` are numbers too."""
    words = {"True": True, "False": False, "None": None}
    if not isinstance(value, str):
        return value
    if value in words:
        return words[value]
    return float(value) if re.fullmatch(r"[-+]?\d+\.", value) else value


def _words(text: str, path: Path) -> Iterator[str]:
    joined = re.sub(r"\\\r?\n", " ", text)
    joined = _ARRAY.sub(r"\1( ", joined)
    # In one word, as a shell reads them.
    joined = _ARITHMETIC.sub(lambda found: "$((" + re.sub(r"\s", "", found[1]) + "))", joined)
    try:
        yield from shlex.split(joined, comments=True)
    except ValueError as error:
        raise ConfigError(
            f"{path}: cannot be read as a shell script ({error}): give its settings as arguments instead"
        ) from None


def _expand(word: str, variables: Mapping[str, str]) -> str:
    before = None
    while before != word:  # the innermost first
        before = word
        word = _BRACED.sub(
            lambda found: variables.get(found[1], found[2] if found[2] is not None else found[0]), word
        )
    word = _BARE.sub(lambda found: variables.get(found[1], found[0]), word)
    return _ARITHMETIC.sub(lambda found: _arithmetic(found[1], variables) or found[0], word)


def _arithmetic(text: str, variables: Mapping[str, str]) -> str | None:
    """The value of a shell's integer expression; None if it is not one, or a variable is not set."""
    try:
        return str(_number(ast.parse(text, mode="eval").body, variables))
    except (SyntaxError, ValueError, KeyError, ZeroDivisionError):
        return None


def _number(node: ast.expr, variables: Mapping[str, str]) -> int:
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.Name(id=name):
            return int(variables[name])
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_number(left, variables), _number(right, variables))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand, variables)
    raise ValueError(ast.dump(node))
