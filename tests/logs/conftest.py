"""Databases for the tests of the database authority: empty, for one test each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import databases, servers
from tests.logs.database_store import DatabaseStore


@pytest.fixture
def sqlite_store(tmp_path: Path) -> DatabaseStore:
    databases.put_sqlite(tmp_path / "cache.db")
    return DatabaseStore(f"sqlite:///{tmp_path}/cache.db", tmp_path)


@pytest.fixture
def postgres_store(postgres_url: str, tmp_path: Path) -> DatabaseStore:
    return DatabaseStore(postgres_url, tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> DatabaseStore:
    """Each kind in turn."""
    found = request.getfixturevalue(f"{request.param}_store")
    assert isinstance(found, DatabaseStore)
    return found


@pytest.fixture(params=["sqlite", "postgres"])
def bare_store(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseStore:
    """Each kind in turn, without tables."""
    url = f"sqlite:///{tmp_path}/cache.db" if request.param == "sqlite" else request.getfixturevalue("bare_postgres_url")
    return DatabaseStore(url, tmp_path)


@pytest.fixture
def own_postgres() -> Iterator[servers.Server]:
    """A server that the test may kill."""
    with servers.postgres() as server:
        yield server
