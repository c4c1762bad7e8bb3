"""The Redis tier: entries shared by the nodes, above a database as authority, in Valkey or Redis, standalone or Cluster.

Nothing in Redis is believed but by the state of its partition, read in the same atomic step. So a Redis that was away, was set
back, or evicted what it liked convicts itself, at no extra round trip, and is believed again once replayed.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from random import Random
from typing import Final

from cachesvc.errors import TierUnavailable, Unavailable
from cachesvc.model.change import Change
from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key, partition_of
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Position, Version
from cachesvc.ports import Clock, Copy, Holding, Mark, TierStats
from cachesvc.tiers.codec import Codec, DictionaryUnknown, Newer, Unreadable
from cachesvc.tiers.dictionaries import Shelf, TrainedDictionaries
from cachesvc.tiers.measured import Measured
from cachesvc.tiers.redis_connection import Connection, Group, load_script
from cachesvc.tiers.redis_leases import RedisLeases
from cachesvc.tiers.redis_look import begin, inspect, look, scan, see_all, size
from cachesvc.tiers.redis_offers import Offer, calls
from cachesvc.tiers.redis_partitions import partitions
from cachesvc.tiers.redis_quotas import RedisQuotas
from cachesvc.tiers.redis_replay import Replay
from cachesvc.tiers.redis_url import connected

_PUT: Final = load_script("put")
_TURN: Final = 16  # entries that are compressed at a time


class RedisTier:
    """A `Tier` and a `Replica`. `opened()` makes one. An entry is kept, and told, `stale(key)` seconds past its life."""

    name = "redis"

    def __init__(
        self,
        connection: Connection,
        *,
        key_prefix: str,
        ttl: float,
        ttl_jitter: float,
        compression: bool,
        max_recent: int,
        clock: Clock,
        dictionaries: Shelf,
        random: Random,
        stale: Callable[[Key], float] = lambda _: 0.0,
    ) -> None:
        self._connection = connection
        self._key_prefix = key_prefix.encode()
        self._ttl = ttl
        self._ttl_jitter = ttl_jitter
        self._clock = clock
        self._random = random.random
        self._stale = stale
        self._dictionaries = TrainedDictionaries(dictionaries, clock=clock, random=random)
        self._codec = Codec(self._dictionaries, compression=compression)
        self._partitions = partitions(key_prefix)
        self.leases = RedisLeases(connection, key_prefix=key_prefix)
        self.quotas = RedisQuotas(connection, key_prefix=key_prefix)
        self._replay = Replay(connection, self._partitions, key_prefix=key_prefix, max_recent=max_recent)
        self._counts: Counter[str] = Counter()
        self.doubted = 0
        self.strange = asyncio.Event()
        self._size = Measured(partial(size, connection), clock.monotonic)

    async def get(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        """See `ports.Source`. One round trip."""
        if not keys:
            return {}
        stored = await self._read(_by_partition(keys), horizon)
        found = await self._decoded(stored)
        self._counts["hits"] += len(found)
        self._counts["misses"] += len(keys) - len(found)
        return found

    async def look(self, keys: Collection[Key]) -> Mapping[Key, Copy]:
        """See `ports.Replica`."""
        return await look(self._connection, self._partitions, keys, self._decoded)

    async def _decoded(self, stored: Sequence[tuple[Key, bytes | None]]) -> dict[Key, Entry]:
        """What is live of it, dictionaries fetched where they are missing; what is corrupt is taken away."""
        found: dict[Key, Entry] = {}
        unread, corrupt = self._accept(stored, found)
        if unread and await self._fetched({number for _, _, number in unread}):
            unread, again = self._accept([(key, value) for key, value, _ in unread], found)
            corrupt += again
        if corrupt:
            await self._repair(corrupt)
        self._counts["dictionary_unknown"] += len(unread)
        return found

    async def _fetched(self, numbers: set[int]) -> bool:
        """Whether dictionaries came that were missing. Where the authority does not answer soon, what needs them is a miss."""
        try:
            async with asyncio.timeout(self._connection.timeout):
                return await self._dictionaries.fetch(numbers)
        except (TimeoutError, Unavailable):
            return False

    async def put(self, entries: Sequence[Entry], *, token: Position) -> Sequence[Entry]:
        """See `ports.Tier`. One script call for up to 256 entries or 1 MiB, whatever their partitions."""
        winners = list(entries)
        now = self._clock.now()
        offers: dict[int, list[Offer]] = {}
        for place, entry in enumerate(entries):
            # what is past its life only takes the place of what is older, as a tombstone does
            ttl = 0 if entry.deleted else self._milliseconds(entry, now)
            stored = self._codec.encode(entry) if ttl else b""
            if place % _TURN == _TURN - 1:
                await asyncio.sleep(0)  # others have a turn: to compress a batch takes milliseconds
            offers.setdefault(partition_of(entry.key), []).append(Offer(place, entry, ttl, stored))
        for call in calls(offers):
            moved = await self._put(call, token, winners)
            if moved:
                await self._put([(number, batch) for number, batch in call if number in moved], token, winners)
        return winners

    async def evict(self, keys: Collection[Key]) -> None:
        """See `ports.Tier`."""
        asked = _by_partition(keys)
        if not asked:
            return
        async with self._connection.limited():
            answers = await self._connection.read([[self._partitions[number].state_key] for number in asked])
            doomed: list[bytes] = []
            for (number, mine), answer in zip(asked.items(), answers, strict=True):
                if answer is not None and self._partitions[number].see(answer[0]) is not None:
                    doomed += [self._partitions[number].head + key.encode() for key in mine]
            await self._forget(doomed)

    async def scan(self, pattern: Pattern) -> AsyncIterator[tuple[Key, Version]]:
        """See `ports.Source`; in no order. A key may come twice while Redis resizes its table.

        Raises `TierUnavailable` at the end where a part did not answer.
        """
        sweep = await begin(self._connection, self._partitions)
        async for found in scan(self._connection, self._key_prefix, self._partitions, pattern):
            yield found
        if missed := sweep.missed():
            raise TierUnavailable(self.name, f"{len(missed)} of {len(self._partitions)} partitions did not answer")

    async def inspect(self, key: Key, *, horizon: Position) -> Holding:
        """See `ports.Inspected`."""
        partition = self._partitions[partition_of(key)]
        return await inspect(self._connection, partition, key, horizon, codec=self._codec, dictionaries=self._dictionaries)

    async def stats(self) -> TierStats:
        counts = self._counts
        names = ("corrupt", "newer", "dictionary_unknown", "refused", "bytes_put", "bytes_stored")
        extra = {name: float(counts[name]) for name in (*names, "unanswered_reads", "unanswered_puts")}
        extra |= {"masters": float(self.masters), "masters_away": float(self.masters_away)}
        extra |= {"doubted": float(self.doubted), "dictionaries": float(len(self._dictionaries))}
        entries, nbytes = await self._size.latest()
        return TierStats(entries, nbytes, counts["hits"], counts["misses"], extra=extra)

    async def maintain(self) -> None:
        """Load the dictionaries of other nodes and train what is due. Raises `TierUnavailable` of the authority."""
        await self._dictionaries.maintain()

    @property
    def masters(self) -> int:
        """How many servers share the keys."""
        return self._connection.masters

    @property
    def masters_away(self) -> int:
        """How many of them did not answer and are left alone, while others may answer."""
        return self._connection.masters_away

    # as a replica of the log

    def away(self, key: Key) -> bool:
        """See `ports.Replica`."""
        return self._partitions[partition_of(key)].away

    def behind(self, key: Key, *, horizon: Position) -> bool:
        """See `ports.Replica`."""
        return not self._partitions[partition_of(key)].believed(horizon)

    async def lagging(self, *, horizon: Position) -> int:
        """See `ports.Replica`."""
        await see_all(self._connection, self._partitions)
        if any(partition.strange for partition in self._partitions):
            self.strange.set()
        return sum(not partition.believed(horizon) for partition in self._partitions)

    async def cursors(self) -> Mapping[int, Mark | None]:
        """See `ports.Replica`."""
        return await self._replay.cursors()

    def vouch(self, partitions: Collection[int]) -> None:
        """See `ports.Replica`."""
        self._replay.vouch(partitions)

    async def replay(self, changes: Sequence[Change], *, upto: Position, after: Position | None = None) -> int:
        """See `ports.Replica`."""
        return await self._replay.replay(changes, upto=upto, after=after)

    async def restart(self, partitions: Collection[int], *, at: Mark) -> None:
        """See `ports.Replica`."""
        await self._replay.restart(partitions, at=at)

    # how

    async def _read(self, asked: Mapping[int, Sequence[Key]], horizon: Position) -> list[tuple[Key, bytes | None]]:
        """What is stored where it is believed."""
        groups = []
        heads = []
        for number, keys in asked.items():
            partition = self._partitions[number]
            head = partition.head
            heads.append(head)
            groups.append([partition.state_key, *[head + key.encode() for key in keys]] if head else [partition.state_key])
        async with self._connection.limited():
            answers = await self._connection.read(groups)
        stored: list[tuple[Key, bytes | None]] = []
        for (number, keys), head, answer in zip(asked.items(), heads, answers, strict=True):
            partition = self._partitions[number]
            if answer is None:
                partition.lose()
                self._counts["unanswered_reads"] += len(keys)
            else:
                partition.see(answer[0])
                if partition.believed(horizon) and partition.head == head:
                    stored.extend(zip(keys, islice(answer, 1, None), strict=True))
                    continue
            self.doubted += len(keys)
            if partition.strange:
                self.strange.set()
        return stored

    def _accept(
        self, stored: Sequence[tuple[Key, bytes | None]], found: dict[Key, Entry]
    ) -> tuple[list[tuple[Key, bytes, int]], list[Key]]:
        """Add what is live to `found`; what waits for a dictionary (with its id), and the keys of what is corrupt."""
        now = self._clock.now()
        decode = self._codec.decode
        unread: list[tuple[Key, bytes, int]] = []
        corrupt: list[Key] = []
        for key, value in stored:
            if value is None:
                continue
            try:
                entry = decode(key, value)
            except DictionaryUnknown as exc:
                unread.append((key, value, exc.number))
            except Newer:
                self._counts["newer"] += 1
            except Unreadable:
                self._counts["corrupt"] += 1
                corrupt.append(key)
            else:
                if entry.live(now) or entry.live(now - self._stale(key)):
                    found[key] = entry
        return unread, corrupt

    async def _repair(self, keys: Sequence[Key]) -> None:
        """Take corrupt values away, so that the next put finds nothing that looks newer or equal."""
        async with self._connection.limited():
            await self._forget([self._partitions[partition_of(key)].head + key.encode() for key in keys])

    async def _forget(self, stored: Sequence[bytes]) -> None:
        if stored:
            await self._connection.send([("UNLINK", key) for key in stored])

    def _milliseconds(self, entry: Entry, now: float) -> int:
        """How long it stays: the tier's ttl less some jitter, so that what came together does not go together."""
        stays = self._ttl * (1 - self._ttl_jitter * self._random())
        if entry.expires_at is not None:
            stays = min(stays, entry.expires_at + self._stale(entry.key) - now)
        return int(stays * 1000) if stays > 0 else 0

    async def _put(self, call: Sequence[tuple[int, list[Offer]]], token: Position, winners: list[Entry]) -> set[int]:
        """One script call, its outcome written into `winners`; the partitions that turned out to be of another generation."""
        groups = []
        for number, offers in call:
            partition = self._partitions[number]
            keys = [partition.state_key, partition.recent]
            generation = partition.state.generation if partition.state is not None else b""
            arguments: list[bytes | str | int] = [generation, len(offers) if generation else 0]
            if generation:
                for offer in offers:
                    name = offer.entry.key.encode()
                    keys.append(partition.head + name)
                    arguments += (name, offer.entry.version, offer.ttl, offer.stored)
            groups.append(Group(keys, arguments))
        sent = [self._partitions[number].head for number, _ in call]
        async with self._connection.limited():
            answers = await self._connection.run(_PUT, (token.epoch, token.sequence), groups)
        moved = set()
        corrupt: list[Key] = []
        put = stored = 0
        for (number, offers), head, answer in zip(call, sent, answers, strict=True):
            partition = self._partitions[number]
            if answer is None:
                partition.lose()
                self._counts["unanswered_puts"] += len(offers)
                continue
            state = partition.see(answer[0])
            if len(answer) == 1:
                if state is not None and state.epoch == token.epoch and partition.head != head:
                    moved.add(number)
                else:
                    self._counts["refused"] += len(offers)
                continue
            for offer, result in zip(offers, answer[1:], strict=True):
                if result == 1:
                    put += len(offer.entry.value)
                    stored += len(offer.stored)
                else:
                    self._lose(offer, result, winners, corrupt)
        self._counts["bytes_put"] += put
        self._counts["bytes_stored"] += stored
        if corrupt:
            await self._repair(corrupt)
        return moved

    def _lose(self, offer: Offer, result: object, winners: list[Entry], corrupt: list[Key]) -> None:
        """What did not enter: something newer is held, or it came too late."""
        if isinstance(result, bytes):
            try:
                winners[offer.place] = self._codec.decode(offer.entry.key, result)
            except (DictionaryUnknown, Newer):
                self._counts["refused"] += 1
            except Unreadable:
                self._counts["corrupt"] += 1
                corrupt.append(offer.entry.key)
        else:
            self._counts["refused"] += 1


def _by_partition(keys: Collection[Key]) -> dict[int, list[Key]]:
    asked: defaultdict[int, list[Key]] = defaultdict(list)
    for key in keys:
        asked[partition_of(key)].append(key)
    return asked


@asynccontextmanager
async def opened(
    url: str,
    *,
    key_prefix: str,
    ttl: float,
    ttl_jitter: float,
    compression: bool,
    timeout: float,
    max_connections: int,
    max_recent: int,
    clock: Clock,
    dictionaries: Shelf,
    random: Random,
    stale: Callable[[Key], float] = lambda _: 0.0,
) -> AsyncIterator[RedisTier]:
    """The tier at a URL (see `redis_url.connected`), whether or not anything answers there yet."""
    async with connected(url, timeout=timeout, max_connections=max_connections, clock=clock) as connection:
        yield RedisTier(
            connection,
            key_prefix=key_prefix,
            ttl=ttl,
            ttl_jitter=ttl_jitter,
            compression=compression,
            max_recent=max_recent,
            clock=clock,
            dictionaries=dictionaries,
            random=random,
            stale=stale,
        )
