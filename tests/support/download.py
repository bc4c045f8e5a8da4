"""A server on this machine that has one file, and can cut connections, lie about sizes and lead elsewhere."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lgkd.data.sources import download
from lgkd.data.sources.download import fetch

CONTENT = bytes(range(256)) * 3000
SUM = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """What the server does with the next requests, and what it was asked."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.ranges = True
        self.cuts: list[int] = []
        """After how many bytes each of the next answers is cut."""
        self.status = 200
        self.failures = 0
        """How many answers have `status` before it is 200 again; below 0 all have."""
        self.leads_to = ""
        self.says_length = True
        self.shifts = 0
        """Bytes by which it misses the place that was asked for."""
        self.asked: list[str | None] = []
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    server_version = "test"

    def do_GET(self) -> None:
        plan: Server = self.server.plan  # type: ignore[attr-defined]
        asked = self.headers.get("Range")
        plan.asked.append(asked)
        if plan.leads_to and self.path == "/file":
            self.send_response(302)
            self.send_header("Location", plan.leads_to)
            self.end_headers()
            return
        if plan.failures != 0:
            plan.failures -= 1
            self.send_error(plan.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and plan.ranges else 0
        if start and start >= len(plan.content):
            self.send_error(416)
            return
        start += plan.shifts if start else 0
        body = plan.content[start:]
        self.send_response(206 if asked and plan.ranges else 200)
        if asked and plan.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(plan.content) - 1}/{len(plan.content)}")
        if plan.says_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: plan.cuts.pop(0)] if plan.cuts else body)
        self.close_connection = True

    def log_message(self, *words: Any) -> None:
        pass


class Web(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are what is tested here


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("LGKD_OFFLINE")
    monkeypatch.setattr(download, "_PAUSES", (0.0,))
    plan = Server()
    web = Web(("127.0.0.1", 0), Handler)
    web.plan = plan  # type: ignore[attr-defined]
    plan.url = f"http://127.0.0.1:{web.server_port}/file"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield plan
    web.shutdown()
    thread.join()
    web.server_close()


def get(server: Server, target: Path, **options: Any) -> Path:
    return fetch(server.url, target, **({"size": len(CONTENT), "sha256": SUM} | options))
