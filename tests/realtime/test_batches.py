"""batch:update, both ways: plain, gzip and brotli; what does not hold what it promises is refused within bounds."""

from __future__ import annotations

import gzip
import tracemalloc
from base64 import b64decode, b64encode
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import brotli
import orjson
import pytest

from cachesvc.engine.answers import Answer, Written
from cachesvc.errors import OutcomeUnknown
from cachesvc.model.change import Draft
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.realtime.commands import Commands
from tests.fakes import FakeClock
from tests.realtime.changes import BEFORE, written
from tests.realtime.sessions import NOW, Said
from tests.wire import golden_frames

COMPRESS = {"gzip": gzip.compress, "brotli": lambda text: brotli.compress(text, quality=1)}
UPDATES = [
    {"type": "cache:get", "payload": {"key": "a"}, "requestId": "r-1"},
    {"type": "nonsense", "requestId": "r-2"},
    {"type": "ping", "payload": {"sequenceNumber": 4}, "requestId": "r-3"},
    {"type": "batch:update", "payload": {"batchId": "b-2"}, "requestId": "r-4"},
]


def opened(**limits: Any) -> Said:
    said = Said(**limits)
    said.session.open()
    said.raw()
    return said


def compressed(text: bytes, compression: str, more: Mapping[str, object] = MappingProxyType({})) -> dict[str, object]:
    data = b64encode(COMPRESS[compression](text)).decode()
    return {"batchId": "b-1", "updates": [], "data": data, "compression": compression, "totalSize": len(text)} | dict(more)


@pytest.mark.parametrize("compression", [None, "gzip", "brotli"])
def test_each_message_is_served_as_if_it_came_alone(compression: str | None) -> None:
    said = opened()
    text = orjson.dumps(UPDATES)
    payload = {"batchId": "b-1", "updates": UPDATES} if compression is None else compressed(text, compression)
    frame = orjson.dumps({"type": "batch:update", "payload": payload, "requestId": "r-0"})
    (request,) = said.session.receive(frame.decode())
    assert (request.type, request.frame.request_id) == ("cache:get", "r-1")
    told = [(f["type"], f["correlationId"], f["payload"].get("code")) for f in said.frames()]
    assert told == [
        ("error", "r-2", "UNKNOWN_TYPE"),
        ("pong", "r-3", None),
        ("error", "r-4", "BAD_MESSAGE"),
        ("ack", "r-0", None),
    ]


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_values_in_a_batch_are_kept_as_they_were_written(compression: str | None) -> None:
    said = opened()
    update = '{"type":"cache:update","payload":{"key":"a","operation":"set","value": 1.10 }}'
    payload = f'{{"batchId":"b-1","updates":[{update}]}}'
    if compression is not None:
        payload = orjson.dumps(compressed(f"[{update}]".encode(), compression)).decode()
    (request,) = said.session.receive(f'{{"type":"batch:update","payload":{payload}}}')
    assert request.frame.payload.value == b"1.10"  # type: ignore[attr-defined]


@pytest.mark.parametrize("compression", ["gzip", "brotli"])
@pytest.mark.parametrize(
    ("more", "code", "field"),
    [
        ({"totalSize": 1}, "BAD_MESSAGE", "payload.totalSize"),
        ({"totalSize": 3}, "BAD_MESSAGE", "payload.totalSize"),
        ({"totalSize": 10_000}, "TOO_LARGE", "payload.totalSize"),
        ({"totalSize": 1 << 40}, "TOO_LARGE", "payload.totalSize"),
        ({"data": "!"}, "BAD_MESSAGE", "payload.data"),
        ({"data": "bm90IGNvbXByZXNzZWQ="}, "BAD_MESSAGE", "payload.data"),
        ({"updates": [{}]}, "BAD_MESSAGE", "payload.updates"),
        ({"compression": None}, "BAD_MESSAGE", "payload.compression"),
    ],
)
def test_what_is_not_what_it_says(compression: str, more: dict[str, object], code: str, field: str) -> None:
    said = opened()
    said.send("batch:update", compressed(b"[]", compression, more), requestId="r-1")
    assert said.error() == (code, field, "r-1")


@pytest.mark.parametrize("text", [b"{}", b"[1]", b"[", b'[],"updates":[]', b"null"])
def test_what_is_no_array_of_messages(text: bytes) -> None:
    said = opened()
    said.send("batch:update", compressed(text, "gzip"))
    assert said.error()[0] == "BAD_MESSAGE"


