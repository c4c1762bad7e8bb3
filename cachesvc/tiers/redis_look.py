"""Looking into Redis without reading through it: which keys there are, what one of them holds, how much it is.

What is looked at is neither counted as read nor changed, and it is told with its doubts instead of being left out.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Final

from redis.exceptions import ResponseError

from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key, partition_of
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Position, Version
from cachesvc.ports import Copy, Holding
from cachesvc.tiers.codec import Codec, DictionaryUnknown, Newer, Unreadable
from cachesvc.tiers.dictionaries import TrainedDictionaries
from cachesvc.tiers.measured import Size
from cachesvc.tiers.redis_connection import Connection
from cachesvc.tiers.redis_partitions import Partition, entry_key

_GLOB: Final = re.compile(rb"([*?\[\]\\])")
_MOST_BYTES: Final = 1 << 20  # of values asked for at once
_VERSION: Final = slice(1, 8)  # of a stored entry, in every format


async def see_all(connection: Connection, partitions: Sequence[Partition]) -> None:
    """Read the state of every partition."""
    async with connection.limited():
        states = await connection.read([[partition.state_key] for partition in partitions])
    for partition, raw in zip(partitions, states, strict=True):
        partition.see(raw)


async def scan(
    connection: Connection, key_prefix: bytes, partitions: Sequence[Partition], pattern: Pattern
) -> AsyncIterator[tuple[Key, Version]]:
    """The keys of entries that match, with their versions, in no order."""
    await see_all(connection, partitions)
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
                if len(version) == 7:  # else it was evicted in between
                    yield key, Version(int.from_bytes(version))


async def look(
    connection: Connection,
    partitions: Sequence[Partition],
    keys: Collection[Key],
    decode: Callable[[Sequence[tuple[Key, bytes | None]]], Awaitable[Mapping[Key, Entry]]],
) -> Mapping[Key, Copy]:
    """See `ports.Replica`. How long the values are is asked first, so that no answer is large."""
    found: dict[Key, Copy] = {}
    await see_all(connection, partitions)
    for chunk in await _chunks(connection, [(key, partitions[partition_of(key)]) for key in keys]):
        asked: dict[Partition, list[Key]] = {}
        for key, partition in chunk:
            asked.setdefault(partition, []).append(key)
        heads = [partition.head for partition in asked]
        async with connection.limited():
            groups = [[place.state_key, *(place.head + key.encode() for key in mine)] for place, mine in asked.items()]
            replies = iter(await connection.read(groups))
        stored: dict[Key, tuple[bytes, Position]] = {}
        for (partition, mine), head in zip(asked.items(), heads, strict=True):
            state, values = partition.see(next(replies)), list(islice(replies, len(mine)))
            if state is not None and partition.head == head:  # else it has begun anew: these keys are gone
                stored |= {key: (value, state.position) for key, value in zip(mine, values, strict=True) if value is not None}
        entries = await decode([(key, value) for key, (value, _) in stored.items()])
        found |= {key: Copy(entry, stored[key][1], len(stored[key][0])) for key, entry in entries.items()}
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
            [raw] = await connection.read([[partition.state_key]])
            partition.see(raw)
        asked = b""
        while partition.head not in (b"", asked):  # again where it has begun anew meanwhile: its keys have other names now
            asked = partition.head
            name = asked + key.encode()
            (raw, stored), left = await connection.send([("MGET", partition.state_key, name), ("PTTL", name)])
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
    asked = ("DBSIZE",), ("INFO", "memory")
    async with connection.limited():
        servers = await connection.servers()
        answers = [[await server.execute_command(*command) for command in asked] for server in servers]
    for keys, memory in answers:
        entries += int(keys)
        nbytes += int(memory["used_memory"])
    return Size(entries, nbytes)
