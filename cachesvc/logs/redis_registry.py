"""What the nodes of a site share in Redis: who is there, who holds which lease, the dictionaries, quotas.

All times are the server's, so nodes whose clocks differ agree on who holds a lease.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from cachesvc.logs.redis_rows import Names, milliseconds
from cachesvc.logs.redis_server import Server
from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.ports import LONGEST_LEASE, Drawn, NodeRecord
from cachesvc.tiers.redis_quotas import drawn


class RedisRegistry:
    """`ports.Registry`."""

    def __init__(self, server: Server, names: Names) -> None:
        self._server = server
        self._names = names

    async def heartbeat(self, record: NodeRecord) -> None:
        told = [
            await self._server.time(),
            record.started_at,
            *record.applied,
            record.version,
            record.address,
            dict(record.info),
        ]
        await self._server.ask("HSET", self._names.nodes, record.node, orjson.dumps(told))

    async def nodes(self, *, seen_within: float) -> Sequence[NodeRecord]:
        now = await self._server.time()
        # who was seen long after now was seen before the clock was set back
        return [node for node in await self._known_nodes() if abs(node.seen_at - now) <= seen_within]

    async def leave(self, node: str) -> None:
        await self._server.ask("HDEL", self._names.nodes, node)

    async def _known_nodes(self) -> list[NodeRecord]:
        found = await self._server.ask("HGETALL", self._names.nodes)
        return [_node(name.decode(), orjson.loads(told)) for name, told in found.items()]

    async def drop_nodes(self, unseen_since: float) -> None:
        away = [node.node for node in await self._known_nodes() if node.seen_at < unseen_since]
        if away:
            await self._server.ask("HDEL", self._names.nodes, *away)

    async def acquire(self, leases: Collection[str], holder: str, ttl: float) -> Mapping[str, float]:
        names = [self._names.lease(lease) for lease in leases]
        left = await self._server.run("acquire", names, (holder, milliseconds(ttl), LONGEST_LEASE)) if names else ()
        return {lease: milliseconds / 1_000 for lease, milliseconds in zip(leases, left, strict=True)}

    async def release(self, leases: Collection[str], holder: str) -> None:
        if leases:
            await self._server.run("release", [self._names.lease(lease) for lease in leases], (holder,))

    async def draw(self, name: str, *, asked: float, most: float) -> Drawn:
        """See `ports.Quotas`."""
        return drawn((await self._server.run("draw", [self._names.quota(name)], (repr(asked), repr(most))))[0])

    async def add_dictionary(self, module: str, data: bytes) -> int:
        # a list: its length after the push is the id, so no reader sees an id whose predecessor is still to come
        return int(await self._server.once("RPUSH", self._names.dictionaries, module.encode() + b"\0" + data))

    async def dictionaries(self, *, after: int) -> Sequence[tuple[int, str, bytes]]:
        found = await self._server.ask("LRANGE", self._names.dictionaries, after, -1)
        parts = (item.partition(b"\0") for item in found)
        return [(number, module.decode(), data) for number, (module, _, data) in enumerate(parts, after + 1)]


def _node(name: str, told: Sequence[Any]) -> NodeRecord:
    seen_at, started_at, epoch, sequence, version, address, info = told[:7]
    return NodeRecord(name, started_at, seen_at, Position(Epoch(epoch), Seq(sequence)), version, address, info)
