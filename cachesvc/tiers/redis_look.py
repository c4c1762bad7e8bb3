"""Looking into Redis without reading through it: which keys there are, what one of them holds, how much it is.

What is looked at is neither counted as read nor changed, and it is told with its doubts instead of being left out.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from redis.exceptions import ResponseError

from cachesvc.errors import TierUnavailable
from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key, partition_of
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Position, Version
from cachesvc.ports import Copy, Holding
from cachesvc.tiers.codec import Codec, DictionaryUnknown, Newer, Unreadable
from cachesvc.tiers.dictionaries import TrainedDictionaries
from cachesvc.tiers.measured import Size
from cachesvc.tiers.redis_connection import Connection, Missed
from cachesvc.tiers.redis_partitions import Partition, entry_key

_GLOB: Final = re.compile(rb"([*?\[\]\\])")
_MOST_BYTES: Final = 1 << 20  # of values asked for at once
_USED: Final = re.compile(rb"^used_memory:([0-9]+)", re.MULTILINE)
_AWAY: Final = "its master in the Cluster does not answer"
_VERSION: Final = slice(1, 8)  # of a stored entry, in every format


async def see_all(connection: Connection, partitions: Sequence[Partition]) -> None:
    """Read the state of every partition, also of those whose master was left alone."""
    async with connection.limited():
        answers = await connection.read([[partition.state_key] for partition in partitions], probing=True)
    for partition, answer in zip(partitions, answers, strict=True):
        if answer is None:
            partition.lose()
        else:
            partition.see(answer[0])


@dataclass(frozen=True, slots=True)
class Sweep:
    """A walk over all partitions, and whose master missed a call since it began: those were perhaps not walked."""

    connection: Connection
    partitions: Sequence[Partition]
    began: Sequence[Missed | None]

    def missed(self) -> set[int]:
        now = [self.connection.missed(partition.state_key) for partition in self.partitions]
        told = zip(self.partitions, self.began, now, strict=True)
        return {partition.number for partition, before, after in told if after is None or after != before}


async def begin(connection: Connection, partitions: Sequence[Partition]) -> Sweep:
    """Before a walk: sees all partitions first."""
    await see_all(connection, partitions)
    return Sweep(connection, partitions, [connection.missed(partition.state_key) for partition in partitions])


async def scan(
    connection: Connection, key_prefix: bytes, partitions: Sequence[Partition], pattern: Pattern
) -> AsyncIterator[tuple[Key, Version]]:
    """The keys of entries that match, with their versions, in no order, of the partitions as they were seen last."""
    match = key_prefix + b":{*}:*:" + _GLOB.sub(rb"\\\1", pattern.prefix.encode()) + b"*"
    async for batch in connection.scan(match):
        names: dict[bytes, Key] = {}
        for stored in batch:
            parts = entry_key(stored)
            if parts is None:
                continue
            number, head, key = parts
            if head == partitions[number].head and pattern.matches(key):
                names[stored] = key
        if names:
            async with connection.limited():
                heads = await connection.send([("GETRANGE", stored, 1, 7) for stored in names])
            for key, version in zip(names.values(), heads, strict=True):
                if version is not None and len(version) == 7:  # else it was evicted in between, or its master is away
                    yield key, Version(int.from_bytes(version))


async def look(
    connection: Connection,
    partitions: Sequence[Partition],
    keys: Collection[Key],
    decode: Callable[[Sequence[tuple[Key, bytes | None]]], Awaitable[Mapping[Key, Entry]]],
) -> Mapping[Key, Copy]:
    """See `ports.Replica`. How long the values are is asked first, so that no answer is large."""
    found: dict[Key, Copy] = {}
    sweep = await begin(connection, partitions)
    for chunk in await _chunks(connection, [(key, partitions[partition_of(key)]) for key in keys]):
        asked: dict[Partition, list[Key]] = {}
        for key, partition in chunk:
            asked.setdefault(partition, []).append(key)
        heads = [partition.head for partition in asked]
        async with connection.limited():
            groups = [[place.state_key, *(place.head + key.encode() for key in mine)] for place, mine in asked.items()]
            replies = await connection.read(groups)
        stored: dict[Key, tuple[bytes, Position]] = {}
        for (partition, mine), head, reply in zip(asked.items(), heads, replies, strict=True):
            if reply is None:
                continue  # told below
            state, values = partition.see(reply[0]), reply[1:]
            if state is not None and partition.head == head:  # else it has begun anew: these keys are gone
                stored |= {key: (value, state.position) for key, value in zip(mine, values, strict=True) if value is not None}
        entries = await decode([(key, value) for key, (value, _) in stored.items()])
        found |= {key: Copy(entry, stored[key][1], len(stored[key][0])) for key, entry in entries.items()}
    missed = sweep.missed()
    if any(partition.away or partition.number in missed for partition in map(partitions.__getitem__, map(partition_of, keys))):
        raise TierUnavailable("redis", "a master of these keys did not answer")
    return found


async def _chunks(connection: Connection, named: Sequence[tuple[Key, Partition]]) -> Sequence[Sequence[tuple[Key, Partition]]]:
    """Those that are held, as many at a time as weigh up to a limit together."""
    named = [(key, partition) for key, partition in named if partition.head]
    if not named:
        return []
    async with connection.limited():
        asked = [("STRLEN", partition.head + key.encode()) for key, partition in named]
        sizes = await connection.send(asked, keep=ResponseError)
    chunks: list[list[tuple[Key, Partition]]] = []
    room = 0
    for one, size in zip(named, sizes, strict=True):
        if isinstance(size, int) and size > 0:  # else it is gone, or no string
            if size > room:
                chunks.append([])
                room = max(_MOST_BYTES, size)
            room -= size
            chunks[-1].append(one)
    return chunks


async def inspect(
    connection: Connection,
    partition: Partition,
    key: Key,
    horizon: Position,
    *,
    codec: Codec,
    dictionaries: TrainedDictionaries,
) -> Holding:
    """See `ports.Inspected`."""
    stored, left = None, -1
    async with connection.limited():
        if not partition.head:
            [answer] = await connection.read([[partition.state_key]])
            if answer is None:
                return Holding(doubt=_AWAY)
            partition.see(answer[0])
        asked = b""
        while partition.head not in (b"", asked):  # again where it has begun anew meanwhile: its keys have other names now
            asked = partition.head
            name = asked + key.encode()
            held, left = await connection.send([("MGET", partition.state_key, name), ("PTTL", name)])
            if held is None or left is None:
                partition.lose()
                return Holding(doubt=_AWAY)
            raw, stored = held
            partition.see(raw)
    state = partition.state
    doubt = _doubt(partition, horizon)
    position = state.position if state is not None else None
    if stored is None or state is None:
        return Holding(replayed=position, doubt=doubt)
    entry = None
    version: Version | None = Version(int.from_bytes(stored[_VERSION]))
    try:
        try:
            entry = codec.decode(key, stored)
        except DictionaryUnknown as exc:
            await dictionaries.fetch({exc.number})
            entry = codec.decode(key, stored)
    except DictionaryUnknown as exc:
        doubt = doubt or f"needs dictionary {exc.number}, which is not known here"
    except Newer:
        doubt = doubt or "was written by a newer node"
    except Unreadable:
        version = None
        doubt = doubt or "is corrupt"
    return Holding(entry, version, left / 1000 if left >= 0 else None, len(stored), position, doubt)


def _doubt(partition: Partition, horizon: Position) -> str:
    """Why what a partition holds is not believed; "" when it is."""
    state = partition.state
    if state is None:
        return "its partition has not been replayed since Redis was emptied"
    if state.epoch != horizon.epoch:
        return f"its partition is of epoch {state.epoch}, not {horizon.epoch}"
    if partition.strange:
        return "its partition is not known yet to be of the log's history"
    if not state.reaches(horizon):
        return f"its partition has been replayed up to {state.position}, not to the horizon {horizon}"
    return ""


async def size(connection: Connection) -> Size:
    """The keys of the whole Redis database, and the memory of its server; of a Cluster, summed over its masters."""
    entries = nbytes = 0
    async with connection.limited():
        answers = await connection.everywhere([("DBSIZE",), ("INFO", "memory")])
    for keys, memory in answers:
        entries += int(keys)
        used = _USED.search(memory)
        nbytes += int(used[1]) if used is not None else 0
    return Size(entries, nbytes)
