"""The client of the socket over a real server."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from cachesvc.client import commands, live
from cachesvc.client.commands import Command
from cachesvc.client.errors import Conflict, Ended, QueueFull, ServiceError, Unreachable
from cachesvc.client.live import LiveClient
from cachesvc.client.options import SessionOptions
from cachesvc.client.signing import SharedSecret, Signer
from cachesvc.client.subscription import Subscription
from cachesvc.client.told import Event, Missed
from cachesvc.clock import SystemClock
from cachesvc.errors import InvalidInput, TokenExpired, Unauthenticated
from cachesvc.model.position import Seq
from cachesvc.protocol.api import Invalidate
from cachesvc.protocol.challenge import Challenge
from cachesvc.protocol.exact import RawJson
from cachesvc.protocol.messages import CacheInvalidate, Published, WarmPayload
from cachesvc.protocol.operations import JobTold, Warm
from cachesvc.protocol.pushed import CacheUpdate, TaskUpdate
from cachesvc.realtime.authentication import Proofs
from cachesvc.realtime.identity import Doorman, Identity, OpenDoor
from cachesvc.realtime.rates import CONNECTION, Rate, RateLimits, Rates
from cachesvc.web.live import LiveLimits
from tests.web.site import Site, opened

LIMIT = 30.0
QUICK = SessionOptions(first_pause=0.05, longest_pause=0.2)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with opened(live_limits=LiveLimits(drain_spread=0.1)) as site:
        yield site


@pytest.fixture
async def http(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with site.client() as client:
        yield client


@asynccontextmanager
async def client_of(port: int, **options: Any) -> AsyncIterator[LiveClient]:
    async with live.connected(f"http://127.0.0.1:{port}", **{"options": QUICK, **options}) as client:
        yield client


async def next_of(subscription: Subscription) -> Event:
    async with asyncio.timeout(LIMIT):
        return await anext(subscription)


def cut(site: Site) -> None:
    """The network fails."""
    for connection in list(site.live._open):
        connection.peer.abort()


async def test_commands(site: Site) -> None:
    async with site.served() as port, client_of(port) as client:
        written = await client.set("task:1", {"title": "Write"}, ttl=60)
        assert (written.key, written.operation) == ("task:1", "set")
        got = await client.get("task:1")
        assert got is not None
        assert (got.json(), got.content_type, got.version) == ({"title": "Write"}, "application/json", written.version)
        assert got.ttl is not None
        assert got.ttl <= 60
        assert await client.get("none") is None
        assert (await client.increment("sum", "0.1")).value == b"0.1"
        assert (await client.increment("sum", "0.2")).value == b"0.3"
        with pytest.raises(Conflict) as conflict:
            await client.set("task:1", 1, expected_version=0)
        assert conflict.value.current_version == written.version
        with pytest.raises(ServiceError) as refused:
            await client.set("task:1", 1, ttl=-1)
        assert refused.value.field == "payload.ttl"
        assert (await client.preview(Invalidate(keys=["task:1"]))).matched == 1
        assert (await client.invalidate(Invalidate(keys=["task:1"]))).matched == 1
        assert (await client.delete("task:1")).operation == "delete"
        assert await client.may("read", "task:1")
        assert (await client.ping()).latency >= 0


async def test_values_stay_as_they_were_written(site: Site) -> None:
    text = b'{"n": 1.10, "large": 123456789012345678901234567890, "past": 1e999}'
    async with site.served() as port, client_of(port) as client:
        await client.set("a", RawJson(text))
        got = await client.get("a")
        assert got is not None
        assert got.data == text


async def test_bytes_are_read_as_bytes(site: Site, http: httpx.AsyncClient) -> None:
    await http.put("/v1/cache/image", content=b"\x00\xff", headers={"Content-Type": "image/png"})
    async with site.served() as port, client_of(port) as client:
        got = await client.get("image")
        assert got is not None
        assert (got.data, got.content_type) == (b"\x00\xff", "image/png")


async def test_a_batch_is_one_frame_and_each_has_its_own_answer(site: Site) -> None:
    async with site.served() as port, client_of(port) as client:
        await client.ping()
        received = site.live.counts.received
        wanted: list[Command[Any]] = [
            commands.put("a", 1),
            commands.get("a"),
            commands.put("a", 2, expected_version=0),
            commands.increment("b"),
        ]
        done, got, refused, sum_ = await client.batch(wanted)
        assert site.live.counts.received == received + 1
        assert done.operation == "set"
        assert got is None or got.json() == 1
        assert isinstance(refused, Conflict) or refused.operation == "set"
        assert sum_.value == b"1"


async def test_more_than_a_batch_may_have_is_sent_as_several(site: Site) -> None:
    async with site.served() as port, client_of(port) as client:
        results = await client.batch([commands.increment("sum") for _ in range(600)])
        assert sorted(int(result.value) for result in results) == list(range(1, 601))


async def test_a_subscription(site: Site, http: httpx.AsyncClient) -> None:
    async with site.served() as port, client_of(port) as client, client.subscribe("tasks", "cache:note:*") as events:
        await http.put("/v1/cache/task:1", json={"id": "1"})
        await http.put("/v1/cache/event:1", json={"id": "1"})
        await http.put("/v1/cache/note:1", json="hello")
        await client.publish("tasks:1", {"typing": True})
        await client.invalidate(Invalidate(pattern="no*"))
        told = [await next_of(events) for _ in range(4)]
        task, note, published, invalidated = told
        assert isinstance(task, TaskUpdate)
        assert (task.payload.action, task.payload.task, task.payload.key) == ("created", {"id": "1"}, "task:1")
        assert isinstance(note, CacheUpdate)
        assert note.payload.value == "hello"
        assert isinstance(published, Published)
        assert published.payload.message == {"typing": True}
        assert isinstance(invalidated, CacheInvalidate)
        assert invalidated.payload.pattern == "no*"


async def test_each_subscription_is_told_its_own(site: Site, http: httpx.AsyncClient) -> None:
    async with site.served() as port, client_of(port) as client, AsyncExitStack() as stack:
        tasks, notes = [await stack.enter_async_context(client.subscribe(name)) for name in ("task", "note")]
        for i in range(3):
            await http.put(f"/v1/cache/task:{i}", json=i)
            await http.put(f"/v1/cache/note:{i}", json=i)
        for subscription, name in ((tasks, "task"), (notes, "note")):
            told = [await next_of(subscription) for _ in range(3)]
            assert [event.payload.key for event in told if isinstance(event, TaskUpdate | CacheUpdate)] == [
                f"{name}:{i}" for i in range(3)
            ]
        with pytest.raises(InvalidInput, match="task is followed"):
            async with client.subscribe("task"):
                pass


@pytest.mark.parametrize("compression", ["gzip", "brotli"])
async def test_compressed_batches(site: Site, compression: Any) -> None:
    async with site.served() as port, client_of(port) as client, client.subscribe("task", compression=compression) as tasks:
        await client.batch([commands.put(f"task:{i}", i) for i in range(200)])
        async with asyncio.timeout(LIMIT):
            while site.live.hub.deliveries < 200:
                await asyncio.sleep(0)
        site.clock.advance(1)  # what was collected is due
        told = [await next_of(tasks) for _ in range(200)]
        assert sorted(event.payload.task for event in told if isinstance(event, TaskUpdate)) == list(range(200))
        assert site.live.counts.sent < 200 + 50


async def test_a_lost_connection_is_made_anew_and_nothing_is_missed(site: Site, http: httpx.AsyncClient) -> None:
    async with site.served() as port, client_of(port) as client, client.subscribe("task") as tasks:
        for i in range(20):
            await http.put("/v1/cache/task:1", json=i)
            if i % 3 == 0:
                cut(site)
        values: list[int] = []
        while values[-1:] != [19]:
            event = await next_of(tasks)
            assert isinstance(event, TaskUpdate)
            values.append(event.payload.task)
        assert values == list(range(20))
        assert site.live.counts.connections > 1


async def test_a_log_that_was_trimmed_is_told_as_missed(site: Site, http: httpx.AsyncClient) -> None:
    async with site.served() as port, client_of(port) as client, client.subscribe("task") as tasks:
        site.live._draining = True  # so that it does not come back at once
        cut(site)
        for i in range(5):
            await http.put(f"/v1/cache/task:{i}", json=i)
        site.live.kept._kept.clear()
        site.feed._held.clear()
        site.feed._since = site.feed.position.sequence
        site.store.trimmed = Seq(1004)
        site.live._draining = False
        missed = await next_of(tasks)
        assert isinstance(missed, Missed)
        assert "read again" in missed.reason
        await http.put("/v1/cache/task:9", json=9)
        event = await next_of(tasks)
        assert isinstance(event, TaskUpdate)
        assert event.payload.task == 9


async def test_a_write_whose_answer_was_lost_happens_once(site: Site) -> None:
    async with site.served() as port, client_of(port) as client:
        site.store.gates["acks"].close()
        async with asyncio.TaskGroup() as group:
            adding = group.create_task(client.increment("sum"))
            async with asyncio.timeout(LIMIT):
                await site.store.gates["acks"].reached.wait()
            cut(site)
            site.store.gates["acks"].open()
            assert (await adding).value == b"1"
        got = await client.get("sum")
        assert got is not None
        assert got.data == b"1"


async def test_what_is_asked_before_there_is_a_service_waits_for_it(site: Site) -> None:
    async with site.served() as port:
        pass
    async with client_of(port) as client:
        with pytest.raises(Unreachable, match="no answer came in time"):
            await client.get("a", timeout=0.2)


async def test_the_queue_is_bounded(site: Site) -> None:
    async with site.served() as port:
        pass
    async with client_of(port, options=SessionOptions(max_pending=3)) as client:
        with pytest.raises(QueueFull):
            await client.batch([commands.get("a")] * 4)
        results = await client.batch([commands.get("a")] * 3, timeout=0.2)
        assert [type(result) for result in results] == [Unreachable] * 3
    with pytest.raises(Ended):
        await client.get("a")


async def test_too_large_a_message_is_not_sent(site: Site) -> None:
    async with site.served() as port, client_of(port) as client:
        with pytest.raises(InvalidInput, match="over"):
            await client.set("a", "x" * (2 << 20))
        assert await client.get("a") is None


async def test_a_drain_is_followed_by_a_reconnect(site: Site, http: httpx.AsyncClient) -> None:
    async with site.served() as port, client_of(port) as client, client.subscribe("task") as tasks:
        await site.live.drain()
        site.live._draining = False
        await http.put("/v1/cache/task:1", json=1)
        event = await next_of(tasks)
        assert isinstance(event, TaskUpdate)
        assert site.live.counts.closed == {"drain": 1}


async def test_a_warm_up_is_told_until_it_has_ended(site: Site, http: httpx.AsyncClient) -> None:
    async with site.served() as port, client_of(port) as client:
        async with aclosing(client.warm(Warm(keys=["a", "b"]))) as progress, asyncio.timeout(LIMIT):
            begun = await anext(progress)
            assert isinstance(begun, JobTold)
            waiting = await anext(progress)
            assert isinstance(waiting, WarmPayload)
            assert (waiting.job, waiting.status) == (begun.id, "waiting")
            await http.delete(f"/v1/jobs/{begun.id}")
            while not site.clock.sleepers:
                await asyncio.sleep(0)
            site.clock.advance(1)
            assert [step.status async for step in progress if isinstance(step, WarmPayload)] == ["cancelled"]
        with pytest.raises(ServiceError, match="module"):
            async for _ in client.warm(Warm(module="task", userId="ann", dataTypes=["list"])):
                pass


async def test_a_warm_up_whose_connection_is_lost_is_told_to_go_on(site: Site) -> None:
    async with site.served() as port, client_of(port) as client, aclosing(client.warm(Warm(keys=["a"]))) as progress:
        async with asyncio.timeout(LIMIT):
            await anext(progress)
            await anext(progress)
            cut(site)
            with pytest.raises(Unreachable, match="goes on"):
                await anext(progress)


async def test_a_warm_up_that_nobody_looks_at_any_more_leaves_no_error_behind(site: Site) -> None:
    left: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context["message"]))
    async with site.served() as port:
        async with client_of(port) as client:
            progress = client.warm(Warm(keys=["a"]))  # as `break` leaves it: it is closed some time later
            await anext(progress)
        await progress.aclose()
        del progress
        gc.collect()
    assert left == []


async def test_a_warm_up_that_is_given_up_while_waiting_leaves_no_task_behind(site: Site) -> None:
    async with site.served() as port, client_of(port) as client, aclosing(client.warm(Warm(keys=["a"]))) as progress:
        async with asyncio.timeout(LIMIT):
            await anext(progress)
            await anext(progress)
        before = asyncio.all_tasks()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(_rest(progress))
            await asyncio.sleep(0)
            waiting.cancel()
        assert asyncio.all_tasks() <= before


async def _rest(progress: AsyncIterator[JobTold | WarmPayload]) -> None:
    async for _ in progress:
        pass


@pytest.mark.parametrize("value", [object(), RawJson(b"{")])
async def test_what_is_no_json_is_refused_before_it_is_sent(site: Site, value: object) -> None:
    async with site.served() as port, client_of(port) as client:
        for value in (float("nan"), {"a": [None, float("inf")]}, [-float("inf")]):
            with pytest.raises(InvalidInput, match=r"^value.* is (nan|-?inf), which"):
                await client.set("k", value)
        with pytest.raises(InvalidInput, match="value"):
            await client.set("a", value)
        with pytest.raises(InvalidInput, match="filters"):
            async with client.subscribe("task", filters={"a": object()}):
                pass
        assert await client.get("a") is None


class Clerk(OpenDoor):
    """A doorman who knows one token."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)

    def greet(self, token: str | None) -> Identity | None:
        return self.authenticate(token, "") if token is not None else None

    def authenticate(self, token: str, user_id: str) -> Identity:
        if token not in self.tokens:
            raise Unauthenticated("no")
        return Identity("ann", ["read:task:*", "write:task:*"])


