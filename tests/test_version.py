"""The version is written in pyproject.toml; the package, the command and the records of runs take it from there."""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import reasoner_rl
from reasoner_rl import cli
from reasoner_rl.observability.versions import versions

ROOT = Path(__file__).resolve().parents[1]


def test_the_installed_version_is_that_of_pyproject_and_has_a_section_in_the_changelog() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        written = tomllib.load(file)["project"]["version"]
    assert reasoner_rl.__version__ == written, "install the package anew: source scripts/env.sh"
    assert f"\n## [{written}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_package_command_and_records_have_the_installed_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "9.8.7" if name == "reasoner_rl" else installed(name)
    )
    monkeypatch.setattr(sys, "argv", ["reasoner-rl", "--version"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().out) == (0, "reasoner-rl 9.8.7\n")
    assert (reasoner_rl.__version__, versions()["reasoner_rl"]) == ("9.8.7", "9.8.7")


def test_a_source_tree_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert reasoner_rl.__version__ == "unknown"
    assert versions()["reasoner_rl"] == "unknown"
