"""The authority fails: what needs it is refused without waiting, one caller probes, and nothing has changed anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from cachesvc.errors import OutcomeUnknown, TierUnavailable
from cachesvc.model.change import Appended, Draft
from cachesvc.model.keys import Key
from tests.engine.conftest import Site, put
from tests.engine.stores import FakeAuthority

A, B = Key("a"), Key("b")


class Failing(FakeAuthority):
    """An authority whose appends fail as they are told to."""

    failure: Exception | None = None

    async def append(self, drafts: Sequence[Draft], *, batch: str) -> Appended:
        if self.failure is not None:
            raise self.failure
        return await super().append(drafts, batch=batch)


async def test_while_it_is_open_nobody_waits_and_nothing_changes(site: Site) -> None:
    async with site.node() as cache:
        await cache.write(put("a"))
        await cache.puts.drained()
        site.authority.away = True
        with pytest.raises(TierUnavailable, match="away"):
            await cache.write(put("a", b"2"))
        rows, log, held = dict(site.authority.rows), list(site.authority.log), dict(site.redis.entries)
        site.authority.gates["commits"].close()  # whoever asked it now would wait for ever
        for _ in range(10):
            with pytest.raises(TierUnavailable, match="not asked again yet") as refused:
                await cache.write(put("a", b"3"))
            assert refused.value.retry_after == pytest.approx(0.1)
            outcomes = await cache.write_many([put("a", b"4"), put("b", b"4")])
            assert [type(outcome) for outcome in outcomes] == [TierUnavailable] * 2
        site.authority.gates["commits"].open()
        site.authority.away = False
        assert (site.authority.rows, site.authority.log, site.redis.entries) == (rows, log, held)
        entry = await cache.get(A)
        assert entry is not None
        assert entry.value == b"1"
        site.clock.advance(0.1)
        await cache.write(put("a", b"5"))
        assert cache.authority_writes.state == "closed"


async def test_one_writer_probes_while_the_others_are_refused(site: Site) -> None:
    async with site.node() as cache:
        site.authority.away = True
        with pytest.raises(TierUnavailable):
            await cache.write(put("a"))
        site.authority.away = False
        site.clock.advance(0.1)
        site.authority.gates["commits"].close()
        async with asyncio.TaskGroup() as group:
            probe = group.create_task(cache.write(put("a")))
            await site.authority.gates["commits"].reached.wait()
            for _ in range(10):
                with pytest.raises(TierUnavailable, match="not asked again yet"):
                    await cache.write(put("b"))
            site.authority.gates["commits"].open()
        assert probe.result().receipt.version
        await cache.write(put("b"))
        assert site.authority.batches == [1, 1]


async def test_a_probe_that_fails_doubles_the_pause(site: Site) -> None:
    async with site.node() as cache:
        site.authority.away = True
        for pause in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
            with pytest.raises(TierUnavailable, match="away"):
                await cache.write(put("a"))
            site.clock.advance(pause - 0.01)
            with pytest.raises(TierUnavailable, match="not asked again yet"):
                await cache.write(put("a"))
            site.clock.advance(0.02)
        assert cache.authority_writes.opened == 1


async def test_reads_go_on_from_memory_and_redis_and_misses_are_refused(site: Site) -> None:
    async with site.node() as cache, site.node() as other:
        await cache.write(put("a"))
        await cache.puts.drained()
        site.catch_up(other)
        site.replay()
        site.authority.away = True
        for _ in range(2):
            with pytest.raises(TierUnavailable, match="away"):
                await other.read(B)
        site.authority.gates["asked"].close()  # whoever asked it now would wait for ever
        for _ in range(5):
            with pytest.raises(TierUnavailable, match="not asked again yet"):
                await other.read(B)
        assert (await cache.read(A)).tier == "memory"
        assert (await other.read(A)).tier == "redis"
        site.authority.gates["asked"].open()
        site.authority.away = False
        site.clock.advance(0.1)
        assert (await other.read(B)).entry is None
        assert other.authority_reads.state == "closed"


async def test_what_says_no_is_there(site: Site) -> None:
    """A full disk refuses this write; the next one is asked for all the same, and reads were never in question."""
    site.authority = Failing()
    async with site.node() as cache:
        await cache.write(put("a"))
        assert isinstance(site.authority, Failing)
        site.authority.failure = TierUnavailable("database", "disk full", answered=True)
        for _ in range(5):
            with pytest.raises(TierUnavailable, match="disk full"):
                await cache.write(put("a", b"2"))
        assert cache.authority_writes.state == "closed"
        cache.memory.clear()
        assert (await cache.read(A)).entry is not None
        site.authority.failure = None
        await cache.write(put("a", b"3"))


async def test_an_outcome_that_is_unknown_opens_it_for_writes_only(site: Site) -> None:
    site.authority = Failing()
    async with site.node() as cache:
        assert isinstance(site.authority, Failing)
        site.authority.failure = OutcomeUnknown("lost")
        with pytest.raises(OutcomeUnknown):
            await cache.write(put("a"))
        with pytest.raises(TierUnavailable, match="not asked again yet"):
            await cache.write(put("a"))
        assert (await cache.read(A)).entry is None
        assert cache.authority_reads.state == "closed"


async def test_a_probe_that_is_cancelled_lets_the_next_one_probe(site: Site) -> None:
    async with site.node() as cache:
        site.authority.away = True
        with pytest.raises(TierUnavailable):
            await cache.write(put("a"))
        site.authority.away = False
        site.clock.advance(0.1)
        probe = asyncio.ensure_future(cache.write(put("a")))
        await asyncio.sleep(0)
        probe.cancel()
        await asyncio.wait([probe])
        await cache.write(put("b"))
        assert cache.authority_writes.state == "closed"
