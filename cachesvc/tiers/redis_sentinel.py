"""The connection to a master that Sentinels watch: whom they name is asked anew for each connection that is made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff

from cachesvc.tiers.redis_connection import Connection, packing

_PORT = 26379


def _asking(kind: type[SentinelManagedConnection]) -> type[SentinelManagedConnection]:
    """The same connection, which asks the Sentinels also where a command is sent before it was connected by hand."""

    class Asking(kind):  # type: ignore[misc, valid-type]
        async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
            if not self.is_connected:
                try:
                    await self.connect()
                except MasterNotFoundError as exc:  # its words are the whole state of the driver
                    raise MasterNotFoundError("no Sentinel names a master that is there") from exc
            await super().send_packed_command(command, check_health)

    return Asking


class SentinelConnection(Connection):
    """A `Connection` to the master. A node of it that was demoted says so at the next write, and is left."""

    def __init__(self, url: str, *, timeout: float, most: int, **options: Any) -> None:
        """For `redis+sentinel://user:password@host:26379,host:26379/NAME/DB`.

        User and password are the master's; `sentinel_username` and `sentinel_password` in the query are those of the
        Sentinels, the rest of it is as redis-py takes it. Raises `ValueError`, and `TypeError` for a parameter that is none.
        """
        parts = urlsplit(url)
        tls = parts.scheme.startswith("rediss")
        user, at, hosts = parts.netloc.rpartition("@")
        sentinels = [urlsplit(f"//{host}") for host in hosts.split(",")]
        _, name, *database = parts.path.split("/")
        kept: dict[str, Any] = dict(parse_url(f"redis://{user}{at}master/{'/'.join(database)}?{parts.query}"))
        asked = {word: kept.pop(f"sentinel_{word}", None) for word in ("username", "password")}
        shared = {option: value for option, value in kept.items() if option.startswith("ssl_")}
        for unused in ("host", "port", "connection_class"):
            kept.pop(unused, None)
        self._watching = Sentinel(  # type: ignore[no-untyped-call]
            [(one.hostname, one.port or _PORT) for one in sentinels],
            sentinel_kwargs={
                # so that the last of them is still asked within the time limit of a call
                "socket_timeout": timeout / (len(sentinels) + 1),
                "socket_connect_timeout": timeout / (len(sentinels) + 1),
                "retry": Retry(NoBackoff(), 0),
                "ssl": tls,
                **shared,
                **asked,
            },
        )
        kind = packing(_asking(SentinelManagedSSLConnection if tls else SentinelManagedConnection))
        options = {"retry": Retry(NoBackoff(), 0), **options, **kept}
        pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
            name, self._watching, connection_class=kind, **options
        )
        pool.make_connection()  # type: ignore[no-untyped-call]
        super().__init__(Redis(connection_pool=pool), timeout, asyncio.Semaphore(most))

    async def close(self) -> None:
        """Disconnect from the master, and from the Sentinels."""
        await super().close()
        await self._watching.aclose()