def door(site: Site, doorman: Doorman) -> None:
    site.live._doorman = doorman


async def test_a_token_that_is_refused_ends_the_client(site: Site) -> None:
    door(site, Clerk("good"))
    async with site.served() as port:
        async with client_of(port, token="bad") as client:
            with pytest.raises(Ended, match="refuses the connection") as ended:
                await client.get("task:1", timeout=LIMIT)
            assert ended.value.code == 401
        async with client_of(port, token="good") as client:
            assert await client.get("task:1") is None
            with pytest.raises(ServiceError) as refused:
                await client.get("email:1")
            assert (refused.value.status, refused.value.code) == (403, "FORBIDDEN")
            with pytest.raises(ServiceError, match="email"):
                async with client.subscribe("email"):
                    pass


async def test_a_provider_is_asked_for_each_connection(site: Site) -> None:
    door(site, Clerk("one", "two"))
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        return ["", "one", "two"][asked]

    async with site.served() as port, client_of(port, token=token) as client:
        await client.set("task:1", 1)
        cut(site)
        await client.set("task:1", 2)
        assert asked == 2


async def test_who_has_a_provider_comes_back_with_another_token_when_one_has_ended(site: Site) -> None:
    class Strict(Clerk):
        def greet(self, token: str | None) -> Identity | None:
            if token == "old":
                raise TokenExpired("it has expired")
            return super().greet(token)

    door(site, Strict("new"))
    tokens = ["old", "new"]

    async def token() -> str:
        return tokens.pop(0)

    async with site.served() as port:
        async with client_of(port, token=token) as client:
            assert await client.get("task:1", timeout=LIMIT) is None
        async with client_of(port, token="old") as client:  # which will never be another
            with pytest.raises(Ended, match="401"):
                await client.get("task:1", timeout=LIMIT)


