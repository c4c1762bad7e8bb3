"""Admission: which requests a node takes up, so that under more load than it can carry it goes on answering in time.

The rule that must not break: what is refused is refused before any work was done for it, and costs a small part of what it
would cost to answer. A burst is not overload: only delay that lasts for a whole window is (as in CoDel, RFC 8289).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Final

from cachesvc.ports import Clock

WINDOW: Final = 0.1  # seconds after which the share is settled anew
LEAST_SHARE: Final = 0.02  # so many are let in at the worst: without any there would be nothing to measure
MOST_DELAYS: Final = 5  # a turn takes up no more than it begins in so many times the delay that is borne
LEAST_ROOM: Final = 16  # or so many
_TELLING: Final = 10  # turns of fewer requests say little of what one costs
_LATEST: Final = 0.3  # the weight of the latest turn in what one costs
_STEEPEST: Final = 0.5  # the most that a window takes from the share
_REGAINED: Final = 0.05  # what a window in time gives back of it


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Requests in progress, open connections, and the seconds that work may wait for its turn before less is taken up."""

    max_requests: int = 10_000
    max_connections: int = 10_000
    max_delay: float = 0.1


class Gate:
    """One kind of requests, and the share of it that is let in, spread evenly."""

    def __init__(self, delay: Callable[[], float] = lambda: 0.0) -> None:
        self.share = 1.0
        self.shed = 0
        self._delay = delay
        self._credit = 0.0
        self._least = 0.0
        self._samples = 0

    def admits(self) -> bool:
        if self.share < 1.0:
            self._credit += self.share
            if self._credit < 1.0:
                self.shed += 1
                return False
            self._credit -= 1.0
        return True

    def standing(self) -> float:
        """Seconds that what is queued already will wait. Asked before a turn adds to it: what it adds is no delay yet."""
        return self._delay()

    def sample(self, delay: float) -> None:
        """What was begun in a turn waited so long."""
        self._least = min(self._least, delay) if self._samples else delay
        self._samples += 1

    def settle(self, target: float) -> None:
        """A window is over. Of one with a single sample nothing can be said: that may be a burst."""
        if self._samples < 2:
            return
        if self._least > target:
            self.share = max(LEAST_SHARE, self.share * max(_STEEPEST, target / self._least))
        else:
            self.share = min(1.0, self.share + _REGAINED)
        self._samples = 0

    def rest(self, windows: int) -> None:
        """Nothing was asked for in so many windows: whatever was measured is over."""
        self.share = min(1.0, self.share + _REGAINED * windows)
        self._samples = 0


class Admission:
    """The gates of a node, one for what only reads and one for what may write, which waits for the log besides.

    A turn is measured from the first request that is read in it until all that was read with it was begun. While one ends the
    next is being read already: it is silent only when none is open.
    """

    def __init__(
        self, clock: Clock, limits: AdmissionLimits | None = None, *, writes_delay: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.limits = limits or AdmissionLimits()
        self.reads = Gate()
        self.writes = Gate(writes_delay)
        self.crowded = 0  # requests refused because so many are in progress
        self.turned_away = 0  # connections refused because so many are open
        self.stalled = 0  # connections dropped because their client did not read
        self.tasks: Sized = ()  # of requests, and of sockets
        self.sockets = 0  # which stay, and are no requests
        self.connections = 0
        self._clock = clock
        self._reading = False  # a turn's requests are being read
        self._asked = self._taken = 0  # how many they are, and of them taken up
        self._cost = 0.0  # seconds that one request makes a turn longer, lately
        self._open = 0  # turns that have not ended
        self._since = self._rested = clock.monotonic()

    @property
    def in_progress(self) -> int:
        """Requests that are being answered."""
        return len(self.tasks) - self.sockets

    def admits(self, *, writing: bool) -> bool:
        """Whether to take up a request that is read now, while `in_progress` others are."""
        if not self._reading:
            self._reading = True
            now = self._clock.monotonic()
            self._settle(now)
            self._open += 1
            self._asked = self._taken = 0
            asyncio.get_running_loop().call_soon(self._begun, now, self.writes.standing())
        self._asked += 1
        if self.in_progress >= self.limits.max_requests:
            self.crowded += 1
            return False
        gate = self.writes if writing else self.reads
        if self._full:
            gate.shed += 1
            return False
        admitted = gate.admits()
        self._taken += admitted
        return admitted

    @property
    def shedding(self) -> bool:
        """Whether some reads are refused."""
        return self.reads.share < 1.0 or self._full

    @property
    def _full(self) -> bool:
        """Whether this turn has taken up as much as it may: who came after would wait too long."""
        return self._taken >= LEAST_ROOM and self._taken * self._cost > MOST_DELAYS * self.limits.max_delay

    def stats(self) -> dict[str, int | float]:
        """Counts since the start, and how it stands now."""
        return {
            "requests": self.in_progress,
            "connections": self.connections,
            "shed": self.reads.shed + self.writes.shed + self.crowded,
            "readsShed": self.reads.shed,
            "writesShed": self.writes.shed,
            "crowdedOut": self.crowded,
            "readsShare": self.reads.share,
            "writesShare": self.writes.share,
            "connectionsRefused": self.turned_away,
            "connectionsStalled": self.stalled,
        }

    def _begun(self, since: float, standing: float) -> None:
        """What was read in this turn comes after this; what is scheduled here comes after that."""
        self._reading = False
        asyncio.get_running_loop().call_soon(self._ended, since, standing, self._asked, self._taken)

    def _ended(self, since: float, standing: float, asked: int, taken: int) -> None:
        self._open -= 1
        now = self._rested = self._clock.monotonic()
        turn = now - since
        if taken >= _TELLING:
            one = turn / taken
            self._cost = one if not self._cost else _LATEST * one + (1 - _LATEST) * self._cost
        if asked < LEAST_ROOM:  # however long it took, so few are not what it took so long for
            turn = 0.0
        self.reads.sample(turn)
        self.writes.sample(max(turn, standing))

    def _settle(self, now: float) -> None:
        silent = 0 if self._open else int((now - self._rested) / WINDOW)
        if not silent and now - self._since < WINDOW:
            return
        self._since = now
        if silent:
            self._cost = 0.0
        for gate in (self.reads, self.writes):
            if silent:
                gate.rest(silent)
            else:
                gate.settle(self.limits.max_delay)
