"""The how-to pages' files and commands, run as a reader types them: every block below a line `<!-- run -->`."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from reasoner_rl import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    page
    for folder in ("start", "how_to")
    for page in (ROOT / "docs" / folder).glob("*.md")
    if "<!-- run -->" in page.read_text(encoding="utf-8")
)
_BLOCK = re.compile(
    r'^<!-- run -->\n```(?P<language>\w+)(?: title="(?P<file>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A file to write, or lines of bash if it has no name."""

    file: str | None
    text: str


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page that are run. Raises ValueError for a marked block that is none of both."""
    found = list(_BLOCK.finditer(page))
    if len(found) != page.count("<!-- run -->"):
        raise ValueError("a line <!-- run --> has no fenced block directly below it")
    for match in found:
        if match["file"] is None and match["language"] != "bash":
            raise ValueError(
                f"a block of {match['language']} that is run has to have a title, its file's name"
            )
    return [Block(match["file"], match["text"]) for match in found]


def commands_of(text: str) -> list[str]:
    """Commands of a block of bash, one each: a line that ends with a backslash continues on the next."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def test_what_blocks_are_run() -> None:
    page = 'x\n<!-- run -->\n```yaml title="a.yaml"\nb: 1\n```\n```bash\nnot run\n```\n'
    page += "<!-- run -->\n```bash\na \\\n  b\n# c\n```\n"
    assert blocks_of(page) == [Block("a.yaml", "b: 1\n"), Block(None, "a \\\n  b\n# c\n")]
    assert commands_of("a \\\n  b\n# c\n\nd  # fails\n") == ["a    b", "d  # fails"]
    with pytest.raises(ValueError, match="directly below"):
        blocks_of("<!-- run -->\n\n```bash\na\n```\n")
    with pytest.raises(ValueError, match="has to have a title"):
        blocks_of("<!-- run -->\n```yaml\na: 1\n```\n")


def test_no_two_pages_write_the_same_file_or_run() -> None:
    """A reader follows them in one folder: a second page would replace a file, or find its run finished."""
    writers: dict[str, list[str]] = {}
    for page in PAGES:
        files = [block for block in blocks_of(page.read_text(encoding="utf-8")) if block.file is not None]
        runs = {folder for block in files for folder in re.findall(r"output_dir: ([\w/]+)", block.text)}
        for name in [*(str(block.file) for block in files), *runs]:
            writers.setdefault(name, []).append(page.name)
    assert {name: pages for name, pages in writers.items() if len(pages) > 1} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_a_page_does_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("scripts", "data", "reward_fns"):
        (tmp_path / name).symlink_to(ROOT / name)
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    # Megatron's stand-ins for a GPU (training/megatron/cpu.py) would stay in this process, for tests that follow.
    apart = any("megatron" in block.text for block in blocks)
    for block in blocks:
        if block.file is not None:
            Path(block.file).write_text(block.text, encoding="utf-8")
            continue
        for command in commands_of(block.text):
            status = run(command, monkeypatch, apart=apart)
            told = "".join(capfd.readouterr())
            assert (status != 0) == command.endswith("# fails"), f"{command}: status {status}\n{told}"


def run(command: str, monkeypatch: pytest.MonkeyPatch, *, apart: bool) -> int:
    """The exit status. Unless ``apart``, `reasoner-rl` and scripts run in this process, which spares their start."""
    words = shlex.split(command, comments=True)
    script = words[0] == "python" and words[1].endswith(".py")
    if apart or any(sign in command for sign in "|><;&$*") or not (script or words[0] == "reasoner-rl"):
        function = f'reasoner-rl() {{ {shlex.quote(sys.executable)} -m reasoner_rl.cli "$@"; }}'
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{function}\n{command}"], timeout=300
        ).returncode
    monkeypatch.setattr(sys, "argv", words[script:])
    try:
        if script:
            runpy.run_path(words[1], run_name="__main__")
        else:
            cli.main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)  # a text: 1
    return 0
