"""Histories of the Python client: through filters, throttles and conflation, cut connections, other nodes, restarts and trims,
what each subscription is told is what happened: no silent gap, no duplicate, in order for each key."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cachesvc.client.effects import Effect, Opened, Told
from cachesvc.client.told import Missed
from cachesvc.model.change import Change
from cachesvc.realtime import recovery
from tests.fakes import FakeClock
from tests.realtime.changes import BEFORE, deleted, expired, invalidated, published, written
from tests.realtime.nodes import BASE, Log, Node
from tests.realtime.wires import Wire

TASKS = [f"task:{i}" for i in range(3)]
NOTES = [f"note:{i}" for i in range(3)]
RESOURCES = (["task"], ["cache:note:*", "email"])
NODES = 2
PHASES = [phase for phase in Phase if phase is not Phase.shrink or "SHRINK" in os.environ]


class Truth:
    """What happened, by what of it is due to each of the two subscriptions."""

    def __init__(self, log: Log, kinds: list[str] | None) -> None:
        self.log = log
        self.kinds = kinds
        self.live: set[str] = set()
        self.due: list[dict[int, dict[str, int]]] = [{BASE: {}}, {BASE: {}}]  # by sequence: the version told last of each key
        self.news: list[set[int]] = [set(), set()]  # what is never conflated

    @property
    def next(self) -> int:
        return self.log.position.sequence + 1

    def append(self, change: Change, key: str, *, live: bool, kind: str = "", news: bool = False) -> None:
        self.log.changes.append(change)
        self.live -= {key}
        if live:
            self.live |= {key}
        sequence = change.sequence
        for place in range(2):
            covered = key.startswith("task") if place == 0 else key.startswith(("note", "email"))
            kept = covered and (place == 1 or not kind or self.kinds is None or kind in self.kinds)
            state = dict(self.due[place][sequence - 1])
            if kept and not news:
                state.pop(key, None)
                if live:
                    state[key] = sequence
            self.due[place][sequence] = state
            if kept and news:
                self.news[place].add(sequence)

    def happen(self, step: str, key: str, kind: str) -> None:
        sequence = self.next
        match step:
            case "set":
                before = BEFORE if key in self.live else None
                self.append(written(sequence, key, {"kind": kind}, before=before), key, live=True, kind=kind)
            case "delete" if key in self.live:
                self.append(deleted(sequence, key), key, live=False)
            case "expire" if key in self.live:
                self.append(expired(sequence, key), key, live=False)
            case "invalidate":
                self.append(invalidated(sequence, key), key, live=False)
            case "publish":
                self.append(published(sequence, key, kind), key, live=key in self.live, news=True)
            case "mail":
                self.append(written(sequence, f"email:{sequence}", {"kind": kind}), f"email:{sequence}", live=True, news=True)


class Reader:
    """Who uses one subscription as its documentation says."""

    def __init__(self, truth: Truth, place: int) -> None:
        self.truth = truth
        self.place = place
        self.since: int | None = None
        self.view: dict[str, int] = {}
        self.versions: dict[str, int] = {}
        self.told: set[int] = set()

    def read_again(self, since: int) -> None:
        self.since = since
        self.view = dict(self.truth.due[self.place][since])
        self.versions = {}
        self.told = set()

    def take(self, event: Any) -> None:
        version = event.version
        assert version not in self.told, "told twice"
        self.told.add(version)
        assert self.since is not None
        if event.type in ("publish", "email:new"):
            return
        keys = event.payload.keys if event.type == "cache:invalidate" else [event.payload.key]
        for key in keys:
            assert version > self.versions.get(key, 0), "out of order"
            self.versions[key] = version
            if version <= self.since:
                continue  # older than what was read
            self.view.pop(key, None)
            if not gone(event):
                self.view[key] = version

    def check(self) -> None:
        assert self.since is not None
        head = self.truth.log.position.sequence
        assert self.view == self.truth.due[self.place][head]
        due = {version for version in self.truth.news[self.place] if version > self.since}
        assert due <= self.told, "a gap"


def gone(event: Any) -> bool:
    """Whether it tells that an entry is no more."""
    if event.type == "cache:invalidate":
        return True
    return bool((event.payload.action if event.type == "task:update" else event.payload.operation) in ("deleted", "delete"))


class Play:
    """A history."""

    def __init__(self, kinds: list[str] | None, throttles: tuple[int, int], compression: str | None) -> None:
        self.clock = FakeClock()
        self.log = Log()
        self.truth = Truth(self.log, kinds)
        self.nodes = [Node(self.log, self.clock) for _ in range(NODES)]
        self.wire = Wire(self.clock, self.tell, queue_size=6_000, remembered=4)
        self.readers = [Reader(self.truth, 0), Reader(self.truth, 1)]
        self.numbers: dict[int, Reader] = {}
        self.missed = 0
        filters: list[dict[str, object]] = [{} if kinds is None else {"task.kind": kinds}, {}]
        self.payloads: list[dict[str, object]] = [
            {"resources": resources, "filters": filters[place], "throttle": throttles[place]}
            | ({} if compression is None else {"compression": compression})
            for place, resources in enumerate(RESOURCES)
        ]

    def follow(self, place: int) -> None:
        """Begin to follow, or begin anew."""
        known = next((number for number, reader in self.numbers.items() if reader.place == place), None)
        if known is not None:
            del self.numbers[known]
            self.wire.client.unsubscribe(known)
        self.readers[place] = Reader(self.truth, place)
        number = self.wire.client.subscribe(self.payloads[place], RESOURCES[place])
        self.numbers[number] = self.readers[place]
        self.wire.settle()

    def tell(self, effect: Effect) -> None:
        match effect:
            case Opened(number) if number in self.numbers and self.numbers[number].since is None:
                self.numbers[number].read_again(self.since(number))
            case Told(number, Missed()) if number in self.numbers:
                self.missed += 1
                self.numbers[number].read_again(self.since(number))
            case Told(number, event) if number in self.numbers:
                self.numbers[number].take(event)

    def since(self, number: int) -> int:
        """From where on the node tells: what is read from there on."""
        assert self.wire.said is not None
        subscriptions = self.wire.said.session.stream.subscriptions
        return max(subscriptions[name].since for name in RESOURCES[self.numbers[number].place] if name in subscriptions)

    async def step(self, step: str, what: Any) -> None:
        match step:
            case "connect":
                self.wire.connect(self.nodes[what])
            case "cut":
                self.wire.cut()
            case "follow":
                self.nodes[what[0]].follow(what[1])
            case "restart":
                if self.wire.node is self.nodes[what]:
                    self.wire.cut()
                self.nodes[what] = Node(self.log, self.clock)
            case "trim":
                self.log.trimmed = max(self.log.trimmed, self.log.position.sequence - what)
            case "wait":
                self.clock.advance(what)
            case "subscribe":
                self.follow(what)
            case "ask" | "send" | "hear" | "recover":
                for _ in range(what):
                    await self.move(step)
            case "rest":
                await self.wire.rest()
            case _:
                self.truth.happen(step, *what)

    async def move(self, step: str) -> None:
        if step == "recover":
            await self.wire.recover()
        else:
            getattr(self.wire, step)()

    async def end(self) -> None:
        for node in self.nodes:
            node.follow()
        for _ in range(20):
            self.wire.connect(self.nodes[0])
            await self.wire.rest()
            self.clock.advance(10)
            await self.wire.rest()
            if self.wire.said is not None and self.wire.said.session.closing is None:
                break
        for reader in self.numbers.values():
            reader.check()


def step(name: str, what: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, Any]]:
    return st.tuples(st.just(name), what)


KEYS = st.sampled_from([*TASKS, *NOTES, "event:1"])
KINDS = st.sampled_from(["a", "b"])
HAPPENS = st.one_of(
    *(step(name, st.tuples(KEYS, KINDS)) for name in ("set", "set", "set", "delete", "expire", "invalidate", "publish")),
    step("mail", st.tuples(st.just(""), KINDS)),
)
NODE = st.integers(0, NODES - 1)
MOVES = st.one_of(
    step("follow", st.tuples(NODE, st.integers(1, 9))),
    *(step(name, st.integers(1, 4)) for name in ("ask", "send", "hear", "recover")),
)
LIVES = st.one_of(
    step("connect", NODE),
    step("connect", NODE),
    step("cut", st.none()),
    step("rest", st.none()),
    step("rest", st.none()),
    step("restart", NODE),
    step("trim", st.integers(1, 20)),
    step("wait", st.sampled_from([0.06, 0.5, 1.0, 200.0])),
    step("subscribe", st.integers(0, 1)),
)
STEPS = st.lists(st.one_of(HAPPENS, HAPPENS, MOVES, MOVES, LIVES), min_size=15, max_size=80)
HISTORIES = st.tuples(
    st.sampled_from([None, ["a"], ["a", "b"]]),
    st.tuples(st.sampled_from([0, 1000]), st.sampled_from([0, 500])),
    st.sampled_from([None, "gzip", "brotli"]),
    STEPS,
)


async def play(
    kinds: list[str] | None, throttles: tuple[int, int], compression: str | None, steps: Sequence[tuple[str, Any]]
) -> Play:
    made = Play(kinds, throttles, compression)
    made.follow(0)
    made.wire.connect(made.nodes[0])
    await made.wire.rest()
    for name, what in steps:
        await made.step(name, what)
    await made.end()
    return made


@settings(max_examples=int(os.environ.get("EXAMPLES", "120")), deadline=None, phases=PHASES)
@given(HISTORIES)
def test_what_a_subscription_is_told_is_what_happened(history: tuple[Any, Any, Any, Any]) -> None:
    with patch.object(recovery, "CHUNK", 2):
        asyncio.run(play(*history))
