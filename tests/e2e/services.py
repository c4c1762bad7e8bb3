"""The service as a user runs it: `cachesvc serve` over real stores, and the end of everything at once.

A connection stays with the worker that accepted it, so what one node promises is asked over one connection.
"""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import psutil

from tests import databases
from tests.processes.services import LIMIT, REAL, Service, serving

NO_REDIS = {"levels__redis__enabled": "false"}
JSON = {"Content-Type": "application/json"}


@contextmanager
def started(data_dir: Path, *options: str, clock_ahead: str = "", **settings: str) -> Iterator[tuple[Service, str]]:
    """A service that serves, and its URL. `clock_ahead`: seconds by which its machine's clock is wrong.

    Where it keeps to the SQLite of its directory it finds that ready; `tests/processes` starts services in bare directories.
    It refuses nothing because the machine is busy, unless that is set.
    """
    settings = {"server__max_delay": "1m"} | settings
    if "levels__database__url" not in settings:
        databases.put_sqlite(data_dir / "cachesvc.db")
    with serving(data_dir, *options, program=REAL, clock_ahead=clock_ahead, **settings) as service:
        try:
            yield service, service.ready()
        finally:
            if service.process.poll() is None:
                kill_at_once(service.process.pid)


def kill_at_once(*roots: int) -> None:
    """SIGKILL to these processes and all their descendants; frozen first, so that none sees another die."""
    doomed: list[psutil.Process] = []
    for root in roots:
        parent = psutil.Process(root)
        parent.send_signal(signal.SIGSTOP)  # from here on it starts no other
        doomed += [parent, *parent.children(recursive=True)]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in doomed:
            if process.is_running():
                process.send_signal(number)
    deadline = time.monotonic() + LIMIT
    while any(_runs(process) for process in doomed):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _runs(process: psutil.Process) -> bool:
    """Whether it is more than a zombie, which whoever adopted it may take its time to bury."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """One connection, hence one node."""
    limits = httpx.Limits(max_connections=1, keepalive_expiry=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=LIMIT, trust_env=False) as client:
        yield client


async def node_of(client: httpx.AsyncClient) -> str:
    """Which node answers on this connection."""
    return next(str(node["node"]) for node in (await client.get("/v1/nodes")).json()["nodes"] if node["self"])


@asynccontextmanager
async def connected_to_each(url: str, workers: int) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A connection to each worker behind a URL: the kernel deals them out, so more are opened than are kept."""
    async with AsyncExitStack() as stack:
        found: dict[str, httpx.AsyncClient] = {}
        for _ in range(200):
            client = await stack.enter_async_context(connected(url))
            found.setdefault(await node_of(client), client)
            if len(found) == workers:
                yield list(found.values())
                return
        raise AssertionError(f"only {len(found)} of {workers} workers accepted a connection")


async def put(client: httpx.AsyncClient, key: str, value: object) -> int:
    """Write; the version."""
    answer = await client.put(f"/v1/cache/{key}", json=value)
    assert answer.status_code in (200, 201), answer.text
    return int(answer.json()["version"])


async def version_of(client: httpx.AsyncClient, key: str) -> int:
    """The version that is served; 0 when there is no entry."""
    answer = await client.get(f"/v1/cache/{key}")
    assert answer.status_code in (200, 404), answer.text
    return int(answer.headers["ETag"].strip('"')) if answer.status_code == 200 else 0
