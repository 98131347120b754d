"""A local server of the page of runs that are still writing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit

from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.report.overview import Overview
from reasoner_rl.report.page import chunk_script, render, title_of

CHUNKS = "chunks"


class ReportServer(ThreadingHTTPServer):
    """Serves the page at /, what changes at /overview, and chunks of responses below /chunks/.

    The runs' folders are read at each request for the overview, by one request at a time.
    Raises ConfigError if the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, folders: Sequence[Path], every: int, host: str, port: int) -> None:
        self._folder = TemporaryDirectory(prefix="reasoner_rl_report_")
        self._overview = Overview(folders, every, self._put)
        self._reading = threading.Lock()
        self.html = render(title_of(folders), {}, CHUNKS, live=True).encode("utf-8", "backslashreplace")
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            self._folder.cleanup()
            raise ConfigError(
                f"--port {port}: {host} does not let it be used: {error.strerror}; 0 takes a free one"
            ) from error

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/"

    def _put(self, key: str, data: bytes) -> None:
        (Path(self._folder.name) / f"{key}.js").write_text(chunk_script(key, data), encoding="ascii")

    def read(self, advance: Callable[[int], None] = lambda amount: None) -> bytes:
        """The overview of the runs as they are now."""
        with self._reading:
            return self._overview.read(advance)

    def page_count(self) -> int:
        """How many pages of responses the first `read` reads."""
        return self._overview.page_count()

    def chunk(self, name: str) -> bytes | None:
        """The script of a chunk, or None if there is none of this name."""
        path = Path(self._folder.name) / name
        return path.read_bytes() if path.parent == Path(self._folder.name) and path.is_file() else None

    def server_close(self) -> None:
        """Close the port and remove the chunks."""
        super().server_close()
        self._folder.cleanup()


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            self._answer(200, self.server.html, "text/html; charset=utf-8")
        elif path == "/overview":
            try:
                self._answer(200, self.server.read(), "application/octet-stream")
            except (UserError, OSError) as error:
                self._answer(503, str(error).encode("utf-8", "backslashreplace"), "text/plain; charset=utf-8")
        elif (
            path.startswith(f"/{CHUNKS}/") and (data := self.server.chunk(path.split("/", 2)[2])) is not None
        ):
            self._answer(200, data, "text/javascript")
        else:
            self._answer(404, b"not found", "text/plain")

    def _answer(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed."""
