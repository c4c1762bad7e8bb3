"""What is particular to the Redis authority: the servers it refuses, commits in doubt, servers that die, forget or fill up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from cachesvc.clock import SystemClock
from cachesvc.errors import CacheError, EpochChanged, OutcomeUnknown, SettingsError, TierUnavailable
from cachesvc.logs import redis
from cachesvc.logs.redis_rows import Names, pack_row, unpack_row
from cachesvc.logs.redis_server import Argument, Server
from cachesvc.model.agenda import CONFLICT, pack_item
from cachesvc.model.change import NO_KEY, Appended, Draft, Idempotency, Operation, Receipt, request_id
from cachesvc.model.entry import Entry, Origin, content_hash
from cachesvc.model.fold_state import Terms
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Seq, Version
from cachesvc.ports import Retention
from tests import servers

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
NAMES = Names("test")


def opened(
    url: str, *, durable: bool = False, timeout: float = 5.0, prefix: str = "test"
) -> AbstractAsyncContextManager[redis.RedisAuthority]:
    return redis.opened(
        url,
        key_prefix=prefix,
        terms=Terms(),
        timeout=timeout,
        max_connections=4,
        poll_interval=3_600.0,
        clock=SystemClock(),
        durable=durable,
    )


@pytest.fixture
async def authority(valkey_url: str) -> AsyncIterator[redis.RedisAuthority]:
    async with opened(valkey_url) as authority:
        yield authority


def put(key: str, value: bytes = b"1") -> Draft:
    return Draft(Operation.SET, Key(key), value)


def add(key: str = "n", asked: Idempotency | None = None) -> Draft:
    return Draft(Operation.INCREMENT, Key(key), amount=Decimal(1), idempotency=asked)


async def append(authority: redis.RedisAuthority, *drafts: Draft) -> Appended:
    return await authority.append(drafts, batch=uuid4().hex)


async def value(authority: redis.RedisAuthority, key: str = "n") -> bytes | None:
    found = await authority.get([Key(key)], horizon=await authority.head())
    return found[Key(key)].value if found else None


# the servers that it takes


async def test_a_durable_server_is_taken() -> None:
    with servers.valkey(*DURABLE) as server:
        async with opened(server.url, durable=True) as authority:
            assert await value(authority) is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), "appendonly yes"),
        (("--appendonly", "yes"), "appendfsync always"),
        ((*DURABLE, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "maxmemory-policy noeviction"),
        ((*DURABLE, "--cluster-enabled", "yes", "--cluster-port", "0"), "Cluster"),
    ],
    ids=["no log", "fsync now and then", "evicts", "cluster"],
)
async def test_a_server_that_forgets_is_refused(options: Sequence[str], named: str) -> None:
    if "--cluster-port" in options:
        options = [*options[:-1], str(servers.free_port())]
    with servers.valkey(*options) as server:
        with Redis(port=server.port) as client:
            client.config_set("requirepass", "secret")
        with pytest.raises(SettingsError) as caught:
            async with opened(server.url.replace("://", "://:secret@"), durable=True):
                pass
    assert caught.value.setting == "levels.redis.url"
    assert named in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_what_is_no_url_of_redis_is_a_bad_setting() -> None:
    with pytest.raises(SettingsError, match=r"levels\.redis\.url = 'redis://…'.*nosuch"):
        async with opened("redis://:secret@127.0.0.1:1?nosuch=1"):
            pass


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(TierUnavailable):
        async with opened(f"redis://127.0.0.1:{servers.free_port()}", timeout=0.2):
            pass


async def test_two_caches_share_a_server(authority: redis.RedisAuthority, valkey_url: str) -> None:
    async with opened(valkey_url, prefix="other") as other:
        await append(other, put("k", b"theirs"))
        assert await value(authority, "k") is None
        await append(authority, put("k", b"ours"))
        assert await value(other, "k") == b"theirs"


# commits in doubt


Run = Callable[[Server, str, Sequence[str], Sequence[Any]], Awaitable[Any]]


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Lets a test stand between the authority and the script that commits."""
    run = Server.run

    def through(instead: Run) -> None:
        async def patched(server: Server, script: str, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Any:
            if script == "append":
                return await instead(server, script, keys, arguments)
            return await run(server, script, keys, arguments)

        monkeypatch.setattr(Server, "run", patched)

    return through


def lost() -> TierUnavailable:
    error = TierUnavailable("redis", "the connection was lost")
    error.__cause__ = RedisConnectionError("lost")
    return error


async def test_a_commit_whose_answer_was_lost_is_found(authority: redis.RedisAuthority, commits: Callable[[Run], None]) -> None:
    run = Server.run

    async def lose_the_answer(*said: Any) -> Any:
        await run(*said)
        raise lost()

    commits(lose_the_answer)
    appended = await append(authority, add(), add())
    assert [outcome.value for outcome in appended.outcomes if isinstance(outcome, Receipt)] == [b"1", b"2"]
    assert list(await authority.read(appended.before, 10)) == list(appended.changes)


async def test_a_commit_that_did_not_arrive_is_given_up_for_good(
    authority: redis.RedisAuthority, commits: Callable[[Run], None]
) -> None:
    run = Server.run
    held: list[tuple[Any, ...]] = []

    async def hold(*said: Any) -> Any:
        held.append(said)
        raise lost()

    commits(hold)
    batch = uuid4().hex
    with pytest.raises(TierUnavailable):
        await authority.append([add()], batch=batch)
    assert await run(*held[0]) == -1  # it arrives after all, too late
    assert await value(authority) is None
    commits(run)
    again = await append(authority, add(asked=Idempotency("ann", request_id(batch, 0), "f")))
    assert (len(again.changes), again.replayed) == (1, frozenset())


async def test_an_outcome_that_cannot_be_found_out_is_unknown(commits: Callable[[Run], None]) -> None:
    with servers.valkey() as server:
        run = Server.run

        async def die(*said: Any) -> Any:
            server.kill()
            return await run(*said)

        async with opened(server.url, timeout=0.3) as authority:
            commits(die)
            with pytest.raises(OutcomeUnknown):
                await append(authority, add())


async def test_a_moved_log_is_folded_again(
    authority: redis.RedisAuthority, valkey_url: str, commits: Callable[[Run], None]
) -> None:
    run = Server.run
    async with opened(valkey_url) as second:

        async def come_between(*said: Any) -> Any:
            commits(run)
            await append(second, add())
            return await run(*said)

        commits(come_between)
        appended = await append(authority, add())
        assert [outcome.value for outcome in appended.outcomes if isinstance(outcome, Receipt)] == [b"2"]
        assert await value(second) == b"2"


async def test_a_log_that_always_moves_is_given_up(authority: redis.RedisAuthority, commits: Callable[[Run], None]) -> None:
    async def moved(*said: Any) -> int:
        return 0

    commits(moved)
    with pytest.raises(TierUnavailable):
        await append(authority, add())
    assert await value(authority) is None


# servers that die, forget, or fill up


async def test_what_was_acknowledged_survives_kill_9() -> None:
    with servers.valkey(*DURABLE) as server:
        for _ in range(3):
            acknowledged: list[Appended] = []
            async with opened(server.url, durable=True, timeout=1.0) as authority:
                before = int(await value(authority) or b"0")

                async def write(authority: redis.RedisAuthority = authority, said: list[Appended] = acknowledged) -> None:
                    while True:
                        try:
                            said.append(await append(authority, add(), put(f"k{len(said)}")))
                        except CacheError:
                            return

                async with asyncio.TaskGroup() as group, asyncio.timeout(20):
                    for _ in range(4):
                        group.create_task(write())
                    while len(acknowledged) < 50:
                        await asyncio.sleep(0)
                    server.kill()
            server.start()
            async with opened(server.url, durable=True) as authority:
                found = int(await value(authority) or b"0") - before
                # one commit at most was under way, and in doubt
                assert found - len(acknowledged) in {0, 1}
                records = await authority.read(acknowledged[0].before, 10_000)
                assert list(records[: 2 * len(acknowledged)]) == [c for said in acknowledged for c in said.changes]


async def test_a_restart_between_calls_is_not_noticed() -> None:
    with servers.valkey(*DURABLE) as server:
        async with opened(server.url) as authority:
            await append(authority, add())
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await append(authority, add())
            assert await value(authority) == b"2"


async def test_a_server_that_is_frozen_costs_one_time_limit() -> None:
    with servers.valkey() as server:
        async with opened(server.url, timeout=0.2) as authority:
            await append(authority, add())
            server.freeze()
            with pytest.raises(TierUnavailable):
                await authority.head()
            with pytest.raises(TierUnavailable):
                await append(authority, add())
            server.thaw()
            await append(authority, add())
            assert await value(authority) == b"2"


async def test_a_full_server_refuses_and_nothing_is_written() -> None:
    with servers.valkey() as server, Redis(port=server.port) as client:
        async with opened(server.url) as authority:
            await append(authority, add())
            head = await authority.head()
            client.config_set("maxmemory", "1mb")
            with pytest.raises(TierUnavailable):
                await append(authority, add(), put("k"))
            assert await authority.head() == head
            assert await value(authority) == b"1"
            client.config_set("maxmemory", "0")
            assert (await append(authority, add())).before == head


async def test_a_full_server_takes_what_frees_it(authority: redis.RedisAuthority, valkey_server: servers.Server) -> None:
    kept = await append(authority, put("ended")._replace(ttl=0.001), put("deleted"), put("gone"), put("there"))
    await append(authority, Draft(Operation.DELETE, Key("gone")))
    with Redis(port=valkey_server.port) as client:
        client.config_set("maxmemory", "1mb")
        try:
            for refused in (put("k"), Draft(Operation.DELETE, Key("never"))):  # of what is not there a deletion would be kept
                with pytest.raises(TierUnavailable, match="maxmemory"):
                    await append(authority, refused)
            deleted = await append(authority, Draft(Operation.DELETE, Key("deleted")))
            assert isinstance(deleted.outcomes[0], Receipt)
            await append(authority, Draft(Operation.INVALIDATE, NO_KEY, invalidation=Invalidation("there")))
            async with asyncio.timeout(20):
                while not (due := await authority.expired(limit=10)):
                    pass
            assert due == [(Key("ended"), Version(kept.changes[0].sequence))]
            expired = await append(authority, Draft(Operation.EXPIRE, Key("ended"), expected=due[0][1]))
            assert isinstance(expired.outcomes[0], Receipt)
            assert await authority.acquire(["sweep"], "me", 5.0) == {"sweep": 0.0}
            await authority.release(["sweep"], "me")
            assert await authority.sweep(limit=10) == 0
            assert await authority.trim(Retention(count=1)) == 7
        finally:
            client.config_set("maxmemory", "0")


async def test_the_log_takes_up_a_share_of_what_redis_may(
    authority: redis.RedisAuthority, valkey_server: servers.Server
) -> None:
    await append(authority, *(put(f"k{number}", b"x" * 60_000) for number in range(8)))
    with Redis(port=valkey_server.port) as client:
        client.config_set("maxmemory", "100mb")
        try:
            assert await authority.trim(Retention()) == 0
            client.config_set("maxmemory", "1mb")
            assert await authority.trim(Retention()) == 4
        finally:
            client.config_set("maxmemory", "0")


async def test_the_answers_of_a_batch_go_with_the_last_of_its_records(
    authority: redis.RedisAuthority, valkey_server: servers.Server
) -> None:
    asked = Idempotency("ann", "mine", "f")
    first = await append(authority, put("a"), add(asked=asked))
    second = await append(authority, put("b"), put("c"), put("d"))
    third = await append(authority, put("e"))
    with Redis(port=valkey_server.port) as client:

        def batches() -> set[str]:
            return {name.decode().rpartition(":")[2] for name in client.keys("test:batch:*")}

        assert await authority.trim(Retention(count=3)) == 3
        assert batches() == {second.batch, third.batch}
        assert await authority.trim(Retention(count=1)) == 2
        assert batches() == {third.batch}
    again = await append(authority, add(asked=asked))
    assert (again.replayed, again.outcomes[0]) == (frozenset({0}), first.outcomes[1])  # an answer to a key is kept


async def test_what_is_given_another_time_while_it_is_looked_up_is_not_due(
    authority: redis.RedisAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when two settle a conflict that nobody has: the second would take it for a settled one whose time has come."""
    await append(authority, put("a:1"), Draft(Operation.SET, Key("a:1"), b"2", base=Version(0)))
    [item] = await authority.list_items(CONFLICT, limit=10)
    ask = Server.ask

    async def later(_: Server) -> float:
        return item.due + 1.0

    async def raced(server: Server, *command: Argument) -> Any:
        if command[0] == "HMGET":
            await ask(server, "HSET", authority._names.agenda, item.name, pack_item(item._replace(due=item.due + 9.0)))
        return await ask(server, *command)

    monkeypatch.setattr(Server, "time", later)
    assert [one.name for one in await authority.due_items(limit=10)] == [item.name]
    monkeypatch.setattr(Server, "ask", raced)
    assert await authority.due_items(limit=10) == []


async def test_an_emptied_store_is_another_epoch(authority: redis.RedisAuthority, valkey_server: servers.Server) -> None:
    await append(authority, put("k"))
    seen = await authority.head()
    async with asyncio.timeout(20), authority.follow(seen) as batches:
        with Redis(port=valkey_server.port) as client:
            client.flushall()
        with pytest.raises(EpochChanged):
            await authority.read(seen, 10)
        appended = await append(authority, put("k"))
        with pytest.raises(EpochChanged):
            await anext(batches)
    assert appended.before.epoch > seen.epoch
    assert appended.before.sequence > seen.sequence
    assert await authority.oldest() == appended.before


async def test_a_restored_store_is_noticed(authority: redis.RedisAuthority, valkey_server: servers.Server) -> None:
    await append(authority, put("k", b"1"))
    with Redis(port=valkey_server.port) as client:
        saved = {name: client.dump(name) for name in client.keys("*")}
        await append(authority, put("k", b"2"))
        seen = await authority.head()
        client.flushall()
        for name, dumped in saved.items():
            client.restore(name, 0, dumped)
    with pytest.raises(EpochChanged):
        await authority.read(seen, 10)
    first = await authority.new_epoch(seen)
    assert first.epoch > seen.epoch
    assert first.sequence > seen.sequence
    assert await value(authority, "k") == b"1"
    assert (await append(authority, put("k", b"3"))).changes[0].sequence == first.sequence + 1


async def test_wake_ups_come_again_after_their_connection_was_lost(
    authority: redis.RedisAuthority, valkey_url: str, valkey_server: servers.Server
) -> None:
    start = await authority.head()
    async with asyncio.timeout(20), opened(valkey_url) as second, authority.follow(start) as batches:
        with Redis(port=valkey_server.port) as client:
            client.client_kill_filter(_type="pubsub")
        appended = await append(second, put("k"))
        assert list(await anext(batches)) == list(appended.changes)


async def test_nothing_but_answers_ends_by_itself(authority: redis.RedisAuthority, valkey_server: servers.Server) -> None:
    await append(authority, add(asked=Idempotency("ann", "key", "f")), put("k"), Draft(Operation.DELETE, Key("gone")))
    with Redis(port=valkey_server.port) as client:
        ending = {name.decode().split(":")[1] for name in client.keys("*") if client.pttl(name) != -1}
        assert ending == {"answer", "batch"}


async def test_trimming_in_steps(authority: redis.RedisAuthority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "_TRIM_STEP", 7)
    start = await authority.head()
    await append(authority, *(put(f"k{i}") for i in range(100)))
    assert await authority.trim(Retention(count=10)) == 90
    assert await authority.oldest() == Position(start.epoch, Seq(start.sequence + 90))


# what is written down


def test_a_row_as_an_older_node_wrote_it() -> None:
    entry = Entry(
        Key("k"),
        Version(1_700_000_000_000_001),
        b"\0\xff",
        "text/plain",
        1.5,
        2.25,
        None,
        content_hash("text/plain", b"\0\xff"),
        tags=("t",),
        parents=("p",),
        updated_by="ann",
        source="api",
        origin=Origin("here", Seq(7)),
        vector=(("here", 7),),
    )
    written = (
        b"170000000000000100000169"
        b'["text/plain",1.5,2.25,null,"HASH",false,'
        b'"{\\"t\\":[\\"t\\"],\\"p\\":[\\"p\\"],\\"b\\":\\"ann\\",\\"s\\":\\"api\\",\\"o\\":[\\"here\\",7],\\"v\\":[[\\"here\\",7]]}"]\0\xff'
    ).replace(b"HASH", entry.content_hash.hex().encode())
    assert pack_row(entry) == written
    assert unpack_row(Key("k"), written) == entry


def test_keys_of_answers_are_told_apart() -> None:
    assert NAMES.answer("a", "b:c") != NAMES.answer("a:b", "c")
