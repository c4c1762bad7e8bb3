"""Rates: what buckets let through, alone and shared with other nodes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachesvc.errors import TierUnavailable, TooManyRequests
from cachesvc.ports import Drawn
from cachesvc.protocol.codes import CloseCode
from cachesvc.realtime.meter import Meter
from cachesvc.realtime.rates import ADDRESS, CONNECTION, LANES, USER, NotYet, Rate, RateLimits, Rates
from tests.fakes import FakeClock
from tests.realtime.sessions import NOW, Said
from tests.wire import golden_frames


class FakeQuotas:
    """Quotas in a dict, by the same algorithm as the real ones."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.full_at: dict[str, float] = {}
        self.away = False

    async def draw(self, name: str, *, asked: float, most: float) -> Drawn:
        if self.away:
            raise TierUnavailable("redis", "is away")
        now = self.clock.monotonic()
        full = max(self.full_at.get(name, now), now)
        moved = self.full_at[name] = max(full, min(full + asked, now + most))
        return Drawn(moved - full, moved - now)


def limits(**more: Any) -> RateLimits:
    return RateLimits({CONNECTION: Rate(1.0, 10.0), USER: Rate(2.0, 20.0), ADDRESS: Rate(4.0, 40.0)}, **more)


def taken(rates: Rates, most: int = 1_000, **who: Any) -> int:
    """How many are let through until one is refused."""
    for number in range(most):
        try:
            rates.take("ping", **who)
        except (TooManyRequests, NotYet):
            return number
    return most


async def paid(rates: Rates, most: int = 1_000, **who: Any) -> int:
    """How many are let through until one is refused, each when it is known."""
    for number in range(most):
        try:
            await rates.taken("ping", **who)
        except TooManyRequests:
            return number
    return most


def test_a_bucket_is_full_at_first_and_fills_with_time() -> None:
    clock = FakeClock()
    rates = Rates(limits(), clock)
    assert taken(rates, user="ann") == 20
    clock.advance(1.5)
    assert taken(rates, user="ann") == 3
    clock.advance(1e6)
    assert taken(rates, user="ann") == 20
    assert taken(rates, user="bob") == 20
    assert rates.refused == {"connection": 0, "user": 4, "address": 0}


def test_what_one_has_too_little_for_no_other_pays() -> None:
    clock = FakeClock()
    rates = Rates(limits(), clock)
    connection = rates.connection()
    assert taken(rates, user="ann", address="::1", connection=connection) == 10
    assert taken(rates, user="ann", address="::1") == 10
    assert taken(rates, address="::1") == 20


def test_a_refusal_tells_of_the_bucket_and_when_to_come_back() -> None:
    rates = Rates(limits(costs={"dear": 5.0, "free": 0.0, "huge": 1e6}), FakeClock())
    taken(rates, user="ann")
    with pytest.raises(TooManyRequests) as refused:
        rates.take("dear", user="ann")
    error = refused.value
    assert (error.scope, error.limit, error.remaining, error.full_in, error.window) == ("user", 20, 0, 10.0, 10.0)
    assert error.retry_after == 2.5
    assert rates.take("free", user="ann") is None
    assert rates.take("huge", user="bob") is not None  # dearer than a burst: once it is full
    assert taken(rates, user="bob") == 0


def test_what_nobody_limits_is_not_counted() -> None:
    rates = Rates(RateLimits({}), FakeClock())
    assert (rates.take("ping", user="ann", address="::1"), rates.connection(), rates.stats()["buckets"]) == (None, None, 0)


def test_buckets_are_bounded() -> None:
    clock = FakeClock()
    rates = Rates(limits(max_buckets=100), clock)
    for number in range(1_000):
        rates.take("ping", address=str(number))
        clock.advance(0.1)
        with contextlib.suppress(TooManyRequests):
            rates.take("ping", address="busy")
    assert (rates.stats()["buckets"], rates.evicted) == (100, 901)
    assert taken(rates, address="busy") == 0  # it was never forgotten


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 8)), max_size=30))
def test_no_more_is_let_through_than_burst_and_rate(steps: list[tuple[float, int]]) -> None:
    clock = FakeClock()
    rates, passed, began = Rates(limits(), clock), 0, clock.monotonic()
    for pause, asked in steps:
        clock.advance(pause)
        passed += taken(rates, asked, user="ann")
        assert passed <= 20 + 2 * (clock.monotonic() - began) + 0.001


