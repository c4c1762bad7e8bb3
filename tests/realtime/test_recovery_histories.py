"""Histories of a client: through filters and conflation, drops, trims and other nodes, no silent gap and no duplicate."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from cachesvc.model.change import Change
from tests.fakes import FakeClock
from tests.realtime.changes import BEFORE, deleted, invalidated, written
from tests.realtime.nodes import BASE, Log, Node, connected, ended, recovered
from tests.realtime.sessions import Said


class Client:
    """One who knows the rules: by its view, what was told to it is what happened."""

    def __init__(self) -> None:
        self.said: Said | None = None
        self.at: Node | None = None
        self.last = 0
        self.position = BASE
        self.session: str | None = None
        self.versions: dict[str, int] = {}
        self.view: dict[str, Any] = {}
        self.told: set[int] = set()  # on this connection
        self.seqs: list[int] = []
        self.sessions = 0
        self.refetched = 0

    def take(self, frame: dict[str, Any], *, recovering: bool = False) -> None:
        assert self.said is not None
        self.seqs.append(frame["seq"])
        version = frame["version"]
        assert version not in self.told, "twice on one connection"
        self.told.add(version)
        if not recovering:
            self.last = frame["seq"]
            self.position = max(self.position, frame["position"])
        payload = frame["payload"]
        names = payload["keys"] if frame["type"] == "cache:invalidate" else [payload["key"]]
        for name in names:
            if self.versions.get(name, 0) >= version:
                continue  # already processed
            self.versions[name] = version
            if frame["type"] == "cache:invalidate" or payload["action"] == "deleted":
                self.view.pop(name, None)
            else:
                self.view[name] = payload["task"]

    def read(self, most: int) -> None:
        if self.said is None:
            return
        for _ in range(most):
            frame = self.said.session.next_frame()
            if frame is None:
                return
            decoded = orjson.loads(frame)
            if "seq" in decoded:
                self.take(decoded)

    def drop(self) -> None:
        if self.said is not None and self.at is not None:
            ended(self.at, self.said)
            self.said = self.at = None

    async def connect(self, to: Node, truth: dict[int, dict[str, Any]], throttle: int) -> None:
        self.drop()
        self.sessions += 1
        name = f"s-{self.sessions}"
        self.said, self.at = connected(to, name, queue_size=4_000, remembered=3), to
        before, self.told, self.seqs = (self.session, self.last, self.position), set(), []
        self.said.send("subscribe", {"resources": ["task"], "throttle": throttle}, requestId="r")
        (ack,) = self.said.frames()
        since = ack["position"]
        self.session, self.last = name, 0
        if before[0] is None:
            self.view, self.position = dict(truth[since]), since
            self.versions = dict.fromkeys(KEYS, since)
            return
        messages, last = await recovered(
            to, self.said, lastSequenceNumber=before[1], sessionId=before[0], epoch=7, position=before[2]
        )
        if last["isComplete"]:
            own = [message for message in messages if message["version"] not in self.told]
            for message in own:
                self.take(message, recovering=True)
            self.last = self.said.session.stream.seq
            self.position = max(self.position, self.said.session.stream.position)
        else:
            assert last["error"]["code"] == "RECOVERY_UNAVAILABLE"
            self.refetched += 1
            self.view, self.position = dict(truth[since]), max(self.position, since)
            self.versions = dict.fromkeys(KEYS, since)


KEYS = [f"task:{i}" for i in range(4)]
CHANGES = [
    st.tuples(st.just("set"), st.sampled_from([*KEYS, "event:1"])),
    st.tuples(st.just("set"), st.sampled_from(KEYS)),
    st.tuples(st.just("delete"), st.sampled_from(KEYS)),
    st.tuples(st.just("invalidate"), st.sampled_from(KEYS)),
]
CONNECT = st.tuples(st.just("connect"), st.tuples(st.integers(0, 1), st.sampled_from([0, 1000])))
STEP = st.one_of(
    *CHANGES,
    *CHANGES,
    st.tuples(st.just("follow"), st.tuples(st.integers(0, 1), st.integers(1, 9))),
    st.tuples(st.just("follow"), st.tuples(st.integers(0, 1), st.integers(1, 9))),
    st.tuples(st.just("read"), st.integers(1, 3)),
    st.tuples(st.just("read"), st.integers(1, 3)),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, 200.0])),
    st.tuples(st.just("drop"), st.none()),
    st.tuples(st.just("trim"), st.integers(1, 20)),
    CONNECT,
)
steps = st.tuples(CONNECT, st.lists(STEP, min_size=15, max_size=60)).map(lambda drawn: [drawn[0], *drawn[1]])


async def play(script: Sequence[tuple[str, Any]]) -> Client:
    log, clock, client = Log(), FakeClock(), Client()
    nodes = [Node(log, clock), Node(log, clock)]
    state: dict[str, Any] = {}
    truth: dict[int, dict[str, Any]] = {BASE: {}}

    def append(change: Change, name: str, value: Any) -> None:
        log.changes.append(change)
        state.pop(name, None)
        if value is not None:
            state[name] = value
        truth[change.sequence] = dict(state)

    for step, what in script:
        sequence = log.position.sequence + 1
        if step == "set":
            append(written(sequence, what, sequence, before=BEFORE if what in state else None), what, sequence)
        elif step == "delete" and what in state:
            append(deleted(sequence, what), what, None)
        elif step == "invalidate":
            append(invalidated(sequence, what), what, None)
        elif step == "follow":
            nodes[what[0]].follow(what[1])
        elif step == "read":
            client.read(what)
        elif step == "drop":
            client.drop()
        elif step == "connect":
            await client.connect(nodes[what[0]], truth, what[1])
        elif step == "trim":
            log.trimmed = max(log.trimmed, log.position.sequence - what)
        elif step == "wait":
            clock.advance(what)
    for one in nodes:
        one.follow()
    if client.said is None or client.said.session.closing is not None:
        await client.connect(nodes[0], truth, 0)
    clock.advance(10)
    client.read(1_000)
    wanted = {name: value for name, value in state.items() if name in KEYS}
    assert {name: value for name, value in client.view.items() if name in KEYS} == wanted
    return client


@settings(max_examples=int(os.environ.get("EXAMPLES", "120")), deadline=None)
@given(steps)
def test_the_view_of_a_client_is_what_happened(script: list[tuple[str, Any]]) -> None:
    asyncio.run(play(script))
