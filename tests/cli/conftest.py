"""One service for all tests of the command line, on real stores. Each test has keys of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.console import Inside
from tests.e2e.services import started


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Inside:
    return Inside(monkeypatch, capfd)


LOADER = '{"kind":"python","target":"tests.cli.origin:load"}'


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service on an embedded Valkey and SQLite."""
    directory: Path = tmp_path_factory.mktemp("service")
    with started(directory, levels__database__indexed_fields="brand", loaders__made=LOADER) as (_, url):
        yield url
