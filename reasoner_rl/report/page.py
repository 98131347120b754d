"""The page itself: one HTML file with everything in it, or with the chunks of responses in a folder beside it."""

from __future__ import annotations

import base64
import gzip
import importlib.resources
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import jinja2
from markupsafe import Markup

from reasoner_rl.errors import ConfigError
from reasoner_rl.observability.summary import atomic_writer
from reasoner_rl.report.overview import Overview
from reasoner_rl.report.run_files import short_names
from reasoner_rl.report.vendored import katex_js, plotly_js

SCRIPTS = (
    *("chunks.js", "elements.js", "mathematics.js", "panels.js", "curves.js", "configuration.js"),
    *("tokens.js", "rollouts.js", "response.js", "main.js"),
)
MEBI = 1 << 20
_CHUNK = re.compile(r"r\d+\.(?:pieces|p\d+\.(?:rows|tokens\.\d+))\.js")  # files of `chunk_script`


def asset(name: str) -> str:
    """A file of assets/."""
    return (importlib.resources.files("reasoner_rl.report") / "assets" / name).read_text(encoding="utf-8")


def render(title: str, chunks: Mapping[str, str], folder: str, *, live: bool = False) -> str:
    """The HTML of a page.

    chunks: what the page carries itself, in base64 by key. folder: the address, relative to the page, where other
    chunks are. live: the overview is fetched again and again from a server.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    libraries = {"library.plotly": plotly_js(), "library.katex": katex_js()}
    carried = {name: in_base64(gzip.compress(text.encode(), mtime=0)) for name, text in libraries.items()}
    return environment.from_string(asset("page.html")).render(
        title=title,
        style=Markup(asset("style.css")),
        scripts=[Markup(asset(name)) for name in SCRIPTS],
        chunks={**carried, **chunks},
        folder=folder,
        live=live,
    )


def in_base64(data: bytes) -> str:
    """Bytes as ASCII text."""
    return base64.b64encode(data).decode("ascii")


def chunk_script(key: str, data: bytes) -> str:
    """A chunk as a script that hands it to the page: the one way to load a file that works without a server."""
    return f'receiveChunk("{key}","{in_base64(data)}");\n'


def data_folder(out: Path) -> Path:
    """The folder beside a page for what is too large for it."""
    return out.with_name(f"{out.stem}_data")


def write_report(
    folders: Sequence[Path],
    out: Path,
    every: int,
    limit_mib: float,
    bar: Callable[[int], Callable[[int], None]],
) -> Path | None:
    """Write the page of runs to ``out``. Returns the folder beside it, or None if everything is in the page.

    limit_mib: how much the responses may add to the page, in MiB; above that all of them go into the folder.
    bar: called with the number of pages that will be read; returns what is called after each of them.
    Nothing half-written stays behind; a folder that an earlier report of this name left is replaced or removed. Raises
    ConfigError if there is something else of that folder's name.
    """
    beside = data_folder(out)
    _check_of_report(beside, out)
    temporary = beside.with_name(f".{beside.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    sizes: dict[str, int] = {}

    def put(key: str, data: bytes) -> None:
        text = chunk_script(key, data)
        (temporary / f"{key}.js").write_text(text, encoding="ascii")
        sizes[key] = len(text)

    try:
        overview = Overview(folders, every, put)
        chunks = {"overview": in_base64(overview.read(bar(overview.page_count())))}
        inside = sum(sizes.values()) <= limit_mib * MEBI
        if inside:
            chunks |= {key: _content(temporary / f"{key}.js") for key in sizes}
        html = render(title_of(folders), chunks, beside.name)
        with suppress(FileNotFoundError):
            shutil.rmtree(beside)
        if not inside:
            temporary.rename(beside)
        with atomic_writer(out) as file:
            file.write(html)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return None if inside else beside


def _check_of_report(beside: Path, out: Path) -> None:
    """Raise ConfigError unless a folder beside the page is absent or holds chunks alone."""
    if not beside.exists():
        return
    others = [p.name for p in beside.iterdir() if not _CHUNK.fullmatch(p.name)] if beside.is_dir() else []
    if others or not beside.is_dir():
        what = f"which holds {others[0]}" if others else "which is a file"
        raise ConfigError(
            f"--out {out}: responses would go into {beside}, {what} and was not made by a report; name another page"
        )


def _content(script: Path) -> str:
    return script.read_text(encoding="ascii").split('"')[3]


def title_of(folders: Sequence[Path]) -> str:
    """The title of a page of these runs."""
    return ", ".join(short_names(folders))
