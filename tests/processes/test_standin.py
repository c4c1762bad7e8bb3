"""The stand-in: while no worker serves, the service says so instead of letting clients wait."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cachesvc.supervisor.standin import StandIn
from tests.processes.services import LIMIT, Service, serving
from tests.servers import wait_until

WITHOUT_REDIS = {"levels__redis__enabled": "false"}


@contextmanager
def starting(tmp_path: Path) -> Iterator[tuple[Service, str, Path]]:
    """A service whose worker serves once the pipe is opened for writing."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with serving(tmp_path, "--port", str(port), worker=["--wait", str(pipe)], **WITHOUT_REDIS) as service:
        wait_until(lambda: connects(port), process=service.process)
        yield service, url, pipe


def connects(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/cache/a"])
def test_says_that_nobody_serves_yet(tmp_path: Path, path: str) -> None:
    with starting(tmp_path) as (_, url, _):
        answer = httpx.get(url + path)
        assert (answer.status_code, answer.json()["code"], answer.json()["recoverable"]) == (503, "UNAVAILABLE", True)
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
        again = httpx.head(url + path)
        assert again.status_code == 503
        assert again.headers["x-request-id"] != answer.headers["x-request-id"] == answer.json()["requestId"]
        assert httpx.put(url + path, content=b"x" * (10 << 20)).status_code == 503


def test_a_head_is_answered_without_a_body(tmp_path: Path) -> None:
    with starting(tmp_path) as (_, url, _), socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as client:
        client.settimeout(LIMIT)
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.endswith(b"\r\n\r\n")


def test_silent_clients_are_let_go_and_stop_nobody(tmp_path: Path) -> None:
    with starting(tmp_path) as (service, url, pipe):
        port = httpx.URL(url).port
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]  # more than it takes at once
        assert httpx.get(url, timeout=LIMIT).status_code == 503
        for client in silent:
            client.settimeout(LIMIT)
            assert client.recv(1) == b""
            client.close()
        with pipe.open("w"):
            service.ready()
        assert httpx.get(url).status_code == 200


class Exhausted(socket.socket):
    """A socket that has no descriptor for a connection at first."""

    failures = 3

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return super().accept()


async def test_what_cannot_be_taken_now_is_taken_later() -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    with Exhausted() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        standin = StandIn(listening, lambda: False)
        standin.begin()
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(LIMIT):
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        writer.close()
        standin.close()
    assert (faults, listening.failures) == ([], 0)


def test_takes_nothing_from_a_worker_that_serves(tmp_path: Path) -> None:
    with starting(tmp_path) as (service, url, pipe):
        assert httpx.get(url).status_code == 503
        with pipe.open("w"):
            service.ready()
        assert {httpx.get(url).status_code for _ in range(50)} == {200}
        os.kill(httpx.get(url).json()["pid"], signal.SIGKILL)
        service.said("was killed by SIGKILL")
        wait_until(lambda: httpx.get(url).status_code == 503, process=service.process)
        with pipe.open("w"):
            wait_until(lambda: httpx.get(url).status_code == 200, process=service.process)
        assert service.stop() == 0


def test_a_service_that_is_stopped_before_it_serves(tmp_path: Path) -> None:
    with starting(tmp_path) as (service, url, _):
        assert httpx.get(url).status_code == 503
        assert service.stop() == 0
