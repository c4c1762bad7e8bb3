"""Patterns in force, as the Redis authority keeps them: read when they changed, and ended step by step.

The rule that must not break: whoever reads rows reads the state in the same step, asks `RedisPatterns` with it, and gives out
no row that a pattern kills.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from cachesvc.logs.redis_rows import VERSION_DIGITS, Names, pack_row, unpack_row, version_of
from cachesvc.logs.redis_server import Argument, Server
from cachesvc.model.entry import tombstone
from cachesvc.model.fold_state import ENDED_KEPT
from cachesvc.model.invalidation import SOFT, InForce, Patterns, hit, in_force, softened
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Seq, Version
from cachesvc.ports import Burial

Walk = Callable[[Pattern, Key | None], AsyncIterator[list[Key]]]

_NONE: Final = Patterns()


class Kept(NamedTuple):
    """A pattern in force, when it was retired (Unix seconds, 0: not yet), and the key up to which it has been swept."""

    one: InForce
    retired_at: float = 0.0
    buried_to: str = ""
    looked: int = 0
    buried: int = 0

    def packed(self) -> bytes:
        return orjson.dumps([self.one.sequence, self.one.retired, *self[1:], self.one.at, self.one.soft])


def unpacked(name: bytes, packed: bytes) -> Kept:
    """What `Kept.packed` wrote under the pattern's name."""
    said = (*orjson.loads(packed), 0.0, False)  # an older version did not write the last two
    sequence, retired, retired_at, buried_to, looked, buried, at, soft = said[:8]
    text = name.decode().removeprefix(SOFT)
    one = in_force(Seq(sequence), text, retired=Seq(retired), at=at, soft=soft)
    return Kept(one, retired_at, buried_to, looked, buried)


class RedisPatterns:
    """The patterns in force, kept until the log's state says that they are others."""

    def __init__(self, server: Server, names: Names) -> None:
        self._server = server
        self._names = names
        self._held: tuple[tuple[bytes, bytes], Patterns] = (b"", b""), _NONE

    async def at(self, epoch: bytes, patterns_at: bytes | None) -> Patterns:
        """Those in force in a state that was just read."""
        if patterns_at is None:
            return _NONE
        if self._held[0] != (epoch, patterns_at):
            self._held = (epoch, patterns_at), Patterns([kept.one for kept in await self.load()])
        return self._held[1]

    async def kept(self, one: InForce, now: float) -> Kept:
        """A pattern that comes into force, or is retired and keeps its counts."""
        if not one.retired:
            return Kept(one)
        known = [kept for kept in await self.load() if kept.one.sequence == one.sequence]
        return (known[0] if known else Kept(one))._replace(one=one, retired_at=now)

    async def load(self) -> list[Kept]:
        """All in force, the retired ones too."""
        return self.read(await self._server.ask("HGETALL", self._names.patterns))

    def read(self, found: dict[bytes, bytes]) -> list[Kept]:
        return [unpacked(text, packed) for text, packed in found.items()]

    async def bury(self, pattern: InForce, walk: Walk, *, limit: int, now: float) -> Burial:
        """See `ports.Authority.bury`. `walk` gives the keys that match after one, in order, in pages."""
        name = pattern.name
        noted = await self._server.ask("HGET", self._names.patterns, name)
        kept = unpacked(name.encode(), noted) if noted is not None else None
        if kept is None or kept.one.sequence != pattern.sequence:
            return Burial(done=True)
        if kept.one.retired:
            return Burial(True, kept.looked, kept.buried)
        keys: list[Key] = []
        async for page in walk(pattern.pattern, Key(kept.buried_to) if kept.buried_to else None):
            keys += page
            if len(keys) >= limit:
                break
        keys = keys[:limit]
        if keys:
            dead, hits = await (self._softened(keys, kept.one) if pattern.soft else self._older(keys, kept.one, now))
            names = self._names
            buried = kept.buried + hits
            kept = kept._replace(buried_to=keys[-1], looked=kept.looked + len(keys), buried=buried)
            said: list[Argument] = [name, noted, kept.packed(), names.rows, VERSION_DIGITS, int(pattern.soft), *dead]
            if not await self._server.run("bury", (names.keys, names.ends, names.gone, names.patterns), said):
                return await self.bury(pattern, walk, limit=limit, now=now)  # another has come further meanwhile
        elif await self._server.ask("HGET", self._names.patterns, name) != noted:
            return await self.bury(pattern, walk, limit=limit, now=now)  # and has taken away what was to be looked at
        return Burial(len(keys) < limit, kept.looked, kept.buried)

    async def burials(self) -> Mapping[InForce, Burial]:
        """See `ports.Authority.burials`."""
        return {
            kept.one: Burial(bool(kept.one.retired), kept.looked, kept.buried, kept.retired_at or None)
            for kept in await self.load()
        }

    async def _older(self, keys: list[Key], one: InForce, now: float) -> tuple[list[Argument], int]:
        """Key, version as the row has it, tombstone and its end, of those that are older; how many no older one had ended."""
        before = Patterns(kept.one for kept in await self.load() if kept.one.sequence < one.sequence)
        hits = 0
        asking = [("GETRANGE", self._names.rows + key, 0, VERSION_DIGITS - 1) for key in keys]
        dead: list[Argument] = []
        for key, version in zip(keys, await self._server.together(*asking), strict=True):
            if version and version_of(version) < one.sequence:
                gone = tombstone(key, Version(one.sequence), now=now, keep=ENDED_KEPT)
                dead += (key, version, pack_row(gone), repr(gone.expires_at))
                hits += not before.ended(key, version_of(version))
        return dead, hits

    async def _softened(self, keys: list[Key], one: InForce) -> tuple[list[Argument], int]:
        """The same of those that are older, with what is left of them; what a harder one kills is left to that.

        How many had life left.
        """
        held = Patterns(kept.one for kept in await self.load())
        stale: list[Argument] = []
        hits = 0
        rows = await self._server.ask("MGET", *(self._names.rows + key for key in keys))
        for key, row in zip(keys, rows, strict=True):
            entry = unpack_row(key, row) if row is not None else None
            if entry is None or entry.deleted or entry.version >= one.sequence or held.ended(key, entry.version):
                continue
            left = softened(entry, one.sequence, at=one.at)
            stale += (key, row[:VERSION_DIGITS], pack_row(left), repr(left.expires_at))
            hits += hit(entry, one.at, soft=True)
        return stale, hits

    async def forget_retired(self, now: float) -> None:
        """Forget what was retired long ago: what began before it cannot be judged any more."""
        old = [kept for kept in await self.load() if kept.one.retired and kept.retired_at < now - ENDED_KEPT]
        if old:
            highest = max(kept.one.sequence for kept in old)
            said: list[Any] = [argument for kept in old for argument in (kept.one.name, kept.packed())]
            await self._server.run("forget", (self._names.state, self._names.patterns), (highest, *said))
