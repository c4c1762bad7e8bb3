"""Pending: commands that are not answered yet: when each is sent, sent again, and given up.

The rule that must not break: what may have been carried out is never told to have failed, only that it is not known.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import orjson

from cachesvc.client.commands import Command, Members, refused
from cachesvc.client.errors import ClientError, QueueFull, Unknown, Unreachable
from cachesvc.protocol.codes import Code

_AGAIN: Final = frozenset({Code.UNAVAILABLE, Code.TOO_MANY_REQUESTS, Code.OUTCOME_UNKNOWN})
_PAUSE: Final = 0.2  # seconds, doubled by each refusal


@dataclass(slots=True, eq=False)
class Asked:
    """A command with the number that names it. `due`: when it is to be sent; None while it is under way.

    `perhaps_done`: it was sent before, and what became of that is not known.
    """

    number: int
    command: Command[Any]
    deadline: float
    due: float | None = 0.0
    perhaps_done: bool = False
    goes_on: bool = False  # it was acknowledged, and tells how it goes on
    refusals: int = 0

    @property
    def name(self) -> str:
        """Its `requestId`."""
        return f"c-{self.number}"

    def members(self, timestamp: str) -> dict[str, object]:
        command = self.command
        return {"type": command.kind, "payload": command.payload, "timestamp": timestamp, "requestId": self.name}


class Pending:
    """At most `most` of them, in the order in which they were asked."""

    def __init__(self, most: int, random: Random) -> None:
        self._most = most
        self._random = random
        self._asked: dict[str, Asked] = {}
        self._waiting: dict[str, Asked] = {}  # those to be sent
        self._deadlines: list[tuple[float, str]] = []  # a heap; those that are not true any more are passed over

    def __len__(self) -> int:
        return len(self._asked)

    def check(self, more: int) -> None:
        """Raises `QueueFull` where there is no room for more."""
        if len(self._asked) + more > self._most:
            raise QueueFull(f"{len(self._asked)} commands wait for an answer already, of at most {self._most}")

    def add(self, asked: Asked) -> None:
        self._asked[asked.name] = self._waiting[asked.name] = asked
        heapq.heappush(self._deadlines, (asked.deadline, asked.name))

    def find(self, name: str) -> Asked | None:
        return self._asked.get(name)

    def remove(self, asked: Asked) -> None:
        self._asked.pop(asked.name, None)
        self._waiting.pop(asked.name, None)

    def clear(self) -> list[Asked]:
        left = list(self._asked.values())
        self._asked.clear()
        self._waiting.clear()
        return left

    def take(self, now: float, most: int) -> list[Asked]:
        """Those to be sent now, the first that were asked for first, which are under way from here on."""
        ready = [asked for asked in self._waiting.values() if asked.due is not None and asked.due <= now]
        taken = sorted(ready, key=lambda asked: asked.number)[:most]
        for asked in taken:
            asked.due = None
            del self._waiting[asked.name]
        return taken

    def extend(self, asked: Asked, deadline: float) -> None:
        """It goes on: wait longer."""
        asked.goes_on, asked.deadline = True, deadline
        heapq.heappush(self._deadlines, (deadline, asked.name))

    def lost(self) -> list[Asked]:
        """The connection is gone: all are to be sent again, but for those that go on without; these are gone from here."""
        over = [asked for asked in self._asked.values() if asked.goes_on]
        for asked in over:
            self.remove(asked)
        for asked in self._asked.values():
            if asked.due is None:
                asked.due, asked.perhaps_done = 0.0, asked.command.key is not None
        self._waiting = dict(self._asked)
        return over

    def overdue(self, now: float) -> list[tuple[Asked, ClientError]]:
        """Those whose time is up, gone from here, and what that means."""
        over = []
        while (due := self._next_deadline()) is not None and due <= now:
            _, name = heapq.heappop(self._deadlines)
            asked = self._asked[name]
            self.remove(asked)
            over.append((asked, out_of_time(asked)))
        return over

    def refuse(self, asked: Asked, payload: Members, now: float) -> ClientError | None:
        """The service answered with an error: it is asked again later (None), or that is the answer."""
        asked.refusals += 1
        asked.perhaps_done = asked.perhaps_done or payload["code"] == Code.OUTCOME_UNKNOWN
        pause = (payload.get("retryAfter") or 0.0) + _PAUSE * 2 ** min(asked.refusals, 6) * self._random.random()
        again = payload["code"] in _AGAIN
        if again and now + pause < asked.deadline:
            asked.due = now + pause
            self._waiting[asked.name] = asked
            return None
        self.remove(asked)
        return out_of_time(asked) if again and asked.perhaps_done else refused(payload, asked.command.key)

    def due(self, sends_at: float | None) -> float | None:
        """When something is to be sent, or given up. `sends_at`: nothing is sent before; None: there is no connection."""
        times = [self._next_deadline()]
        if sends_at is not None:
            times += [max(asked.due, sends_at) for asked in self._waiting.values() if asked.due is not None]
        return min((time for time in times if time is not None), default=None)

    def _next_deadline(self) -> float | None:
        while self._deadlines:
            due, name = self._deadlines[0]
            asked = self._asked.get(name)
            if asked is not None and asked.deadline == due:
                return due
            heapq.heappop(self._deadlines)
        return None


def out_of_time(asked: Asked) -> ClientError:
    """No answer came in time."""
    key = asked.command.key
    under_way = asked.due is None
    if key is None or not (asked.perhaps_done or under_way):
        return Unreachable("no answer came in time", sent=under_way)
    detail = "no answer came in time: it may have been done"
    return Unknown(detail, status=503, code=Code.OUTCOME_UNKNOWN.value, request_id=key)


def batch(frames: list[bytes], name: str, timestamp: str) -> bytes:
    """Several commands in one frame, each of which is answered by itself."""
    payload = {"batchId": name, "updates": [orjson.Fragment(frame) for frame in frames]}
    return orjson.dumps({"type": "batch:update", "payload": payload, "timestamp": timestamp})
