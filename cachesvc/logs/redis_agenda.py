"""The agenda in Redis: a hash of items, one of their bodies, their names in order, and their names by when they are due."""

from __future__ import annotations

from collections.abc import Sequence

from cachesvc.logs.redis_rows import Names
from cachesvc.logs.redis_server import Argument, Server
from cachesvc.model.agenda import Item, Items, pack_item, unpack_item


class RedisAgenda:
    """`ports.Agenda`."""

    def __init__(self, server: Server, names: Names) -> None:
        self._server = server
        self._names = names

    async def due_items(self, *, limit: int) -> Sequence[Item]:
        now = await self._server.time()
        due = await self._server.ask("ZRANGE", self._names.agenda_due, "-inf", repr(now), "BYSCORE", "LIMIT", 0, limit)
        # one that another has looked at since the names were read may be due at another time
        return [item for item in await self._named(due) if item.due <= now]

    async def find_item(self, name: str) -> Item | None:
        names = self._names
        held, body = await self._server.together(("HGET", names.agenda, name), ("HGET", names.agenda_bodies, name))
        return unpack_item(name, held, body or b"") if held is not None else None

    async def list_items(self, kind: str, *, before: str = "", limit: int) -> Sequence[Item]:
        low, high = b"[" + kind.encode(), b"(" + before.encode() if before else b"[" + kind.encode() + b"\xff"
        asking = (self._names.agenda_names, high, low, "BYLEX", "REV", "LIMIT", 0, limit)
        return await self._named(await self._server.ask("ZRANGE", *asking))

    async def excess_items(self, kind: str, *, most: int, limit: int) -> Sequence[Item]:
        low, high = b"[" + kind.encode(), b"[" + kind.encode() + b"\xff"
        over = int(await self._server.ask("ZLEXCOUNT", self._names.agenda_names, low, high)) - most
        if over <= 0:
            return []
        asking = (self._names.agenda_names, low, high, "BYLEX", "LIMIT", 0, min(over, limit))
        return await self._named(await self._server.ask("ZRANGE", *asking))

    async def _named(self, names: Sequence[bytes]) -> list[Item]:
        held = await self._server.ask("HMGET", self._names.agenda, *names) if names else []
        return [unpack_item(name.decode(), one) for name, one in zip(names, held, strict=True) if one is not None]


def packed(items: Items) -> list[Argument]:
    """The items as the append script takes them, after their number."""
    said: list[Argument] = [len(items)]
    for name, item in items.items():
        said += (name, "", "", "") if item is None else (name, repr(item.due), pack_item(item), item.body)
    return said
