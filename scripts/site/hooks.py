"""What mkdocs calls while it builds the site: adds pages that are made from the code, and mends links that leave docs/.

Links to files of the repository that are no pages, such as source code, become their path as text: the site has no
repository to link to. A link to a file that does not exist is a warning, with which a strict build fails.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]  # mkdocs imports this file by its path

from pages import generated_pages  # noqa: E402

log = logging.getLogger("mkdocs.hooks.links")

# Files beside docs/ that are pages of the site, in small letters.
FROM_ROOT = ("CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md")
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\[]*(?:\[[^\]]*\][^\]\[]*)*)\]\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code, and those that stand beside docs/."""
    for path, text in generated_pages().items():
        files.append(File.generated(config, path, content=text))
    for name in FROM_ROOT:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name.lower(), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mend the links of a page, but for those in its blocks of code."""
    sources = {name.lower(): name for name in FROM_ROOT}
    source = sources.get(page.file.src_uri, posixpath.join("docs", page.file.src_uri))
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [mend_links(markdown[end : fence.start()], source), fence.group()]
        end = fence.end()
    return "".join([*parts, mend_links(markdown[end:], source)])


def page_of(file: str) -> str | None:
    """The page that a file of the repository is, if it is one; both are paths, from the root and from the site's."""
    if file in FROM_ROOT:
        return file.lower()
    return file.removeprefix("docs/") if file.startswith("docs/") else None


def mend_links(markdown: str, source: str) -> str:
    """Return text with its links made for the site. ``source``: the file it is of, from the repository's root."""
    here, folder = posixpath.dirname(source), posixpath.dirname(page_of(source) or "") or "."

    def mended(match: re.Match[str]) -> str:
        text, target = match["text"], match["target"]
        if re.match(r"[a-z]+:|#", target):
            return match.group()
        path, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(here, path))
        if (site := page_of(path)) is not None:
            return f"[{text}]({os.path.relpath(site, folder)}{'#' * bool(anchor)}{anchor})"
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which does not exist", source, target)
        return text if path in text else f"{text} (`{path}`)"

    return _LINK.sub(mended, markdown)
