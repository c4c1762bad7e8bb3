"""Staleness: what is past its life and may be served all the same, and what is known not to be there.

The rule that must not break: only a policy lets something past its life be served, never anything below its floor, and the
answer says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from cachesvc.engine.absences import Absences
from cachesvc.engine.answers import Answer, Mark
from cachesvc.engine.flight import Flight, LoadState
from cachesvc.engine.floors import Floors
from cachesvc.engine.last_reads import Reason
from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key, module_of
from cachesvc.model.policy import Policy
from cachesvc.ports import Clock, Memory


class Staleness:
    """The policies, of the modules that have a loader and of the rest, and what they made of reads.

    `land(flight, answer)` answers a flight, `note(keys, reason)` is told why, `refresh(entry)` begins to load it anew.
    """

    def __init__(
        self,
        policies: Mapping[str, Policy],
        default: Policy,
        *,
        most: int,
        floors: Floors,
        memory: Memory,
        clock: Clock,
        land: Callable[[Flight, Answer], None],
        note: Callable[[str, Collection[Key], Reason], None],
        refresh: Callable[[Entry], None],
    ) -> None:
        self.served: Counter[Mark] = Counter()  # callers answered with what is past its time, by why
        self.negative = 0  # callers, or flights, answered by an absence that is remembered
        self.absences = Absences(most=most)
        self.lenient = any(policy.stale > 0 for policy in (default, *policies.values()))
        self._policies = policies
        self._default = default
        self._floors = floors
        self._memory = memory
        self._clock = clock
        self._land = land
        self._note = note
        self._refresh = refresh

    def policy(self, key: Key) -> Policy:
        """The policy of the key's module."""
        return self._policies.get(module_of(key), self._default)

    def found(self, flight: Flight, entry: Entry, tier: str, now: float) -> bool:
        """Something past its life was found that may be kept; whether the flight was answered with it."""
        state = flight.loading
        if flight.direct or (state is not None and state.background):
            return False
        policy = self.policy(flight.key)
        if policy.revalidates(entry, now) and self._loaded(flight.key):
            self.give(flight, entry, tier, Mark.REVALIDATING)
            if flight.load:
                self._refresh(entry)
            return True
        if policy.tolerates(entry, now):
            if state is None:
                state = flight.loading = LoadState()
            state.stale, state.tier = entry, tier
        return False

    def absent(self, flight: Flight, entry: Entry, now: float) -> bool:
        """Whether a tombstone says that the origin has nothing, and may be believed."""
        policy = self.policy(flight.key)
        if flight.direct or not policy.missing(entry, now) or self._ended(entry.key, entry.version):
            return False
        self.remember(entry)
        self.negative += len(flight.waiters)
        return True

    def remember(self, nothing: Entry) -> None:
        """A load found nothing: believe it for a while."""
        ttl = self.policy(nothing.key).negative_ttl
        if ttl:
            self.absences.note(nothing, until=nothing.updated_at + ttl)

    def in_memory(self, key: Key, *, load: bool) -> tuple[Entry | None, Mark] | None:
        """What memory has that is no hit and an answer all the same; None where there is no such thing.

        It is due to be refreshed, or past its life and loaded anew meanwhile, or known to be absent.
        """
        held = self._memory.peek(key)
        if held is None and not self.absences:
            return None  # nearly all misses: they are asked no more
        now = self._clock.now()
        if held is None:
            version = self.absences.find(key, now)
            if version is None or self._ended(key, version):
                return None
            self.negative += 1
            return None, Mark.NEGATIVE
        policy = self.policy(key)
        if held.live(now):
            if not policy.due(held, now):
                return None
            mark = Mark.NONE
        elif policy.revalidates(held, now) and self._loaded(key):
            mark = Mark.REVALIDATING
            self.served[mark] += 1
        else:
            return None
        if load:
            self._refresh(held)
        return held, mark

    def rescued(self, flight: Flight) -> bool:
        """A flight failed: whether it was answered with what is past its time, by a policy that allows it."""
        policy = self.policy(flight.key)
        if flight.direct or not policy.stale_if_error:
            return False
        state = flight.loading
        if state is not None and state.stale is not None:
            found, tier = (state.stale, state.tier) if self.admits(flight, state.stale) else (None, "")
        else:
            found, tier = self._memory.peek(flight.key), self._memory.name
        if found is None or not policy.tolerates(found, self._clock.now()):
            return False
        self.give(flight, found, tier, Mark.FAILED)
        return True

    def soften(self, flight: Flight, state: LoadState) -> None:
        """Answer those who wait with what is stale, where that is still allowed; the flight goes on without them."""
        stale = state.stale
        if stale is None or flight.abandoned or not self.admits(flight, stale):
            return
        if self.policy(flight.key).tolerates(stale, self._clock.now()):
            state.background, state.stale = True, None
            self.give(flight, stale, state.tier, Mark.SLOW)

    def give(self, flight: Flight, entry: Entry, tier: str, mark: Mark) -> None:
        """Answer with what is past its time."""
        self.served[mark] += len(flight.waiters)
        self._note(tier, (flight.key,), Reason.STALE)
        self._land(flight, Answer(entry, tier, flight.token, self._clock.now(), mark=mark))

    def admits(self, flight: Flight, entry: Entry) -> bool:
        """Whether what the flight found has not been overtaken since."""
        return self._floors.admits(entry.key, entry.version, flight.token)

    def _ended(self, key: Key, version: int) -> bool:
        """Whether something happened to the key since it was known to be absent."""
        return self._floors.floor(key) > version

    def _loaded(self, key: Key) -> bool:
        return module_of(key) in self._policies