@pytest.mark.parametrize("compression", ["gzip", "brotli"])
def test_a_bomb_is_refused_within_bounded_memory(compression: str) -> None:
    said = opened()
    bomb = compressed(b"[%s]" % (b" " * (16 << 20)), compression, {"totalSize": 100})
    tracemalloc.start()
    said.send("batch:update", bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said.error()[:2] == ("BAD_MESSAGE", "payload.totalSize")
    assert peak < 2 << 20


def test_the_number_of_messages_is_bounded() -> None:
    said = opened(max_batch=3)
    said.send("batch:update", {"batchId": "b-1", "updates": UPDATES}, requestId="r-1")
    assert said.error() == ("LIMIT_EXCEEDED", "payload.updates", "r-1")


class Slow(FakeClock):
    """Time goes by with each look at it."""

    def monotonic(self) -> float:
        self.advance(0.002)
        return super().monotonic()


def test_others_have_their_turn_amid_a_batch() -> None:
    said = opened(clock=Slow(NOW))
    pings = [{"type": "ping", "requestId": f"p-{number}"} for number in range(10)]
    said.send("batch:update", {"batchId": "b-1", "updates": pings}, requestId="b")
    answers = said.frames()
    turns = 1
    while said.session.halted is not None:
        assert said.session.go_on() == []
        answers += said.frames()
        turns += 1
    assert turns > 2
    assert [answer["correlationId"] for answer in answers] == [*(f"p-{number}" for number in range(10)), "b"]


def changes(count: int) -> list[Any]:
    return [written(1001 + i, f"task:{i}", {"title": "Write"}, before=BEFORE) for i in range(count)]


NOTHING: Any = (None, None, None)  # what these commands need nothing of


def _doubtful(failure: Exception | None = None) -> Any:
    return Doubtful(failure)


class Doubtful:
    """A cache whose writes may or may not have been done, and that holds nothing."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure

    async def read(self, key: Key) -> Answer:
        if self.failure is not None:
            raise self.failure
        return Answer(None, "memory", Position(Epoch(7), Seq(1000)), 0.0)

    async def write(self, draft: Draft) -> Written:
        raise OutcomeUnknown("the connection was lost while committing")


async def test_a_command_that_fails_as_nobody_foresaw_is_among_the_errors_of_its_batch() -> None:
    said = opened()
    request = said.send("batch:update", {"batchId": "b-1", "syncId": "s", "updates": UPDATES[:1]})
    assert request is not None
    assert request.sync is not None
    commands = Commands(_doubtful(ZeroDivisionError()), said.clock, said.hub.modules, *NOTHING)
    with pytest.raises(ZeroDivisionError):
        await anext(commands.carry_out(request))
    assert (request.sync.processed, request.sync.errors) == (1, ["INTERNAL"])


async def test_a_command_is_answered_once_whatever_becomes_of_telling_how_far_its_batch_has_come() -> None:
    said = opened()
    request = said.send("batch:update", {"batchId": "b-1", "syncId": "s", "updates": UPDATES[:1]})
    assert request is not None
    commands = Commands(_doubtful(), said.clock, said.hub.modules, *NOTHING)
    assert [reply.type async for reply in commands.carry_out(request)] == ["cache:value"]


def test_a_batch_to_the_client() -> None:
    said = opened()
    said.send("subscribe", {"resources": ["task"], "compression": "gzip"})
    said.hub.route(changes(2))
    assert said.raw() == []
    said.clock.advance(0.05)
    (frame,) = said.raw()
    payload = golden_frames.check(frame)["payload"]
    text = gzip.decompress(b64decode(payload["data"]))
    assert (len(text), payload["updates"], payload["compression"]) == (payload["totalSize"], [], "gzip")
    messages = orjson.loads(text)
    assert [(m["type"], m["seq"], m["version"]) for m in messages] == [("task:update", 1, 1001), ("task:update", 2, 1002)]


def test_a_batch_tells_of_every_change_in_order() -> None:
    said = opened()
    said.send("subscribe", {"resources": ["task"], "compression": "gzip"})
    for version in range(1001, 1011):
        said.hub.route([written(version, f"task:{version % 2}", version, before=BEFORE)])
        said.clock.advance(0.004)
    assert said.raw() == []
    said.clock.advance(0.02)
    (batch,) = said.frames()
    messages = orjson.loads(gzip.decompress(b64decode(batch["payload"]["data"])))
    assert [message["version"] for message in messages] == list(range(1001, 1011))


@pytest.mark.parametrize("compression", ["gzip", "brotli"])
def test_a_batch_is_compressed_once_for_all_who_are_in_step(compression: str) -> None:
    first = opened()
    ahead, second = (Said(hub=first.hub, clock=first.clock, name=name) for name in ("s-2", "s-3"))
    for said in (ahead, first, second):
        said.session.open()
        said.raw()
    ahead.send("subscribe", {"resources": ["note"], "compression": compression})
    ahead.hub.route([written(1001, "note:1", 1)])
    for said in (ahead, first, second):
        said.send("subscribe", {"resources": ["task"], "compression": compression})
    first.hub.route([written(1002 + i, f"task:{i}", {"title": "Write"}) for i in range(2)])
    first.clock.advance(0.05)
    [one], [same], [other] = first.raw(), second.raw(), ahead.raw()
    assert one is same
    assert orjson.loads(other)["payload"]["batchId"] == "b-1-3"


def test_batches_are_of_up_to_64_and_a_single_message_comes_alone() -> None:
    said = opened()
    said.send("subscribe", {"resources": ["task"], "compression": "brotli"})
    said.hub.route(changes(65))
    said.clock.advance(0.05)
    first, last = said.frames()
    messages = orjson.loads(brotli.decompress(b64decode(first["payload"]["data"])))
    assert [message["seq"] for message in messages] == list(range(1, 65))
    assert (last["type"], last["seq"]) == ("task:update", 65)


def test_without_compression_messages_come_alone() -> None:
    said = opened()
    said.send("subscribe", {"resources": ["task"]})
    said.hub.route(changes(3))
    assert [frame["type"] for frame in said.frames()] == ["task:update"] * 3
