"""The read path below memory: Redis, then the authority, then the stage of `loading.py`; what is found is put upwards.

Each is a stage with a queue and lanes of its own, so that one that hangs holds up only those who need it. The rule that must
not break: what a flight read is served and kept only if `Floors.admits` it at that moment, and the check and the storing are
one step; otherwise it is read again. A flight that has landed is joined no more.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from cachesvc.breaker import Breaker
from cachesvc.engine.answers import Answer, Mark
from cachesvc.engine.combine import Combiner
from cachesvc.engine.flight import Flight, Flights
from cachesvc.engine.floors import Floors
from cachesvc.engine.last_reads import LastReads, Reason
from cachesvc.engine.latency import Latencies
from cachesvc.engine.load_terms import Loading, LoadTerms
from cachesvc.engine.loading import Ends, Loads
from cachesvc.engine.puts import Puts
from cachesvc.engine.staleness import Staleness
from cachesvc.engine.supply import Supply
from cachesvc.errors import Overloaded, Unavailable
from cachesvc.model.change import Draft
from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key
from cachesvc.ports import Authority, Clock, Loader, Memory, Replica, Tier

Absent = dict[Flight, Entry | None]  # flights that a level cannot answer, with what is left there of an entry
ATTEMPTS = 5  # how often a flight is read again when what it read was overtaken


@dataclass(slots=True)
class ReadCounts:
    """What reads below memory came to."""

    hits: dict[str, int] = field(default_factory=lambda: {"redis": 0, "database": 0, "loader": 0})
    misses: dict[str, int] = field(default_factory=lambda: {"redis": 0, "database": 0, "loader": 0})
    again: int = 0  # overtaken, and read again
    joined: int = 0  # callers that shared a flight

    def note(self, tier: str, hits: int, asked: int) -> None:
        self.hits[tier] = self.hits.get(tier, 0) + hits
        self.misses[tier] = self.misses.get(tier, 0) + asked - hits


class Reads:
    """Misses of memory, joined by key and combined by tick."""

    def __init__(
        self,
        *,
        memory: Memory,
        redis: Tier | None,
        authority: Authority,
        loaders: Mapping[str, Loader],
        loading: Loading,
        fill: Callable[[Draft], Awaitable[Entry]],
        floors: Floors,
        flights: Flights,
        puts: Puts,
        breaker: Breaker,
        authority_breaker: Breaker,
        clock: Clock,
        most: int,
        pending: int,
        lanes: int,
    ) -> None:
        self.counts = ReadCounts()
        self.latencies: dict[str, Latencies] = defaultdict(Latencies)
        self.last: dict[str, LastReads] = defaultdict(LastReads)
        self._memory = memory
        self._redis = redis
        self._replica = redis if redis is not None and isinstance(redis, Replica) else None
        self._authority = authority
        self._floors = floors
        self._flights = flights
        self._puts = puts
        self._breaker = breaker
        self._authority_breaker = authority_breaker
        self._clock = clock
        self._loop = asyncio.get_running_loop()  # asked for once: each time it is a system call

        def stage(name: str, run: Callable[[list[Flight]], Awaitable[None]]) -> Combiner[Flight]:
            return Combiner(name, run, self._failed, most=most, pending=pending, lanes=lanes)

        self._ask_authority = stage("reads of the authority", self._run_authority)
        supplies = {name: Supply(name, loader, loading.terms.get(name, LoadTerms()), clock) for name, loader in loaders.items()}
        self.stale = Staleness(
            {name: supply.terms.policy for name, supply in supplies.items()},
            loading.policy,
            most=loading.max_absences,
            floors=floors,
            memory=memory,
            clock=clock,
            land=self._land,
            note=self._note,
            refresh=lambda entry: self.loads.refresh(entry),  # noqa: PLW0108 - it is built below
        )
        authority_leases = [(authority, authority_breaker)]
        self.loads = Loads(
            supplies,
            Ends(self._wanted, self._look, self._land, self._failed, self._again, self._resume, self._pass_on),
            self.stale,
            loading=loading,
            places=authority_leases if loading.leases is None else [(loading.leases, breaker), *authority_leases],
            fill=fill,
            note=lambda keys, reason: self._note("loader", keys, reason),
            timed=self._loaded,
            floors=floors,
            clock=clock,
            pending=pending,
        )
        self.queues: dict[str, list[Combiner[Any]]] = {"authority": [self._ask_authority], **self.loads.queues}
        if redis is not None:
            self.queues = {"redis": [stage("reads of Redis", self._run_redis)], **self.queues}
        self.stages = [queue for queues in self.queues.values() for queue in queues]
        self.combiner: Combiner[Flight] = self.stages[0]

    def ask(self, key: Key, *, load: bool) -> asyncio.Future[Answer]:
        """Join the flight of this key, or start one. Raises `Overloaded`."""
        joinable = self._flights.joinable(load=load)
        flight = joinable.get(key)
        if flight is None:
            flight = Flight(key, self._floors.applied, load=load)
            self.combiner.add(flight)
            joinable[key] = flight
        else:
            self.counts.joined += 1
        return flight.join(self._loop)

    async def ask_authority(self, key: Key, *, load: bool) -> Answer:
        """What the authority itself says now, whatever the tiers above hold; what it lacks is loaded. Raises `Unavailable`."""
        flight = Flight(key, self._floors.applied, load=load, direct=True)
        waiter = flight.join(self._loop)
        self._ask_authority.add(flight)
        return await waiter

    async def _run_redis(self, batch: list[Flight]) -> None:
        assert self._redis is not None
        self._missed(self.last[self._memory.name], batch, Reason.ABSENT)
        for flight in await self._from_redis(self._redis, self._wanted(batch)):
            self._pass_on(flight, self._ask_authority)

    async def _run_authority(self, batch: list[Flight]) -> None:
        waiting = self._wanted(batch)
        if not waiting:
            return
        if self.combiner is self._ask_authority:
            self._missed(self.last[self._memory.name], [flight for flight in waiting if not flight.direct], Reason.ABSENT)
        for flight, entry in (await self._asked(self._from_authority(waiting), waiting)).items():
            if self.loads.loads(flight):
                self.loads.start(flight)
            else:
                self._land(flight, Answer(entry, self._authority.name, flight.token, self._clock.now()))

    async def _look(self, waiting: list[Flight]) -> list[Flight]:
        """Ask the authority once more, from a token as young as can be; those that it lacks."""

        async def look() -> Absent:
            head = await self._authority.head()
            for flight in waiting:  # what is read, or loaded, after the head was read is as young as that
                if flight.token.epoch == head.epoch and flight.token < head:
                    flight.token = head
            return await self._from_authority(waiting)

        return list(await self._asked(look(), waiting))

    async def _asked(self, asking: Coroutine[Any, Any, Absent], waiting: list[Flight]) -> Absent:
        """What the authority lacks, asked behind its breaker; where it is away all have failed, and nothing is lacking."""
        breaker = self._authority_breaker
        if not breaker.allows():
            asking.close()
            self._authority_away(waiting, breaker.away(self._authority.name))
            return {}
        try:
            absent = await asking
        except Unavailable as exc:
            breaker.failed_with(exc)
            self._authority_away(waiting, exc)
            return {}
        except BaseException:
            breaker.abandoned()
            raise
        breaker.succeeded()
        return absent

    def _authority_away(self, waiting: list[Flight], error: Unavailable) -> None:
        self._missed(self.last[self._authority.name], waiting, Reason.AWAY)
        for flight in waiting:
            self._failed(flight, error)

    def _wanted(self, batch: list[Flight]) -> list[Flight]:
        """Those that somebody waits for. The others are joined no more, from this moment on."""
        wanted: list[Flight] = []
        for flight in batch:
            if flight.abandoned and not (flight.loading is not None and flight.loading.background):
                self._flights.close(flight)
            else:
                wanted.append(flight)
        return wanted

    def _land(self, flight: Flight, answer: Answer) -> None:
        self._flights.close(flight)
        if answer.entry is not None:  # nor is one joined any more that may have begun before this was there
            self._flights.part(flight.key)
        flight.land(answer)
        if flight.loading is not None:
            self.loads.ended(flight)

    def _failed(self, flight: Flight, error: Exception) -> None:
        self._flights.close(flight)
        if self.loads.rests(flight) or (isinstance(error, Unavailable) and self.stale.rescued(flight)):
            return
        flight.fail(error)
        if flight.loading is not None:
            self.loads.ended(flight)

    def _pass_on(self, flight: Flight, stage: Combiner[Flight]) -> None:
        try:
            stage.add(flight)
        except Overloaded as exc:
            self._failed(flight, exc)

    def _again(self, flight: Flight) -> None:
        """What it read was overtaken: read again, from a new token."""
        self.counts.again += 1
        flight.attempts += 1
        if flight.attempts >= ATTEMPTS:
            self._failed(flight, Unavailable(f"{flight.key} changes faster than it can be read", retry_after=0.1))
            return
        self._resume(flight)

    def _resume(self, flight: Flight) -> None:
        """Read again, from a new token."""
        flight.token = self._floors.applied
        state = flight.loading
        if state is not None:
            state.stale = None  # it is of the old token
        known = state is not None and state.known
        self._pass_on(flight, self._ask_authority if flight.direct or known else self.combiner)

    async def _from_redis(self, redis: Tier, waiting: list[Flight]) -> list[Flight]:
        """Answer what Redis has; returns the flights that it does not answer."""
        if not waiting:
            return waiting
        last = self.last[redis.name]
        if not self._breaker.allows():
            self._missed(last, waiting, Reason.AWAY)
            return waiting
        doubted = self._replica.doubted if self._replica is not None else 0
        horizon = self._floors.horizon
        began = self._clock.monotonic()
        try:
            found = await redis.get([flight.key for flight in waiting], horizon=horizon)
        except Unavailable:
            self._breaker.failed()
            self._missed(last, waiting, Reason.AWAY)
            return waiting
        except BaseException:
            self._breaker.abandoned()
            raise
        self._breaker.succeeded()
        self.latencies[redis.name].note(self._clock.monotonic() - began)
        now = self._clock.now()
        replica = self._replica if self._replica is not None and self._replica.doubted != doubted else None
        # floors forgotten meanwhile are above what Redis was believed for: only what is as new as they can be counts
        least = 0 if self._floors.horizon == horizon else self._floors.horizon.sequence
        take, land, name = self._floors.take, self._land, redis.name
        lenient = self.stale.lenient
        hits: dict[Flight, Entry] = {}
        kept: list[Entry] = []  # no hits, and of use in need
        left: list[Flight] = []
        # from here to the storing is one step: no await
        for flight in waiting:
            key, token = flight.key, flight.token
            entry = found.get(key)  # a tier answers only with what is live, or may be served past its life
            if entry is not None and entry.version >= least and take(key, entry.version, token):
                if lenient and not entry.live(now):
                    kept.append(entry)
                    if not self.stale.found(flight, entry, name, now):
                        left.append(flight)
                        last.note(key, Reason.EXPIRED, now)
                    continue
                hits[flight] = entry
                land(flight, Answer(entry, name, token, now))
            else:
                left.append(flight)
                last.note(key, self._why(flight, entry, replica), now)
        self._memory.store_all([*hits.values(), *kept] if kept else hits.values())
        self.stale.absences.seen(hits.values())
        last.note_many([flight.key for flight in hits], Reason.HIT, now)
        self.counts.note(name, len(hits), len(waiting))
        return left

    async def _from_authority(self, waiting: list[Flight]) -> Absent:
        """Answer from the authority; those that it cannot answer, with what is left of an entry. Raises `Unavailable`."""
        floors = self._floors
        authority = self._authority
        before = [floors.floor(flight.key) for flight in waiting]
        last = self.last[authority.name]
        began = self._clock.monotonic()
        found = await authority.get([flight.key for flight in waiting], horizon=floors.horizon)
        self.latencies[authority.name].note(self._clock.monotonic() - began)
        now = self._clock.now()
        hits: dict[Flight, Entry] = {}
        kept: list[Entry] = []  # no hits, and of use in need
        absent: Absent = {}
        # from here to the storing is one step: no await
        for flight, floor in zip(waiting, before, strict=True):
            key = flight.key
            entry = found.get(key)
            if entry is None or not entry.live(now) or (flight.loading is not None and entry.version <= flight.loading.known):
                # an absence that is told is a floor too: what was there before it is served no more
                gone = entry.version if entry is not None else 0
                if not floors.admits(key, max(floor, gone), flight.token):
                    last.note(key, Reason.OVERTAKEN, now)
                    self._again(flight)  # written since: absent was true only before
                    continue
                if floors.take(key, gone, flight.token):
                    self._memory.drop(key, below=gone)
                if entry is None or not self._left(flight, entry, now, kept):
                    last.note(key, _gone(entry), now)
                    absent[flight] = entry
            elif floors.take(key, entry.version, flight.token):
                hits[flight] = entry
                self._land(flight, Answer(entry, authority.name, flight.token, now))
                self._puts.add(entry, token=flight.token)
            else:
                last.note(key, Reason.OVERTAKEN, now)
                self._again(flight)
        self._memory.store_all([*hits.values(), *kept] if kept else hits.values())
        self.stale.absences.seen(hits.values())
        last.note_many([flight.key for flight in hits], Reason.HIT, now)
        self.counts.note(authority.name, len(hits), len(waiting))
        return absent

    def _left(self, flight: Flight, entry: Entry, now: float, kept: list[Entry]) -> bool:
        """Whether the flight was answered with what is left of an entry; what may be of use later is added to `kept`."""
        if entry.deleted:
            if not self.loads.loads(flight) or not self.stale.absent(flight, entry, now):
                return False
            self._note(self._authority.name, (flight.key,), Reason.NEGATIVE)
            self._land(flight, Answer(None, self._authority.name, flight.token, now, mark=Mark.NEGATIVE))
            return True
        if not self.stale.lenient or flight.direct or not self._floors.take(entry.key, entry.version, flight.token):
            return False
        kept.append(entry)
        return self.stale.found(flight, entry, self._authority.name, now)

    def _loaded(self, seconds: float, hits: int, asked: int) -> None:
        self.latencies["loader"].note(seconds)
        self.counts.note("loader", hits, asked)

    def _note(self, level: str, keys: Collection[Key], reason: Reason) -> None:
        self.last[level].note_many(keys, reason, self._clock.now())

    def _missed(self, last: LastReads, waiting: list[Flight], reason: Reason) -> None:
        last.note_many([flight.key for flight in waiting], reason, self._clock.now())

    def _why(self, flight: Flight, entry: Entry | None, doubted: Replica | None) -> Reason:
        """Why Redis did not answer. `doubted` is None where it was believed, whatever was asked for."""
        floors = self._floors
        if entry is not None:
            return Reason.BELOW_FLOOR if entry.version < floors.floor(flight.key) else Reason.OVERTAKEN
        if doubted is not None and doubted.away(flight.key):
            return Reason.AWAY
        if doubted is not None and doubted.behind(flight.key, horizon=floors.horizon):
            return Reason.BEHIND
        return Reason.ABSENT


def _gone(entry: Entry | None) -> Reason:
    if entry is None:
        return Reason.ABSENT
    return Reason.DELETED if entry.deleted else Reason.EXPIRED
