"""Fixtures every test may use: real servers, started once a session, emptied between tests."""

from __future__ import annotations

import functools
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import hypothesis
import pytest
import redis

from tests import databases, servers

# A machine that is busy is no failure. The same examples each time, so that a failure is of what was changed; others with
# EXPLORE=1.
hypothesis.settings.register_profile(
    "any machine",
    deadline=None,
    derandomize="EXPLORE" not in os.environ,
    max_examples=40,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any machine")

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as in the background of a shell: processes of the tests would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

WAITING = ("e2e", "faults", "clusters", "processes", "load", "node", "cli")  # directories whose tests wait for servers
LONGEST = ("properties", "conformance", "model", "logs")  # of the others, which keep a processor busy


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Nothing of what is imported and collected is ever garbage: not to look through it is a fifth of its CPU."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process works on alone in the end; those that wait evenly among those that do not."""
    order = [*WAITING, *LONGEST]
    places = {item.path: directory_of(item.path) for item in items}
    files = sorted(places, key=lambda path: order.index(places[path]) if places[path] in order else len(order))
    kinds = [[path for path in files if (places[path] in WAITING) is waits] for waits in (True, False)]
    spread = {path: (number + 0.5) / len(kind) for kind in kinds for number, path in enumerate(kind)}
    items.sort(key=lambda item: spread[item.path])


def directory_of(path: Path) -> str:
    """Which of the directories of tests a file is in."""
    return path.relative_to(Path(__file__).parent).parts[0]


@pytest.fixture(scope="session", autouse=True)
def one_tls_context() -> Iterator[None]:
    """httpx reads the authorities of the web for each client, for 20 ms, also where nothing is encrypted: here, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context))
        yield


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[servers.Server]:
    with servers.valkey() as server:
        yield server


@pytest.fixture(scope="session")
def redis7_server() -> Iterator[servers.Server]:
    if servers.REDIS7 is None:
        pytest.skip("no redis-server installed")
    with servers.valkey(binary=servers.REDIS7) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_cluster_servers() -> Iterator[list[servers.Server]]:
    with servers.valkey_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.Server]:
    with servers.postgres("-c", "fsync=off") as server:  # what is killed in the tests is never the machine
        yield server


@pytest.fixture
def valkey_url(valkey_server: servers.Server) -> str:
    """The URL of an empty Valkey."""
    with redis.Redis(port=valkey_server.port) as client:
        client.flushall()
    return valkey_server.url


@pytest.fixture
async def postgres_url(postgres_server: servers.Server) -> str:
    """The URL of a PostgreSQL database with its tables and nothing in them: always the same one."""
    await databases.ready(postgres_server.url)
    return postgres_server.url


@pytest.fixture
async def bare_postgres_url(postgres_server: servers.Server) -> str:
    """The URL of that database without the tables."""
    await databases.without_tables(postgres_server.url)
    return postgres_server.url
