"""The documentation site: it is built without a warning, and every page opens on a screen and on a telephone."""

from __future__ import annotations

import functools
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WIDTHS = (1280, 390)  # CSS pixels


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site") / "site"
    built = subprocess.run(
        ["bash", str(ROOT / "scripts" / "site" / "build.sh"), "build", str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served: its search needs a server."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_every_page_opens_without_an_error_and_fits(site: Path, address: str, browser: Any) -> None:
    from playwright.sync_api import TimeoutError as TooLong  # there, as the browser is

    pages = sorted(str(page.relative_to(site)) for page in site.rglob("*.html") if page.name != "404.html")
    assert len(pages) > 30
    problems: list[str] = []
    tab = browser.new_page()
    tab.on("console", lambda said: said.type in ("error", "warning") and problems.append(said.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("response", lambda got: got.status < 400 or problems.append(f"{got.url}: status {got.status}"))
    tab.on(
        "request", lambda asked: asked.url.startswith(address) or problems.append(f"{asked.url}: elsewhere")
    )
    for page in pages:
        tab.goto(f"{address}/{page}")
        for width in WIDTHS:
            tab.set_viewport_size({"width": width, "height": 900})
            try:  # menus move for a moment
                tab.wait_for_function(
                    "document.documentElement.scrollWidth <= window.innerWidth", timeout=3000
                )
            except TooLong:
                wide = tab.evaluate("document.documentElement.scrollWidth")
                problems.append(f"{page} is {wide} pixels wide on a screen of {width}")
        if broken := tab.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)"):
            problems.append(f"{page} lacks pictures: {broken}")
    tab.close()
    assert not problems, "\n".join(problems)


def test_words_to_choose_from_are_separated_by_plain_strokes(site: Path) -> None:
    page = (site / "reference" / "metrics.html").read_text(encoding="utf-8")
    assert "memory/{sync|switch|receive}_" in page.replace("&#124;", "|")


@pytest.mark.slow
def test_the_search_finds_a_key(address: str, browser: Any) -> None:
    tab = browser.new_page()
    tab.goto(f"{address}/index.html")
    tab.wait_for_selector(".md-search__input")
    tab.fill(".md-search__input", "clip_high")
    tab.wait_for_selector(".md-search-result__item a")
    found = tab.eval_on_selector_all(".md-search-result__item a", "links => links.map(link => link.href)")
    assert any("reference/keys/online.html" in link for link in found)
    tab.close()
