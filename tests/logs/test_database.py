"""The database authority beyond its contract: several of them on one database, cancelled, unsure, of another version."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from cachesvc.errors import OutcomeUnknown, SchemaMismatch, SettingsError, TierUnavailable
from cachesvc.logs.database import DatabaseAuthority
from cachesvc.model.change import Change, Idempotency, request_id
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.ports import NodeRecord
from cachesvc.tiers.schema import metadata
from tests.conformance.authority_store import add, append, delete, expire, passed, put, receipts, refusal, values
from tests.logs.database_store import DatabaseStore


async def test_several_open_an_empty_database_at_once(bare_store: DatabaseStore) -> None:
    async def first_head() -> Position:
        async with bare_store.opened() as authority:
            return await authority.head()

    heads = await asyncio.gather(*(first_head() for _ in range(4)))
    assert len(set(heads)) == 1


async def test_two_append_at_once_and_a_follower_sees_every_change_in_order(store: DatabaseStore) -> None:
    rounds = 20
    async with store.opened() as one, store.opened() as two, store.opened() as three:
        start = await three.head()

        async def write(authority: DatabaseAuthority, name: str) -> list[Change]:
            made: list[Change] = []
            for i in range(rounds):
                made += (await append(authority, add("count"), put(f"{name}:{i}"), add("count", "0.5"))).changes
            return made

        async def follow() -> list[Change]:
            seen: list[Change] = []
            async with three.follow(start) as batches:
                async for batch in batches:
                    seen += batch
                    if len(seen) == 2 * rounds * 3:
                        break
            return seen

        async with asyncio.timeout(30):
            seen, ones, twos = await asyncio.gather(follow(), write(one, "one"), write(two, "two"))
        assert [change.sequence for change in seen] == list(range(start.sequence + 1, start.sequence + 1 + len(seen)))
        assert sorted(ones + twos, key=lambda change: change.sequence) == seen
        assert await values(one, "count") == [b"60.0"]


async def test_the_migrations_make_the_schema(bare_store: DatabaseStore) -> None:
    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))

    async with bare_store.opened() as authority:
        assert await authority._store.read(differences) == []


async def test_a_newer_schema_is_refused(bare_store: DatabaseStore) -> None:
    async with bare_store.opened() as authority:
        await authority._store.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(SchemaMismatch, match=r"9999.*newer version"):
        async with bare_store.opened():
            pass


async def test_tables_of_somebody_else_are_left_alone(bare_store: DatabaseStore) -> None:
    async with bare_store.opened() as authority:
        await authority._store.write(lambda c: c.execute(text("DROP TABLE alembic_version")))
    with pytest.raises(SchemaMismatch, match="entries"):
        async with bare_store.opened():
            pass


async def test_what_cannot_be_reached_is_not_opened(sqlite_store: DatabaseStore) -> None:
    for url in ("postgresql://postgres@127.0.0.1:1/postgres", "sqlite:////proc/none/cache.db", "sqlite:///:memory:"):
        with pytest.raises(TierUnavailable, match="database"):
            async with DatabaseStore(url, sqlite_store.data_dir).opened():
                pass
    for url in ("mysql://host/name", "postgresql://u:secret@h/d?nosuch=1", "postgresql://h/d?statement_cache_size=0"):
        with pytest.raises(SettingsError, match=r"levels\.database\.url") as caught:
            async with DatabaseStore(url, sqlite_store.data_dir).opened():
                pass
        assert "secret" not in str(caught.value)


async def test_parameters_of_a_url_are_for_the_pool_too(bare_store: DatabaseStore) -> None:
    if not bare_store.url.startswith("postgresql"):
        pytest.skip("of PostgreSQL")
    url = f"{bare_store.url}?prepared_statement_cache_size=0"
    async with DatabaseStore(url, bare_store.data_dir).opened() as authority:
        await authority.head()


async def test_a_cancelled_append_holds_nothing(store: DatabaseStore) -> None:
    async with store.opened() as one, store.opened() as two:
        entered, leave = threading.Event(), threading.Event()

        def hold(connection: Connection) -> None:
            connection.execute(text("SELECT 1"))
            entered.set()
            if store.url.startswith("sqlite"):
                leave.wait(10)
            else:
                connection.execute(text("SELECT pg_sleep(0.2)"))

        holding = asyncio.ensure_future(one._store.write(hold))
        await asyncio.to_thread(entered.wait)
        waiting = asyncio.ensure_future(append(one, put("a", b'"waiting"')))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        holding.cancel()
        leave.set()
        await asyncio.gather(holding, return_exceptions=True)
        assert waiting.cancelled()
        assert holding.cancelled()
        async with asyncio.timeout(10):
            receipts(await append(two, put("b", b'"two"')))
            receipts(await append(one, put("c", b'"one"')))
        assert await values(one, "a", "b", "c") == [None, b'"two"', b'"one"']


class Unsure:
    """A store that loses the connection while committing: after the commit, or before it."""

    def __init__(self, store: Any, *, commits: bool) -> None:
        self._store = store
        self._commits = commits
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, work: Callable[[Connection], Any], **more: Any) -> Any:
        if self._failed:
            return await self._store.write(work, **more)
        self._failed = True
        if self._commits:
            await self._store.write(work, **more)
        raise OutcomeUnknown("the connection was lost while committing")


async def test_a_commit_in_doubt_is_looked_up(store: DatabaseStore) -> None:
    async with store.opened() as authority:
        await append(authority, put("a", b"5"))
        sure = authority._store
        authority._store = Unsure(sure, commits=True)
        asker = Idempotency("me", "", "f")
        appended = await append(authority, add("a", idempotency=asker), put("b", expected=7, idempotency=asker))
        assert [change.sequence for change in appended.changes] == [appended.before.sequence + 1]
        assert appended.changes == await authority.read(appended.before, 10)
        assert refusal(appended, 1) == "VERSION_CONFLICT"
        again = Idempotency("me", request_id(appended.batch, 0), "f")
        assert (await append(authority, add("a", idempotency=again))).outcomes == [appended.outcomes[0]]

        authority._store = Unsure(sure, commits=False)
        with pytest.raises(TierUnavailable, match="nothing was written"):
            await append(authority, add("a"))
        assert await values(authority, "a") == [b"6"]


async def test_a_replayed_answer_of_a_batch_is_only_for_who_asked(store: DatabaseStore) -> None:
    async with store.opened() as authority:
        first = await append(authority, add("a", idempotency=Idempotency("me", "", "f")))
        name = request_id(first.batch, 0)
        assert refusal(await append(authority, add("a", idempotency=Idempotency("me", name, "other")))) == "KEY_REUSED"
        other = await append(authority, add("a", idempotency=Idempotency("you", name, "f")))
        assert receipts(other)[0].value == b"2"


async def test_tags_and_parents_are_those_of_the_last_write(store: DatabaseStore) -> None:
    def related(connection: Connection) -> list[Any]:
        both = "SELECT key, tag FROM tags UNION ALL SELECT key, parent FROM dependencies ORDER BY 1, 2"
        return [tuple(row) for row in connection.execute(text(both))]

    async with store.opened() as authority:
        old = await append(
            authority,
            put("a", tags=("red", "blue"), parents=("p",)),
            put("b", tags=("red",), parents=("p", "q")),
            put("c", tags=("red",), ttl=0.01),
        )
        assert await authority._store.read(related) == [
            ("a", "blue"), ("a", "p"), ("a", "red"), ("b", "p"), ("b", "q"), ("b", "red"), ("c", "red")
        ]  # fmt: skip
        await passed(authority, await authority.time() + 0.01)
        await append(authority, put("a", tags=("green", "blue")), delete("b"), expire("c", receipts(old)[2].version))
        assert await authority._store.read(related) == [("a", "blue"), ("a", "green")]


async def test_a_database_that_is_behind_its_reader_is_not_believed(store: DatabaseStore) -> None:
    async with store.opened() as authority:
        head = (await append(authority, put("a"))).changes[-1].sequence
        at = await authority.head()
        assert await authority.get([Key("a")], horizon=at)
        for other in (at._replace(sequence=Seq(head + 1)), at._replace(epoch=Epoch(at.epoch + 1))):
            with pytest.raises(TierUnavailable, match="not after"):
                await authority.get([Key("a")], horizon=other)


async def test_a_clock_that_was_set_back(store: DatabaseStore) -> None:
    """What was written before it is of the future: no node that is gone counts as there, and no answer is forgotten for it."""
    asker = Idempotency("me", "", "f")
    async with store.opened() as authority:
        await append(authority, add("a"))
        await authority.heartbeat(NodeRecord("gone", 1.0, 1.0, await authority.head(), "1", "here", {}))
        ahead = "UPDATE changes SET at = at + 3600", "UPDATE nodes SET seen_at = seen_at + 3600"
        await authority._store.change(lambda connection: [connection.execute(text(statement)) for statement in ahead])
        assert await authority.nodes(seen_within=60.0) == []
        appended = await append(authority, add("a", idempotency=asker))
        await authority.sweep(limit=10)
        again = await append(authority, add("a", idempotency=asker._replace(key=request_id(appended.batch, 0))))
        assert again.replayed == {0}


async def test_the_sweep_forgets_answers_past_their_time(store: DatabaseStore) -> None:
    asker = Idempotency("me", "k", "f")
    async with store.opened(idempotency_ttl=0.01) as authority:
        await append(authority, add("a", idempotency=asker))
        await passed(authority, await authority.time() + 0.02)
        assert await authority.sweep(limit=10) == 2  # its own row and the batch's
        assert receipts(await append(authority, add("a", idempotency=asker)))[0].value == b"2"
