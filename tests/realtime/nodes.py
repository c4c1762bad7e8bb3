"""Nodes that follow one log and recover sessions, without sockets or stores."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import orjson

from cachesvc.engine.answers import Answer
from cachesvc.errors import CacheError, LogTrimmed
from cachesvc.model.change import Change
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.realtime.hub import Hub
from cachesvc.realtime.recovery import KeptLimits, KeptSessions, Recovery
from tests.fakes import FakeClock
from tests.realtime.changes import BEFORE, written
from tests.realtime.sessions import Said

BASE = 1000


class Log:
    """All changes, of which the oldest may be trimmed."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.trimmed = BASE

    @property
    def position(self) -> Position:
        return Position(Epoch(7), Seq(BASE + len(self.changes)))

    async def head(self) -> Position:
        return self.position

    async def next(self, after: Position, limit: int) -> Sequence[Change]:
        if after.sequence < self.trimmed:
            raise LogTrimmed(after.sequence, self.trimmed)
        start = after.sequence - BASE
        assert start < len(self.changes)
        return self.changes[start : start + min(limit, 3)]


class NoValues:
    async def read_many(self, keys: Collection[Key]) -> list[Answer | CacheError]:
        raise AssertionError("all values are held")


class Node:
    """A hub that follows the log, and its recoveries."""

    def __init__(self, log: Log, clock: FakeClock, **limits: Any) -> None:
        self.log = log
        self.clock = clock
        self.hub = Hub(log.position)
        self.kept = KeptSessions(KeptLimits(**limits), clock)
        self.recovery = Recovery(self.hub, log, NoValues(), self.kept)

    def follow(self, most: int = 1_000_000) -> None:
        start = self.hub.position.sequence - BASE
        self.hub.route(self.log.changes[start : start + most])


def connected(node: Node, name: str = "s-1", **limits: Any) -> Said:
    said = Said(hub=node.hub, clock=node.clock, name=name, **limits)
    said.session.open()
    said.raw()
    return said


def ended(node: Node, said: Said) -> None:
    said.session.end()
    node.kept.keep(said.session.names.session, said.session.stream, node.hub.position.epoch)


async def recovered(node: Node, said: Said, **asked: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages, and the last response."""
    messages: list[dict[str, Any]] = []
    request = said.send("recovery:request", asked)
    assert request is not None
    stream, name = said.session.stream, said.session.names.session
    last: dict[str, Any] = {}
    async for payload in node.recovery.recover(stream, name, request.frame.payload):  # type: ignore[attr-defined]
        last = orjson.loads(orjson.dumps(payload))
        messages += last["data"]
        assert last["isComplete"] is False or last["data"] == []
    return messages, last


def tell(node: Node, count: int) -> None:
    for _ in range(count):
        sequence = node.log.position.sequence + 1
        node.log.changes.append(written(sequence, f"task:{sequence % 5}", sequence, before=BEFORE))


def node(**limits: Any) -> Node:
    return Node(Log(), FakeClock(), **limits)
