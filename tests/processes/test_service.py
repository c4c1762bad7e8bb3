"""The service whole: supervisor, real nodes, embedded Valkey, SQLite."""

from __future__ import annotations

import signal
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx

from tests.processes.services import INSTALLED, LIMIT, REAL, gone, serving
from tests.servers import wait_until


def test_once_asked_to_stop_it_refuses_connections_and_answers_what_is_in_flight(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2", program=REAL, levels__redis__enabled="false") as service:
        url = httpx.URL(service.ready())
        address = url.host, url.port or 0
        with socket.create_connection(address, timeout=LIMIT) as client:
            client.sendall(b"PUT /v1/cache/a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
            assert client.recv(1024).startswith(b"HTTP/1.1 100 ")
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: refused(address), process=service.process)
            client.sendall(b"1")
            told = b"".join(iter(lambda: client.recv(1024), b""))
            assert told.startswith(b"HTTP/1.1 201 ")
            assert b"\r\nconnection: close\r\n" in told
        assert service.ended() == 0


def refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=LIMIT).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_killed_node_is_replaced_and_a_killed_supervisor_leaves_none(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2", program=REAL) as service:
        url = service.ready()
        httpx.put(f"{url}/v1/cache/a", content=b"1")
        service.child("cachesvc.node").kill()
        service.said("was killed by SIGKILL; started again")
        with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as client:
            assert client.get(f"{url}/v1/cache/a").content == b"1"
        wait_until(lambda: len(service.children()) == 3, process=service.process)
        children = service.children()
        service.process.kill()
        assert gone(children) == []


def test_the_directory_it_is_started_in_has_loaders_and_stands_in_for_no_library(tmp_path: Path) -> None:
    for name in ("uvloop", "httptools", "h2", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is none of yours')")
    (tmp_path / "origin.py").write_text("def load(keys): return {key: 1 for key in keys}")
    (tmp_path / "c.toml").write_text(
        '[levels.database]\nurl = "sqlite:c.db"\n[loaders.task]\nkind = "python"\ntarget = "origin:load"'
    )
    told = ("--config", "c.toml")
    with serving(tmp_path, *told, program=INSTALLED, cwd=str(tmp_path), levels__redis__enabled="false") as service:
        url = service.said(r"ready on (\S+)|none of yours")[1]
        assert url, "a file of it was imported"
        assert httpx.get(f"{url}/v1/cache/task:1").content == b"1"
        assert service.stop() == 0


def test_what_is_stored_can_be_read_after_a_start_without_a_write(tmp_path: Path) -> None:
    """As on a full disk: here another holds the database's lock for writing. What was stored survives a clean restart."""
    settings = {"levels__redis__enabled": "false"}
    with serving(tmp_path, program=REAL, **settings) as service:
        assert httpx.put(f"{service.ready()}/v1/cache/a", content=b"1").status_code == 201
        assert service.stop() == 0
    settings["levels__database__timeout"] = "200ms"
    with closing(sqlite3.connect(tmp_path / "cachesvc.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with serving(tmp_path, program=REAL, **settings) as service:
            url = service.ready()
            wait_until(lambda: httpx.get(f"{url}/v1/cache/a").content == b"1", process=service.process)
            assert httpx.put(f"{url}/v1/cache/a", content=b"2").status_code == 503
            other.execute("ROLLBACK")
            wait_until(lambda: httpx.put(f"{url}/v1/cache/a", content=b"2").status_code == 200, process=service.process)
            wait_until(lambda: len(httpx.get(f"{url}/v1/nodes").json()["nodes"]) == 1, process=service.process)
            assert service.stop() == 0
