"""Leases in Redis, above a database as authority: who loads what, agreed on in one round trip.

A lease is lost with the Redis that held it, and evicted when it likes: then two nodes load the same, which does no harm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from cachesvc.ports import LONGEST_LEASE
from cachesvc.tiers.redis_connection import Connection, Group, load_script

_ACQUIRE, _RELEASE = (load_script(name) for name in ("acquire", "release"))


class RedisLeases:
    """`ports.Leases`."""

    def __init__(self, connection: Connection, *, key_prefix: str) -> None:
        self._connection = connection
        self._stem = f"{key_prefix}:lease:"

    async def acquire(self, leases: Collection[str], holder: str, ttl: float) -> Mapping[str, float]:
        """See `ports.Leases`."""
        if not leases:
            return {}
        async with self._connection.limited():
            left = await self._connection.run(_ACQUIRE, (holder, max(1, int(ttl * 1_000)), LONGEST_LEASE), self._groups(leases))
        return {
            lease: float(str(milliseconds)) / 1_000
            for lease, milliseconds in zip(leases, left, strict=True)
            if milliseconds is not None
        }

    async def release(self, leases: Collection[str], holder: str) -> None:
        """See `ports.Leases`."""
        if leases:
            async with self._connection.limited():
                await self._connection.run(_RELEASE, (holder,), self._groups(leases))

    def _groups(self, leases: Collection[str]) -> Sequence[Group]:
        return [Group([(self._stem + lease).encode()], []) for lease in leases]
