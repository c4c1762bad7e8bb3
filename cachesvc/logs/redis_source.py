"""The rows of the Redis authority, as they are read: by key, by pattern, by what is due.

The rule that must not break: whoever reads rows reads the state in the same step, and gives out no row that a pattern kills.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Final

from cachesvc.errors import InvalidInput, Refusal, Refused
from cachesvc.logs.redis_patterns import RedisPatterns
from cachesvc.logs.redis_rows import OUTLINE, VERSION_DIGITS, Names, outline_of, unpack_row, version_of
from cachesvc.logs.redis_server import Server
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import Invalidation, Related, hit
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Epoch, Position, Seq, Version
from cachesvc.ports import Holding, Listed, TierStats

_PAGE: Final = 500  # rows or keys fetched at a time
_NO_INDEX: Final = "tags and cascades need the database level: Redis alone keeps no index of them"
UNRELATED: Final = Related(refused=Refused(Refusal.UNSUPPORTED, "cascade", _NO_INDEX))


class RedisSource:
    """`ports.Source`, over what the authority has written."""

    def __init__(self, server: Server, names: Names) -> None:
        self._server = server
        self._names = names
        self._patterns = RedisPatterns(server, names)

    async def get(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        """The rows, whatever the `horizon`: nothing has seen more than they have."""
        if not keys:
            return {}
        (epoch, patterns_at), rows = await self._server.together(
            ("HMGET", self._names.state, "epoch", "patterns_at"), ("MGET", *(self._names.rows + key for key in keys))
        )
        patterns = await self._patterns.at(epoch, patterns_at)
        return {key: patterns.hide(unpack_row(key, row)) for key, row in zip(keys, rows, strict=True) if row is not None}

    async def outline(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        if not keys:
            return {}
        asking = [("GETRANGE", self._names.rows + key, 0, OUTLINE - 1) for key in keys]
        state, *rows = await self._server.together(("HMGET", self._names.state, "epoch", "patterns_at"), *asking)
        patterns = await self._patterns.at(*state)
        outlined = {key: outline_of(key, row) for key, row in zip(keys, rows, strict=True) if row}
        whole = await self.get([key for key, entry in outlined.items() if entry is None], horizon=horizon)
        return {
            key: (patterns.hide(entry) if entry is not None else whole[key])._replace(value=b"")
            for key, entry in outlined.items()
            if entry is not None or key in whole
        }

    async def scan(self, pattern: Pattern) -> AsyncIterator[tuple[Key, Version]]:
        async for keys in self._matching(pattern, None):
            asking = [("GETRANGE", self._names.rows + key, 0, VERSION_DIGITS - 1) for key in keys]
            state, *versions = await self._server.together(("HMGET", self._names.state, "epoch", "patterns_at"), *asking)
            patterns = await self._patterns.at(*state)
            for key, version in zip(keys, versions, strict=True):
                if version and not patterns.newest(key, version_of(version)):
                    yield key, version_of(version)

    async def list_entries(self, pattern: Pattern, *, after: Key | None, limit: int, stale: bool = False) -> Sequence[Listed]:
        now = await self._server.time()
        found: list[Listed] = []
        async for keys in self._matching(pattern, after):
            for start in range(0, len(keys), limit):  # no more values at a time than are asked for
                rows = await self.get(keys[start : start + limit], horizon=Position(Epoch(0), Seq(0)))
                some = (entry for entry in rows.values() if hit(entry, now, soft=not stale))
                found += [Listed(entry._replace(value=b""), len(entry.value)) for entry in some]
                if len(found) >= limit:
                    return found[:limit]
        return found

    async def reach(self, invalidation: Invalidation) -> Related:
        return UNRELATED

    async def _matching(self, pattern: Pattern, after: Key | None) -> AsyncIterator[list[Key]]:
        """The keys that match, in byte order, in pages that are not empty."""
        prefix = pattern.prefix.encode()
        low = b"[" + prefix if prefix else b"-"
        if after is not None and after.encode() >= prefix:
            low = b"(" + after.encode()
        high = b"[" + prefix + (b"" if pattern.exact else b"\xff") if prefix else b"+"  # UTF-8 has no byte 255
        while True:
            found = await self._server.ask("ZRANGE", self._names.keys, low, high, "BYLEX", "LIMIT", 0, _PAGE)
            keys = [Key(key) for key in (member.decode() for member in found) if pattern.matches(key)]
            if keys:
                yield keys
            if len(found) < _PAGE:
                return
            low = b"(" + found[-1]

    async def backfill(self) -> None:
        """Nothing: there is no index."""

    async def query(self, fields: Mapping[str, Sequence[str]], *, after: Key | None, limit: int) -> Sequence[Entry]:
        raise InvalidInput(next(iter(fields), "query"), "is not indexed: that needs the database level")

    async def stats(self) -> TierStats:
        entries, memory = await self._server.together(("ZCARD", self._names.keys), ("INFO", "memory"))
        return TierStats(entries, memory["used_memory"])

    async def inspect(self, key: Key, *, horizon: Position) -> Holding:
        state, row = await self._server.together(
            ("HMGET", self._names.state, "epoch", "patterns_at"), ("GET", self._names.rows + key)
        )
        if row is None:
            return Holding()
        entry = unpack_row(key, row)
        killed = 0 if entry.deleted else (await self._patterns.at(*state)).newest(key, entry.version)
        doubt = f"was invalidated at {killed}" if killed else ""
        return Holding(entry, entry.version, stored=len(row), doubt=doubt)

    async def dependents(self, name: str, *, limit: int) -> Sequence[Key] | None:
        return None

    async def expired(self, *, limit: int, past: float = 0.0) -> Sequence[tuple[Key, Version]]:
        now = await self._server.time() - past
        due = [(key, version_of(version)) for key, version in await self._due(self._names.ends, now, limit)]
        patterns = await self._patterns.at(*await self._server.ask("HMGET", self._names.state, "epoch", "patterns_at"))
        return [(key, version) for key, version in due if not patterns.newest(key, version)]

    async def _due(self, ends: str, now: float, limit: int) -> list[tuple[Key, bytes]]:
        """Keys whose time is up, the longest first, each with its version as the row has it."""
        found = await self._server.ask("ZRANGE", ends, "-inf", repr(now), "BYSCORE", "LIMIT", 0, limit)
        if not found:
            return []
        keys = [Key(key.decode()) for key in found]
        versions = await self._server.together(*(("GETRANGE", self._names.rows + key, 0, VERSION_DIGITS - 1) for key in keys))
        return [(key, version) for key, version in zip(keys, versions, strict=True) if version]
