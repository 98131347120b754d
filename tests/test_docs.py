"""README and pages name what is there: links, commands, recipes and keys."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from reasoner_rl.cli import app
from reasoner_rl.config.keys import walk_keys
from reasoner_rl.config.kinds import RECIPE_KINDS
from reasoner_rl.config.load import shipped_recipes

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {ROOT / "data" / "README.md", ROOT / "scripts" / "examples" / "README.md", *ROOT.glob("[A-Z]*.md")}
PAGES = sorted({*OUTSIDE, *(ROOT / "docs").rglob("*.md")})
# Keys of verl and TRL, and keys that had other names before, stand on these beside ours.
OF_OTHERS = {"from_verl.md", "from_trl.md", "configuration.md", "CHANGELOG.md"}
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
_COMMAND = re.compile(r"(?<![\w/-])reasoner-rl +([a-z][a-z-]*)(?: +([^\s`\\]+))?")
# A column of verl's files, attributes in Python, and a field of evaluation.json.
_NO_KEYS = {"reward_model.ground_truth", "algorithm.losses", "batch.denominators", "model.weights_sha256"}
_FILES = ("sh", "py", "json", "jsonl", "md", "yaml", "parquet")


def code(page: Path) -> str:
    """All code of a page, one piece per line."""
    return "\n".join(_CODE.findall(page.read_text(encoding="utf-8")))


def known_keys() -> set[str]:
    """Paths of keys and sections of all kinds of recipe, elements of lists as `.0`."""
    return {key.path for kind in RECIPE_KINDS for key in walk_keys(kind)}


def named_keys(text: str, sections: set[str]) -> Iterator[str]:
    """What looks like the path of a key: a section's name, then at least one more name."""
    pattern = rf"(?<![\w./\[-])((?:{'|'.join(sorted(sections))})(?:\.[a-z_0-9]+)+)(?![\w/(*.-]|\.\w)"
    yield from re.findall(pattern, text)


@pytest.mark.parametrize("page", sorted(OUTSIDE), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_outside_the_site_lead_somewhere(page: Path) -> None:
    """Those of the site's pages are checked when it is built."""
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        assert re.match("[a-z]+:", target) or (page.parent / target).exists(), (
            f"{page.name} links to {target}"
        )


def test_commands_and_recipes_that_are_named_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    recipes, wrong = set(shipped_recipes()), []
    for page in PAGES:
        for name, word in _COMMAND.findall(code(page)):
            below = getattr(commands.get(name), "commands", {})
            plain = re.fullmatch(r"[a-z][a-z0-9_]*(\.[0-9][a-z0-9_.]*)?", word) is not None
            names_one = below or name in ("train", "sft", "plan", "drift")  # of its commands, or a recipe
            if name not in commands or (plain and names_one and word not in {*below, *recipes}):
                wrong.append(f"{page}: reasoner-rl {name} {word}")
    assert not wrong, "\n".join(wrong)


def test_keys_that_are_named_exist() -> None:
    known = known_keys()
    sections = {path.split(".")[0] for path in known if "." in path}
    wrong = []
    for page in PAGES:
        if page.name in OF_OTHERS:
            continue
        for key in named_keys(code(page), sections):
            numbered = re.sub(r"\.\d+(?=\.|$)", ".0", key)
            names = {numbered, numbered.removesuffix(".0")}
            if key.rpartition(".")[2] not in _FILES and names.isdisjoint(known | _NO_KEYS):
                wrong.append(f"{page}: {key}")
    assert not wrong, "\n".join(wrong)


def test_every_extra_is_on_the_page_of_installation() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    page = (ROOT / "docs" / "start" / "install.md").read_text(encoding="utf-8")
    table = page[page.index("| extra | for |") : page.index("## From a wheel")]
    first_column = "".join(row.split("|")[1] for row in table.splitlines() if row.startswith("| `"))
    named = re.findall(r"`([a-z-]+)`", first_column)
    assert sorted(named) == sorted(extras)


def test_what_looks_like_a_key() -> None:
    text = "`run.seed=1` `data.train.path` run.sh runs/run.json my.run.seed model.generate(x) `data.0.x`"
    assert list(named_keys(text, {"run", "data", "model"})) == [
        "run.seed",
        "data.train.path",
        "run.sh",
        "data.0.x",
    ]
