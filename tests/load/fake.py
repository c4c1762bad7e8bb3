"""A small service in a thread, honest or not, to see that the load test tells one from the other.

It keeps every version, one lock around each request: what it answers falsely is what it was asked to, and nothing else.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import unquote

Fault = Literal["none", "stale", "failing", "lagging"]
EVERY = 10  # requests, of which one goes wrong


class Store(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, fault: Fault) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault = fault
        self.turn = threading.Lock()
        self.version = 1_000
        self.asked = 0
        self.history: dict[str, list[tuple[int, bytes | None]]] = {}

    def write(self, key: str, value: bytes | None) -> int:
        self.version += 1
        self.history.setdefault(key, [(0, None)]).append((self.version, value))
        return self.version

    def read(self, key: str, *, exact: bool) -> tuple[int, bytes | None]:
        """What is there; with a fault, now and then the value before the last one."""
        history = self.history.get(key, [(0, None)])
        values = [known for known in history if known[1] is not None]
        self.asked += 1
        wrong = self.fault == "stale" or (self.fault == "lagging" and not exact)
        return values[-2] if wrong and self.asked % EVERY == 0 and len(values) > 1 else history[-1]


class Handler(BaseHTTPRequestHandler):
    server: Store
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/v1/nodes":
            return self.answer(200, json.dumps({"nodes": [{}] * (2 if self.server.fault == "lagging" else 1)}).encode())
        with self.server.turn:
            version, value = self.server.read(self.key(), exact="Min-Version" in self.headers)
            failing = self.server.fault == "failing" and self.server.asked % EVERY == 0
        if failing:
            return self.answer(503, b"no")
        if value is None:
            return self.answer(404, b"", {"Cache-Status": "cachesvc; fwd=uri-miss", "Fill-Token": f"1:{self.server.version}"})
        return self.answer(200, value, {"ETag": f'"{version}"', "Cache-Status": "cachesvc; hit; ttl=9; detail=memory"})

    def do_PUT(self) -> None:
        body = self.body()
        if self.server.fault == "failing" and self.key().endswith(":end"):
            return self.answer(503, b"no")
        with self.server.turn:
            version = self.server.write(self.key(), body)
        return self.answer(201, b"{}", {"ETag": f'"{version}"'})

    def do_DELETE(self) -> None:
        with self.server.turn:
            version = self.server.write(self.key(), None)
        self.answer(204, b"", {"ETag": f'"{version}"'})

    def do_POST(self) -> None:
        operations = json.loads(self.body())["operations"]
        with self.server.turn:
            versions = [self.server.write(each["key"], json.dumps(each["value"]).encode()) for each in operations]
        self.answer(200, json.dumps({"results": [{"status": 201, "version": version} for version in versions]}).encode())

    def key(self) -> str:
        return unquote(self.path.removeprefix("/v1/cache/").partition("?")[0])

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@contextmanager
def serving(fault: Fault) -> Iterator[str]:
    """The URL of a service with a fault."""
    with Store(fault) as store:
        thread = threading.Thread(target=store.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{store.server_port}"
        finally:
            store.shutdown()
            thread.join()
