"""An audience: clients of the socket, each with the view that its subscription told it, and what is wrong with that.

A view is made as the documentation says: what is told is applied; after `Missed` all is read again from the authority.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from cachesvc.client.live import LiveClient
from cachesvc.client.told import Event, Missed
from cachesvc.protocol.messages import CacheInvalidate, Published
from cachesvc.protocol.pushed import CacheUpdate, TaskUpdate
from tests.faults.proxy import Proxy

KINDS: Final = ("a", "b")
TASKS: Final = tuple(f"task:{kind}:{number}" for kind in KINDS for number in range(8))
NOTES: Final = tuple(f"note:{number}" for number in range(8))
COUNTER: Final = "note:sum"
KEYS: Final = (*TASKS, *NOTES, COUNTER)
NEWS: Final = "task:news"  # where messages are published
Stored = Mapping[str, tuple[int, Any]]  # by key: version and value
Read = Callable[[], Awaitable[Stored]]
Head = Callable[[], Awaitable[int]]  # up to where the log has been applied


class Taste(NamedTuple):
    """How a client subscribes."""

    resources: tuple[str, ...] = ("tasks", "cache:note:*")
    filters: Mapping[str, object] | None = None
    throttle: float = 0.0
    compression: Literal["gzip", "brotli"] | None = None

    def wants(self, key: str) -> bool:
        if key.startswith("note:"):
            return any("note" in resource for resource in self.resources)
        return self.filters is None or key.startswith("task:a:")


TASTES: Final = (
    Taste(),
    Taste(throttle=0.3),
    Taste(compression="gzip"),
    Taste(("task",), filters={"task.kind": "a"}),
    Taste(("task", "note"), compression="brotli", throttle=0.1),
)


@dataclass(slots=True)
class Listener:
    """One client, which comes through a proxy of its own."""

    number: int
    client: LiveClient
    proxy: Proxy
    read: Read
    head: Head
    wrong: list[str] = field(default_factory=list)
    view: dict[str, tuple[int, Any]] = field(default_factory=dict)
    news: set[int] = field(default_factory=set)  # publications that it was told of
    since: int = 0  # it missed something, and read all again; what was published up to here it may have missed, too
    told: int = 0
    missed: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    _versions: set[int] = field(default_factory=set)
    _newest: dict[str, int] = field(default_factory=dict)

    @property
    def taste(self) -> Taste:
        return TASTES[self.number % len(TASTES)]

    async def listen(self) -> None:
        """Until its client is closed."""
        taste = self.taste
        subscribing = self.client.subscribe(
            *taste.resources, filters=taste.filters, throttle=taste.throttle, compression=taste.compression
        )
        async with subscribing as events:
            self.ready.set()
            async for event in events:
                if isinstance(event, Missed):
                    await self._read_again(event)
                else:
                    self._take(event)
                self.moved.set()

    async def _read_again(self, missed: Missed) -> None:
        self.missed += 1
        stored = await self.read()
        self.view = {key: found for key, found in stored.items() if self.taste.wants(key)}
        self.since = await self.head()
        self._versions.clear()
        self._newest.clear()

    def _take(self, event: Event) -> None:
        version = getattr(event, "version", None)
        if not isinstance(version, int):
            self._complain(f"a message without a version: {event!r}")
            return
        self.told += 1
        if version in self._versions:
            self._complain(f"version {version} was told twice: {event!r}")
        self._versions.add(version)
        match event:
            case Published():
                self.news.add(version)
            case CacheInvalidate():
                for key in event.payload.keys:
                    self._apply(key, version, None)
            case TaskUpdate():
                gone = event.payload.action == "deleted"
                self._apply(event.payload.key, version, None if gone else event.payload.task)
            case CacheUpdate():
                gone = event.payload.operation == "delete"
                self._apply(event.payload.key, version, None if gone else event.payload.value)
            case _:
                self._complain(f"what is no message of these resources: {event!r}")

    def _apply(self, key: str, version: int, value: object) -> None:
        if version <= self._newest.get(key, 0):
            self._complain(f"version {version} of {key} was told after {self._newest[key]}")
        self._newest[key] = version
        if version <= self.view.get(key, (0, None))[0]:
            return  # older than what was read
        self.view.pop(key, None)
        if value is not None:
            self.view[key] = version, value

    def _complain(self, what: str) -> None:
        self.wrong.append(f"client {self.number}: {what}")

    def lacks(self, stored: Stored, news: set[int]) -> list[str]:
        """How its view differs from what is stored, and what it was not told."""
        wanted = {key: found for key, found in stored.items() if self.taste.wants(key)}
        found = []
        for key in sorted(wanted.keys() | self.view.keys()):
            if wanted.get(key) != self.view.get(key):
                found.append(f"{key} is {wanted.get(key)}, and its view has {self.view.get(key)}")
        lacking = sorted(version for version in news - self.news if version > self.since)
        if lacking:
            found.append(f"publications were not told: {lacking[:5]} ({len(lacking)} in all)")
        return [f"client {self.number} ({self.taste}): {text}" for text in found]