SECRET = b"a secret that is shared by those who may prove something"


class Late:
    """A signer that cannot sign at first."""

    subject = "ann"

    def __init__(self) -> None:
        self.asked = 0

    async def sign(self, challenge: Challenge) -> str:
        self.asked += 1
        if self.asked == 1:
            raise OSError("the vault is away")
        return challenge.signature(SECRET, self.subject)


def stepped_up(site: Site) -> None:
    door(site, Clerk("good"))
    site.live.limits = replace(site.live.limits, proofs=Proofs(step_up=(SECRET,), scopes={"write:task:*"}))


@pytest.mark.parametrize("signer", [SharedSecret("ann", SECRET), Late()])
async def test_a_challenge_is_signed(site: Site, signer: Signer) -> None:
    stepped_up(site)
    async with site.served() as port, client_of(port, token="good", signer=signer) as client:
        assert (await client.set("task:1", 1)).key == "task:1"


class Silent:
    """A signer that never comes to an end."""

    subject = "ann"

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def sign(self, challenge: Challenge) -> str:
        self.asked.set()
        await asyncio.Event().wait()
        return ""


async def test_a_client_is_closed_whoever_still_signs(site: Site) -> None:
    stepped_up(site)
    signer = Silent()
    async with site.served() as port, asyncio.timeout(LIMIT), client_of(port, token="good", signer=signer):
        await signer.asked.wait()


