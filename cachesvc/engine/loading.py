"""Loading: a miss of everything calls the loader of its module, and what comes is filled into the authority.

The rule that must not break: a loader's value is served only once the authority has it, and the authority takes it only if
nothing newer than the flight's token touches the key or a parent; otherwise it is read again. A failure is never a value.
A lease keeps other nodes from loading the same; after it was taken the authority is asked once more, before the loader.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cachesvc.breaker import Breaker
from cachesvc.engine.answers import Answer, Mark
from cachesvc.engine.combine import Combiner
from cachesvc.engine.flight import Flight, LoadState
from cachesvc.engine.floors import Floors
from cachesvc.engine.last_reads import Reason
from cachesvc.engine.load_leases import Lease, LoadLeases
from cachesvc.engine.load_terms import Loading
from cachesvc.engine.staleness import Staleness
from cachesvc.engine.supply import Supply
from cachesvc.engine.waiting import Waiting
from cachesvc.errors import Overloaded, Refusal, Refused, Unavailable
from cachesvc.model.change import Draft, Operation
from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key, module_of
from cachesvc.model.policy import LOADER, Policy
from cachesvc.ports import Clock, Leases, Loaded

_LEASES: Final = 512  # asked for at once
LEASE_MARGIN: Final = 1.0  # seconds beyond the hard limit, for what is asked before the loader and written after it
FIRST_LOOK: Final = 0.1  # seconds after which a flight looks whether another node's load has come; doubling
LAST_LOOK: Final = 1.0
RETRY: Final = 1.0  # seconds after which a key whose refresh failed, or was left to another node, is refreshed again


class Ends(NamedTuple):
    """How a flight goes on from a stage.

    Those still wanted of a batch, and those that the authority lacks at its head; landed, failed, read again from a new
    token because it was overtaken, or because another node has loaded it, or passed on to a stage.
    """

    wanted: Callable[[list[Flight]], list[Flight]]
    look: Callable[[list[Flight]], Awaitable[list[Flight]]]
    land: Callable[[Flight, Answer], None]
    fail: Callable[[Flight, Exception], None]
    again: Callable[[Flight], None]
    resume: Callable[[Flight], None]
    pass_on: Callable[[Flight, Combiner[Flight]], None]


@dataclass(slots=True)
class LoadCounts:
    """What loads came to, beside what each supply counts."""

    waits: int = 0  # flights left to another node's load
    leases_lost: int = 0  # that ended before the load did
    refreshes: int = 0  # begun behind the callers' backs


class Loads:
    """The last stages of a read: a lease, one more look, the loader. `note(keys, reason)`, `timed(seconds, hits, asked)`."""

    def __init__(
        self,
        supplies: Mapping[str, Supply],
        ends: Ends,
        staleness: Staleness,
        *,
        loading: Loading,
        places: Sequence[tuple[Leases, Breaker]],
        fill: Callable[[Draft], Awaitable[Entry]],
        note: Callable[[Collection[Key], Reason], None],
        timed: Callable[[float, int, int], None],
        floors: Floors,
        clock: Clock,
        pending: int,
    ) -> None:
        self.counts = LoadCounts()
        self.supplies = supplies
        self._ends = ends
        self._staleness = staleness
        self._fill = fill
        self._note = note
        self._timed = timed
        self._floors = floors
        self._clock = clock
        self._random = loading.random
        self._behind: dict[Key, Flight] = {}  # those that go on though nobody waits for them
        self._group: asyncio.TaskGroup | None = None
        self._timers: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()
        self.room = Waiting(self._resume, ends.fail, clock)
        self.leases = LoadLeases(places, holder=loading.holder, most=_LEASES, pending=pending, lanes=2)
        self._queues = {name: self._queue(supply, pending) for name, supply in supplies.items()}
        self.queues: dict[str, list[Combiner[Any]]] = {
            "leases": [self.leases.stage] if supplies else [],
            "loader": [*self._queues.values()],
        }

    def _queue(self, supply: Supply, pending: int) -> Combiner[Flight]:
        async def run(batch: list[Flight]) -> None:
            await self._run(supply, batch)

        terms, name = supply.terms, f"loads of {supply.name}"
        return Combiner(name, run, self._ends.fail, most=terms.batch, pending=pending, lanes=terms.concurrency)

    # beginning a load

    def loads(self, flight: Flight) -> bool:
        """Whether a miss of this flight calls a loader."""
        return flight.load and module_of(flight.key) in self.supplies

    def start(self, flight: Flight) -> None:
        """Load what a flight did not find anywhere."""
        supply = self.supplies[module_of(flight.key)]
        state = flight.loading
        if state is None:
            state = flight.loading = LoadState()
        if state.since is None:
            state.since = self._clock.monotonic()
        state.floor = self._floors.floor(flight.key)
        if state.stale is not None and not state.background:
            if flight.key in self._behind:
                self._staleness.give(flight, state.stale, state.tier, Mark.SLOW)  # the load under way is past its soft limit
                return
            self._spawn(self._soften(flight, state, supply.terms.soft_timeout))
        self._ends.pass_on(flight, self._queues[supply.name])

    def refresh(self, entry: Entry) -> None:
        """Load anew what is served meanwhile, unless that is under way, or its loader is left alone."""
        key = entry.key
        supply = self.supplies.get(module_of(key))
        if supply is None or key in self._behind or supply.breaker.refuses:
            return
        flight = Flight(key, self._floors.applied, load=True)
        floor = self._floors.floor(key)
        flight.loading = LoadState(entry.version, background=True, since=self._clock.monotonic(), floor=floor)
        try:
            self._queues[supply.name].add(flight)
        except Overloaded:
            return  # counted there; what is served is no worse for it
        self._behind[key] = flight
        self.counts.refreshes += 1

    async def _soften(self, flight: Flight, state: LoadState, seconds: float) -> None:
        """Past the soft limit those who may have stale content get it, and the load goes on."""
        await self._clock.sleep(seconds)
        self._staleness.soften(flight, state)
        if state.background:
            self._behind.setdefault(flight.key, flight)

    def ended(self, flight: Flight) -> None:
        """It landed, or failed for good."""
        if self._behind.get(flight.key) is flight:
            del self._behind[flight.key]

    def rests(self, flight: Flight) -> bool:
        """A flight failed: whether nobody waits for it, so that its key is left alone for a while."""
        if flight.loading is None or not flight.loading.background or self.room.closing:
            return False
        self.room.add(flight, due=self._clock.monotonic() + RETRY)
        return True

    def _resume(self, flight: Flight) -> None:
        """Another node has loaded the key, or may not have: look."""
        if flight.loading is not None and flight.loading.background:
            self.ended(flight)
        else:
            self._ends.resume(flight)

    # running

    async def serve(self) -> None:
        """The lane of those who wait for another node, and of the soft limits; ends after `close`."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._spawn(self.room.serve())
            await self._closed.wait()
            self._group = None
            for timer in self._timers:
                timer.cancel()

    def close(self) -> None:
        """Nobody waits any more; the stages are closed by themselves."""
        self._closed.set()
        self.room.close()

    def _spawn(self, timer: Coroutine[Any, Any, None]) -> None:
        """Let something that waits for its time do so until then, or until the node closes."""
        if self._group is None:
            timer.close()
            return
        task = self._group.create_task(timer)
        self._timers.add(task)
        task.add_done_callback(self._timers.discard)

    async def _run(self, supply: Supply, batch: list[Flight]) -> None:
        waiting = self._ends.wanted(batch)
        if not waiting:
            return
        if supply.breaker.refuses:
            self._failed(waiting, supply.away)
            return
        ttl = supply.terms.hard_timeout + LEASE_MARGIN
        taken = self._clock.monotonic()
        try:
            leases = await self.leases.take([flight.key for flight in waiting], ttl)
        except Overloaded as exc:
            self._failed(waiting, exc)
            return
        first: dict[Key, Flight] = {}
        for flight, lease in zip(waiting, leases, strict=True):
            if lease.left:
                self._leave(supply, flight, lease)
            elif first.setdefault(flight.key, flight) is not flight:  # each was to ask the authority itself
                self._leave(supply, flight, lease._replace(left=ttl))
        mine = [*first.values()]
        overtaken: list[Flight] = []
        try:
            absent = await self._ends.look(mine) if mine else []
            if absent:
                overtaken = await self._load(supply, absent)
        finally:
            await self.leases.release(leases)
        if self._clock.monotonic() - taken > ttl:
            self.counts.leases_lost += len(mine)
        for flight in mine:
            self.room.wake(flight.key, but=flight)  # who came after a change, and waited for the load that began before it
        for flight in overtaken:
            self._ends.again(flight)

    def _leave(self, supply: Supply, flight: Flight, lease: Lease) -> None:
        """Another node, or an earlier flight here, loads the key: wait for what comes of it."""
        now = self._clock.monotonic()
        state = flight.loading
        assert state is not None
        assert state.since is not None
        limit = 2 * supply.terms.hard_timeout + LEASE_MARGIN  # the other's death costs its lease, and then it is our turn
        if now - state.since >= limit:
            reason = f"loader {supply.name}: no load of another node came within {limit:g} s"
            self._ends.fail(flight, Unavailable(reason))
            return
        if not state.looks:
            self.counts.waits += 1
            self._note((flight.key,), Reason.LEFT)
        pause = RETRY if state.background else min(LAST_LOOK, FIRST_LOOK * 2**state.looks)
        state.looks += 1
        if self._floors.floor(flight.key) > state.floor:
            self._resume(flight)  # it came while the lease was asked for
        else:
            self.room.add(flight, due=now + min(lease.left, pause))

    async def _load(self, supply: Supply, waiting: list[Flight]) -> list[Flight]:
        """Load, and fill the authority with what came; those whose fill was refused, because it was overtaken."""
        began = self._clock.monotonic()
        try:
            loaded = await supply.call([flight.key for flight in waiting])
        except Unavailable as exc:
            self._failed(waiting, exc)
            return []
        told: dict[Reason, list[Key]] = {Reason.HIT: [], Reason.NOT_LOADED: [], Reason.AWAY: []}
        for flight in waiting:
            told[_told(loaded.get(flight.key))].append(flight.key)
        self._timed(self._clock.monotonic() - began, len(told[Reason.HIT]), len(waiting))
        for reason, keys in told.items():
            self._note(keys, reason)
        kept = (self._keep(supply, flight, loaded.get(flight.key)) for flight in waiting)
        outcomes = await asyncio.gather(*kept, return_exceptions=True)
        overtaken: list[Flight] = []
        for flight, outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, Refused):
                if outcome.code is Refusal.STALE_FILL:
                    overtaken.append(flight)
                else:
                    self._ends.fail(flight, Unavailable(f"loader {supply.name}: its value was refused: {outcome}"))
            elif isinstance(outcome, Exception):
                self._ends.fail(flight, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
        return overtaken

    async def _keep(self, supply: Supply, flight: Flight, loaded: Loaded | Unavailable | None) -> None:
        terms, now = supply.terms, self._clock.now
        if isinstance(loaded, Unavailable):
            raise loaded
        if loaded is None:
            await self._keep_absence(terms.policy, flight)
            self._ends.land(flight, Answer(None, LOADER, flight.token, now()))
            return
        ttl = loaded.ttl if loaded.ttl is not None else terms.ttl
        if ttl is not None:
            ttl *= 1 - terms.ttl_jitter * self._random()
        draft = Draft(Operation.FILL, flight.key, loaded.value, loaded.content_type, token=flight.token, source=LOADER)
        entry = await self._fill(draft._replace(ttl=ttl, tags=loaded.tags, parents=loaded.parents))
        self._ends.land(flight, Answer(entry, LOADER, flight.token, now(), stored=True))

    async def _keep_absence(self, policy: Policy, flight: Flight) -> None:
        """The origin has nothing: let that be known where it is to be remembered, or ends what was known before."""
        state = flight.loading
        if not policy.negative_ttl and not (state is not None and (state.known or state.stale)):
            return
        draft = Draft(Operation.ABSENT, flight.key, ttl=policy.negative_ttl, token=flight.token, source=LOADER)
        self._staleness.remember(await self._fill(draft))

    def _failed(self, waiting: list[Flight], error: Unavailable) -> None:
        self._note([flight.key for flight in waiting], Reason.AWAY)
        for flight in waiting:
            self._ends.fail(flight, error)


def _told(loaded: Loaded | Unavailable | None) -> Reason:
    """What is told of a load that came to that."""
    if loaded is None:
        return Reason.NOT_LOADED
    return Reason.AWAY if isinstance(loaded, Unavailable) else Reason.HIT
