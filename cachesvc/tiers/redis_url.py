"""The connection that a URL names: standalone, Cluster or by Sentinels, plain or TLS. Opening connects to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import Connection as TcpConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from cachesvc.errors import SettingsError
from cachesvc.ports import Clock
from cachesvc.tiers.redis_cluster import ClusterConnection
from cachesvc.tiers.redis_connection import DRIVER_ERRORS, Connection, packing
from cachesvc.tiers.redis_sentinel import SentinelConnection


@asynccontextmanager
async def connected(url: str, *, timeout: float, max_connections: int, clock: Clock) -> AsyncIterator[Connection]:
    """A connection for `redis://`, `rediss://`, `unix://`, and the first two with `+cluster` or `+sentinel`.

    The URL's query is as redis-py takes it (`?ssl_ca_certs=…`, `?db=1`). Raises `SettingsError` for a URL that is not one.
    """
    connection: Connection
    # RESP2: nothing here needs more, and every proxy speaks it
    options = {"protocol": 2, "socket_timeout": None, "socket_connect_timeout": timeout}
    scheme, separator, rest = url.partition("://")
    try:
        if scheme.endswith("+cluster"):
            cluster = RedisCluster.from_url(
                scheme.removesuffix("+cluster") + separator + rest,
                max_connections=max_connections,
                retry=Retry(NoBackoff(), 0),
                require_full_coverage=False,  # where a part of it has gone the others go on
                **options,
            )
            every = cluster.nodes_manager.connection_kwargs
            every["connection_class"] = packing(every.get("connection_class", TcpConnection))
            connection = ClusterConnection(cluster, timeout, max_connections, clock)
        elif scheme.endswith("+sentinel"):
            connection = SentinelConnection(url, timeout=timeout, most=max_connections, **options)
        else:
            # once more after a lost connection: it may only have been idle while the server restarted
            retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
            pool = BlockingConnectionPool.from_url(
                url, max_connections=max_connections, timeout=timeout, retry=retry, **options
            )
            pool.connection_class = packing(pool.connection_class)
            pool.make_connection()  # type: ignore[no-untyped-call] # which refuses a parameter that is none
            connection = Connection(Redis.from_pool(pool), timeout, asyncio.Semaphore(max_connections))
    except (ValueError, TypeError, *DRIVER_ERRORS) as exc:
        raise SettingsError("levels.redis.url", scheme + separator + "…", f"is not a Redis URL: {exc}") from exc
    try:
        yield connection
    finally:
        await connection.close()
