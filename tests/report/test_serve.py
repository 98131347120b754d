"""A page that follows a run, from the server's answers and in a headless Chromium."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from opened import Opened

from reasoner_rl.errors import ConfigError
from reasoner_rl.report.serve import ReportServer

pytest.importorskip("plotly", reason="plotly is not installed: pip install '.[report]'")


@pytest.fixture
def growing(tmp_path: Path, real_run: Path) -> Path:
    """A copy of a run as it was after two steps."""
    folder = tmp_path / "growing"
    shutil.copytree(
        real_run, folder, ignore=shutil.ignore_patterns("step_000003*", "step_000004*", "checkpoints")
    )
    rows = (real_run / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("".join(f"{row}\n" for row in rows if json.loads(row)["step"] <= 2))
    return folder


@pytest.fixture
def server(growing: Path) -> Iterator[ReportServer]:
    with ReportServer([growing], 1, "127.0.0.1", 0) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def overview(server: ReportServer) -> dict[str, Any]:
    with urlopen(f"{server.url}overview") as answer:
        return json.loads(gzip.decompress(answer.read()))["runs"][0]


def test_new_steps_arrive(server: ReportServer, growing: Path, real_run: Path) -> None:
    first = overview(server)
    assert first["history"]["train/lr"][0] == [1, 2]
    metrics = growing / "metrics.jsonl"
    third = next(row for row in (real_run / "metrics.jsonl").read_text().splitlines() if '"step": 3' in row)
    with metrics.open("a") as file:
        file.write(third[:50])  # half-written
    assert overview(server)["history"] == first["history"]
    with metrics.open("a") as file:
        file.write(third[50:] + "\n")
    shutil.copy(real_run / "rollouts" / "step_000003.parquet", growing / "rollouts")
    second = overview(server)
    assert second["history"]["train/lr"][0] == [1, 2, 3]
    old, new = ([page["key"] for page in found["pages"]] for found in (first, second))
    assert set(old) < set(new), "pages that did not change keep their keys"
    assert [page["step"] for page in second["pages"] if page["key"] not in old] == [3]
    chunk = urlopen(f"{server.url}chunks/{old[0]}.rows.js").read()
    assert chunk.startswith(f'receiveChunk("{old[0]}.rows","'.encode())


@pytest.mark.parametrize("path", ["chunks/../../etc/passwd", "chunks/%2e%2e%2fx", "chunks//etc/passwd", "x"])
def test_nothing_else_is_served(server: ReportServer, path: str) -> None:
    with pytest.raises(HTTPError) as error:
        urlopen(server.url + path)
    assert error.value.code == 404


def test_a_folder_that_goes_away_is_said(server: ReportServer, growing: Path) -> None:
    shutil.rmtree(growing)
    with pytest.raises(HTTPError) as error:
        urlopen(f"{server.url}overview")
    assert error.value.code == 503
    assert "there is no such folder" in error.value.read().decode()


def test_a_port_in_use_is_said(server: ReportServer, growing: Path) -> None:
    port = server.server_address[1]
    with pytest.raises(
        ConfigError, match=f"--port {port}: 127.0.0.1 does not let it be used: Address already in use"
    ):
        ReportServer([growing], 1, "127.0.0.1", port)


def test_the_page_follows(browser: Any, server: ReportServer, growing: Path) -> None:
    opened = Opened(browser, server.url)
    opened.wait("document.getElementById('runs').textContent.includes('step 2')")
    opened.page.wait_for_selector(".chart[data-drawn=yes]")
    with (growing / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "reward/score": 0.5}\n')
    opened.wait("document.getElementById('runs').textContent.includes('step 3')")
    opened.wait(
        "[...document.querySelectorAll('.chart')].some(chart =>"
        " (chart.data ?? []).some(line => line.name === 'score' && line.x.at(-1) === 3))"
    )
    assert opened.errors == []
    assert {urlsplit(url).netloc for url in opened.requests} == {urlsplit(server.url).netloc}
    opened.page.close()
