"""Quotas in Redis, above a database as authority. With the Redis that held them they begin anew, full."""

from __future__ import annotations

from cachesvc.errors import TierUnavailable
from cachesvc.ports import Drawn
from cachesvc.tiers.redis_connection import Connection, Group, load_script

_DRAW = load_script("draw")


class RedisQuotas:
    """`ports.Quotas`."""

    def __init__(self, connection: Connection, *, key_prefix: str) -> None:
        self._connection = connection
        self._stem = f"{key_prefix}:quota:"

    async def draw(self, name: str, *, asked: float, most: float) -> Drawn:
        """See `ports.Quotas`."""
        group = Group([(self._stem + name).encode("utf-8", "surrogatepass")], [])
        async with self._connection.limited():
            answers = await self._connection.run(_DRAW, (repr(asked), repr(most)), [group])
        return drawn(answers[0])


def drawn(answer: bytes | None) -> Drawn:
    """What the script answered; raises `TierUnavailable` where the part of a Cluster did not that has the budget."""
    if answer is None:
        raise TierUnavailable("redis", "the master of this quota does not answer")
    given, used = map(float, answer.split())
    return Drawn(given, used)