@asynccontextmanager
async def running(*nodes: Rates) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(node.run()) for node in nodes]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def drawn(*nodes: Rates) -> None:
    """Until nothing is being drawn."""
    for _ in range(1_000):
        await asyncio.sleep(0)
        if not any(bucket.drawing for node in nodes for bucket in node._buckets.values()):
            return
    raise AssertionError


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.floats(0, 1)), max_size=40))
def test_nodes_together_let_through_at_most_a_chunk_each_too_much(steps: list[tuple[int, int, float]]) -> None:
    async def play() -> None:
        clock = FakeClock()
        quotas = FakeQuotas(clock)
        nodes = [Rates(limits(chunk=0.2), clock, quotas) for _ in range(3)]
        passed, began = 0, clock.monotonic()
        async with running(*nodes):
            for place, asked, pause in steps:
                clock.advance(pause)
                passed += taken(nodes[place], asked, user="ann")
                await drawn(*nodes)
                assert passed <= 20 + 2 * (clock.monotonic() - began) + 3 * 4 + 0.001

    asyncio.run(play())


async def test_what_one_node_used_another_does_not_have() -> None:
    clock = FakeClock()
    quotas = FakeQuotas(clock)
    one, other = (Rates(limits(chunk=0.1), clock, quotas) for _ in range(2))
    async with running(one, other):
        passed = 0
        for _ in range(30):
            passed += taken(one, 1, user="ann")
            await drawn(one, other)
        assert passed == 20  # what was advanced is paid
        assert taken(other, user="ann") <= 2
        await drawn(one, other)
        assert taken(other, user="ann") == 0
        clock.advance(1e6)
        taken(other, 1, user="ann")
        await drawn(one, other)
        assert taken(other, user="ann") >= 1


async def test_the_whole_burst_is_there_at_once_and_what_is_left_is_told_of_all_of_it() -> None:
    clock = FakeClock()
    rates = Rates(limits(chunk=0.1, costs={"dear": 15.0}), clock, FakeQuotas(clock))
    async with running(rates):
        assert await paid(rates, user="ann") == 20
        with pytest.raises(TooManyRequests) as refused:
            rates.take("ping", user="ann")
        assert (refused.value.remaining, refused.value.full_in) == (0, 10.0)
        await rates.taken("dear", user="bob")  # dearer than a chunk
        with pytest.raises(TooManyRequests) as refused:
            await rates.taken("dear", user="bob")
        assert (refused.value.remaining, refused.value.retry_after) == (5, 5.0)
        assert await paid(rates, 5, user="bob") == 5


async def test_nobody_waits_for_a_draw_after_the_node_has_ended() -> None:
    asked = asyncio.Event()

    class Slow(FakeQuotas):
        async def draw(self, name: str, **_: float) -> Drawn:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

    clock = FakeClock()
    rates = Rates(limits(), clock, Slow(clock))
    async with running(rates):
        users = [str(number) for number in range(LANES + 2)]
        for user in users:
            taken(rates, user=user)
        waiting = [asyncio.create_task(rates.taken("ping", user=user)) for user in users]
        await asked.wait()
    async with asyncio.timeout(30):
        await asyncio.gather(*waiting)
    assert await paid(rates, user=users[0]) == 19


async def test_while_quotas_are_away_each_node_takes_its_share_and_nothing_waits() -> None:
    clock = FakeClock()
    quotas = FakeQuotas(clock)
    quotas.away = True

    async def two() -> int:
        return 2

    rates = Rates(limits(chunk=0.1), clock, quotas, two)
    async with running(rates):
        await asyncio.sleep(0)
        assert taken(rates, user="ann") == 2  # what was advanced, before anyone knew
        await drawn(rates)
        assert rates.stats()["away"] is True
        assert await paid(rates, user="ann") == 10
        clock.advance(0.9)
        assert taken(rates, user="ann") == 0  # a half token
        quotas.away = False
        clock.advance(60)
        taken(rates, 1, user="ann")
        await drawn(rates)
        assert rates.stats()["away"] is False
        assert taken(rates, user="ann") > 0