@pytest.mark.parametrize(
    ("signer", "reason"),
    [(None, "no signer"), (SharedSecret("ann", b"another"), "4500"), (SharedSecret("bob", SECRET), "4500")],
)
async def test_a_challenge_that_is_not_met_ends_the_client(site: Site, signer: Signer | None, reason: str) -> None:
    stepped_up(site)
    async with site.served() as port, client_of(port, token="good", signer=signer) as client:
        with pytest.raises(Ended, match=reason):
            await client.get("task:1")


async def test_who_signs_without_a_token_is_a_node(site: Site) -> None:
    site.live.limits = replace(site.live.limits, proofs=Proofs(nodes=(SECRET,)))
    async with site.served() as port, client_of(port, signer=SharedSecret("node:paris", SECRET)) as client:
        assert await client.get("task:1") is None
        assert not await client.may("write", "task:1")


async def test_more_than_the_rate_allows_is_done_in_its_time(site: Site) -> None:
    rates = Rates(RateLimits({CONNECTION: Rate(100.0, 10.0)}), SystemClock())
    site.live.service = replace(site.service, rates=rates)
    async with site.served() as port, client_of(port) as client:
        await client.batch([commands.increment("sum") for _ in range(30)])
        refused = rates.refused[CONNECTION]
        assert refused > 0
        sums = [await client.increment("sum") for _ in range(10)]
        assert sums[-1].value == b"40"
        got = await client.get("sum")
        assert got is not None
        assert got.data == b"40"


async def test_an_error_of_the_user_comes_as_it_is(site: Site) -> None:
    async with site.served() as port:
        with pytest.raises(ZeroDivisionError):
            async with client_of(port) as client, client.subscribe("task"):
                raise ZeroDivisionError
