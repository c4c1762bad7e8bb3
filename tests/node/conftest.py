"""Nodes built from settings, over every choice of levels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis

from cachesvc.node.building import opened
from cachesvc.node.node import Node
from cachesvc.settings import Settings, load_settings
from tests import databases
from tests.servers import Server, cluster_url, valkey

OFF: dict[str, Any] = {"enabled": False}


def settings(data_dir: Path, *, memory: Any = None, redis: Any = None, database: Any = None, **more: Any) -> Settings:
    scheme, _, file = (database or {}).get("url", "").partition(":")
    if scheme == "sqlite":
        databases.put_sqlite(data_dir / file)
    # patience: on a busy machine a stall is no fault
    levels = {"memory": memory or {}, "redis": {"timeout": 5.0, **redis} if redis else OFF, "database": database or OFF}
    return load_settings(overrides={"server": {"data_dir": str(data_dir)}, "levels": levels, **more}, environ={})


@pytest.fixture(scope="module")
def durable_valkey() -> Any:
    with valkey("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
def durable_valkey_url(durable_valkey: Server) -> str:
    """The URL of an empty Valkey that keeps every write."""
    with redis.Redis(port=durable_valkey.port) as client:
        client.flushall()
    return durable_valkey.url


@pytest.fixture(
    params=["memory", "redis", "memory+redis", "sqlite", "memory+redis+sqlite", "memory+redis+postgres", "cluster+postgres"]
)
def levels(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Every choice of levels in turn, over the stores that it names."""

    def level(fixture: str, **more: Any) -> dict[str, Any]:
        return {"url": request.getfixturevalue(fixture), **more}

    sqlite = {"url": "sqlite:a.db"}
    match request.param:
        case "redis":
            return {"memory": OFF, "redis": level("durable_valkey_url", key_prefix="r1")}
        case "memory+redis":
            return {"redis": level("durable_valkey_url", key_prefix="r2")}
        case "sqlite":
            return {"memory": OFF, "database": sqlite}
        case "memory+redis+sqlite":
            return {"redis": level("valkey_url"), "database": sqlite}
        case "memory+redis+postgres":
            return {"redis": level("valkey_url"), "database": level("postgres_url")}
        case "cluster+postgres":
            cluster = cluster_url(request.getfixturevalue("valkey_cluster_servers"))
            return {"memory": OFF, "redis": {"url": cluster, "timeout": 5.0}, "database": level("postgres_url")}
    return {}


@pytest.fixture
async def node(levels: dict[str, Any], tmp_path: Path) -> AsyncIterator[Node]:
    async with opened(settings(tmp_path, **levels)) as node:
        yield node
