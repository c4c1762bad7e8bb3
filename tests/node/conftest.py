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
from tests.servers import Server, cluster_url, valkey

OFF: dict[str, Any] = {"enabled": False}


def settings(data_dir: Path, *, memory: Any = None, redis: Any = None, database: Any = None, **more: Any) -> Settings:
    # patience: on a busy machine a stall is no fault
    levels = {"memory": memory or {}, "redis": {"timeout": 5.0, **redis} if redis else OFF, "database": database or OFF}
    return load_settings(overrides={"server": {"data_dir": str(data_dir)}, "levels": levels, **more}, environ={})


@pytest.fixture(scope="module")
def durable_valkey() -> Any:
    with valkey("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture(
    params=["memory", "redis", "memory+redis", "sqlite", "memory+redis+sqlite", "memory+redis+postgres", "cluster+postgres"]
)
async def node(
    request: pytest.FixtureRequest, tmp_path: Path, valkey_url: str, postgres_url: str, durable_valkey: Server
) -> AsyncIterator[Node]:
    with redis.Redis(port=durable_valkey.port) as client:
        client.flushall()
    chosen: dict[str, dict[str, Any]] = {
        "memory": {},
        "redis": {"memory": OFF, "redis": {"url": durable_valkey.url, "key_prefix": "r1"}},
        "memory+redis": {"redis": {"url": durable_valkey.url, "key_prefix": "r2"}},
        "sqlite": {"memory": OFF, "database": {"url": "sqlite:a.db"}},
        "memory+redis+sqlite": {"redis": {"url": valkey_url}, "database": {"url": "sqlite:a.db"}},
        "memory+redis+postgres": {"redis": {"url": valkey_url}, "database": {"url": postgres_url}},
        "cluster+postgres": {"memory": OFF, "redis": {}, "database": {"url": postgres_url}},
    }
    levels = chosen[request.param]
    if request.param == "cluster+postgres":
        levels["redis"] = {"url": cluster_url(request.getfixturevalue("valkey_cluster_servers")), "timeout": 5.0}
    async with opened(settings(tmp_path, **levels)) as node:
        yield node