def metered(rate: Rate, **more: Any) -> Said:
    said = Said(**more)
    said.session.meter = Meter(Rates(RateLimits({CONNECTION: rate}, {"cache:warm": 20.0}), said.clock), "::1", said.clock)
    said.session.open()
    said.raw()
    return said


def test_rate_limit() -> None:
    said = metered(Rate(100 / 60, 100.0))
    for _ in range(79):
        said.golden("ping")
    assert {frame["type"] for frame in said.frames()} == {"pong"}
    said.golden("ping")
    low, pong = said.raw()
    told = golden_frames.check(low)["payload"]
    assert (told["limit"], told["remaining"], told["window"]) == (100, 20, "1m")
    assert b'"pong"' in pong
    said.golden("ping")
    assert said.frame()["type"] == "pong"  # it was told
    said.clock.advance(60)
    for _ in range(85):
        said.golden("ping")
    assert [frame["type"] for frame in said.frames()].count("rate-limit") == 1


def test_a_refusal_is_told_twice_over_and_nothing_is_done() -> None:
    said = metered(Rate(1.0, 10.0))
    for _ in range(10):
        said.golden("ping")
    said.raw()
    assert said.golden("cache:get") is None
    told, error = said.frames()
    assert told["type"] == "rate-limit"
    assert told["payload"] == {"limit": 10, "remaining": 0, "resetAt": "2024-01-15T10:30:10.000Z", "window": "10s"}
    assert (error["payload"]["code"], error["correlationId"]) == ("TOO_MANY_REQUESTS", "r-1")
    assert (error["payload"]["recoverable"], error["payload"]["retryAfter"]) == (True, 1.0)
    said.clock.advance(1.0)
    assert said.golden("cache:get") is not None
    assert said.clock.now() > NOW


def test_who_goes_on_all_the_same_is_closed_by_the_rate_and_not_as_faulty() -> None:
    said = metered(Rate(1.0, 10.0), max_refusals=3, max_errors=1)
    for _ in range(13):
        said.golden("ping")
    assert said.session.closing is None
    said.golden("ping")
    assert said.session.closing is not None
    assert said.session.closing.code is CloseCode.RATE


async def test_messages_wait_for_the_next_chunk_in_their_order_in_a_batch_as_alone() -> None:
    clock = FakeClock(NOW)
    quotas = FakeQuotas(clock)
    rates = Rates(RateLimits({USER: Rate(1.0, 60.0)}), clock, quotas)
    said = Said(clock=clock)
    said.session.meter = Meter(rates, "::1", clock)
    said.session.open()
    said.raw()
    pings = [{"type": "ping", "requestId": f"b{number}"} for number in range(50)]
    sent: list[dict[str, object]] = [{"type": "ping", "requestId": f"p{number}"} for number in range(12)]
    sent[4:4] = [{"type": "batch:update", "requestId": "b", "payload": {"batchId": "b", "updates": pings}}]
    async with running(rates):
        for message in sent:
            said.session.receive(orjson.dumps(message).decode())
            while said.session.halted is not None:
                assert said.session.go_on() == []  # not before it is drawn
                woken = said.woken
                while said.woken == woken:
                    await asyncio.sleep(0)
                said.session.go_on()
    frames = said.frames()
    answers = [frame for frame in frames if frame["type"] != "rate-limit"]
    names = [*(f"p{n}" for n in range(4)), *(f"b{n}" for n in range(50)), "b", *(f"p{n}" for n in range(4, 12))]
    assert [answer["correlationId"] for answer in answers] == names
    assert [answer["type"] for answer in answers].count("error") == 3
    (low, *refusals) = [frame["payload"] for frame in frames if frame["type"] == "rate-limit"]
    assert (low["limit"], low["remaining"], [refusal["remaining"] for refusal in refusals]) == (60, 12, [0, 0, 0])


def test_messages_of_a_batch_are_paid_for_one_by_one() -> None:
    said = metered(Rate(1.0, 10.0))
    updates = [{"type": "cache:get", "payload": {"key": "a"}}] * 20
    requests = said.session.receive(
        orjson.dumps({"type": "batch:update", "payload": {"batchId": "b", "updates": updates}}).decode()
    )
    assert len(requests) == 9
