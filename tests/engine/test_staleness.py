"""Staleness: what may be served past its life, what is refreshed before, and what is known not to be there."""

from __future__ import annotations

import asyncio

import pytest

from cachesvc.engine.answers import Mark, Want
from cachesvc.engine.cache import Cache
from cachesvc.engine.load_terms import Loading
from cachesvc.engine.loading import RETRY
from cachesvc.engine.supply import FAILURES
from cachesvc.errors import Unavailable
from cachesvc.model.change import Draft, Operation, invalidate
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.policy import Policy
from cachesvc.tiers.memory import MemoryTier
from tests.engine.conftest import Site, put
from tests.engine.loads import Origin, terms, until

A = Key("a:1")
REVALIDATES = Policy(stale_while_revalidate=30.0)
TOLERATES = Policy(stale_if_error=30.0)
REMEMBERS = Policy(negative_ttl=30.0)


@pytest.fixture
def origin() -> Origin:
    return Origin()


async def value(cache: Cache) -> bytes | None:
    answer = await cache.read(A)
    return answer.entry.value if answer.entry is not None else None


@pytest.mark.parametrize("level", ["memory", "redis", "database"])
async def test_what_is_past_its_life_is_served_while_it_is_loaded_anew(site: Site, origin: Origin, level: str) -> None:
    async with site.node(loaders={"a": origin}, loading=terms(policy=REVALIDATES)) as node:
        await node.read(A)
        await node.puts.drained()
        site.advance(12)
        if level != "memory":
            node.memory.clear()
        if level == "database":
            site.redis.entries.clear()
        origin.gate.close()
        stale = await node.read(A)
        assert stale.entry is not None
        assert (stale.entry.value, stale.mark, stale.tier, stale.ttl) == (b"1", Mark.REVALIDATING, level, -2)
        await origin.gate.reached.wait()
        assert (await node.read(A)).mark is Mark.REVALIDATING
        origin.gate.open()
        await until(lambda: site.authority.rows[A].value == b"2")
        assert await value(node) == b"2"
        assert len(origin.calls) == 2
        assert node.reads.loads.counts.refreshes == 1
        assert node.reads.stale.served == {Mark.REVALIDATING: 2}


async def test_past_its_window_it_is_loaded(site: Site, origin: Origin) -> None:
    async with site.node(loaders={"a": origin}, loading=terms(policy=REVALIDATES)) as node:
        await node.read(A)
        site.advance(41)
        assert await value(node) == b"2"


@pytest.mark.parametrize("ends", ["delete", "pattern"])
async def test_what_was_invalidated_is_never_served(site: Site, origin: Origin, ends: str) -> None:
    policy = Policy(stale_while_revalidate=100.0, stale_if_error=100.0)
    async with site.node(loaders={"a": origin}, loading=terms(policy=policy)) as node, site.node(redis=False) as other:
        await node.read(A)
        await node.puts.drained()
        site.catch_up(node)
        site.advance(12)
        await other.write(Draft(Operation.DELETE, A) if ends == "delete" else invalidate(Invalidation("a:*")))
        site.catch_up(node)
        origin.away = True
        with pytest.raises(Unavailable):
            await node.read(A)


async def test_what_was_invalidated_while_it_was_loaded_anew_is_not_served_in_need(site: Site, origin: Origin) -> None:
    async with site.node(loaders={"a": origin}, loading=terms(policy=TOLERATES)) as node:
        await node.read(A)
        site.advance(12)
        node.memory.clear()
        origin.gate.close()
        waiting = asyncio.create_task(node.read(A))
        await origin.gate.reached.wait()
        await node.write(Draft(Operation.DELETE, A))
        origin.away = True
        origin.gate.open()
        with pytest.raises(Unavailable):
            await waiting


async def test_what_cannot_be_loaded_anew_is_served_within_its_window(site: Site, origin: Origin) -> None:
    async with site.node(loaders={"a": origin}, loading=terms(policy=TOLERATES)) as node:
        await node.read(A)
        site.advance(12)
        origin.away = True
        for _ in range(9):
            answer = await node.read(A)
            assert answer.entry is not None
            assert (answer.entry.value, answer.mark) == (b"1", Mark.FAILED)
        assert len(origin.calls) == 1 + FAILURES  # then it is left alone
        site.advance(30)
        with pytest.raises(Unavailable):
            await node.read(A)


async def test_while_the_authority_is_away_memory_goes_on_past_the_life_of_what_it_has(site: Site) -> None:
    async with site.node(redis=False, loading=Loading(policy=TOLERATES)) as node, site.node(redis=False) as strict:
        await node.write(put(A, b"1", ttl=10.0))
        site.catch_up(strict)
        assert await value(strict) == b"1"
        site.advance(12)
        site.authority.away = True
        answer = await node.read(A)
        assert answer.entry is not None
        assert (answer.mark, answer.ttl) == (Mark.FAILED, -2)
        with pytest.raises(Unavailable):
            await strict.read(A)
        with pytest.raises(Unavailable):
            await node.read(A, Want(fresh=True))
        site.advance(30)
        with pytest.raises(Unavailable):
            await node.read(A)


async def test_one_read_in_the_last_part_of_its_life_refreshes_an_entry(site: Site, origin: Origin) -> None:
    memory = MemoryTier(ttl=300.0, max_size=100, max_bytes=1 << 20, clock=site.clock, ahead={"a": 0.3})
    async with site.node(loaders={"a": origin}, loading=terms(policy=Policy(refresh_ahead=0.3)), memory=memory) as node:
        await node.read(A)
        site.advance(6)
        assert memory.hit(A) is not None
        await asyncio.gather(*(node.read(A) for _ in range(10)))
        assert len(origin.calls) == 1
        site.advance(1.5)
        assert memory.hit(A) is None
        origin.gate.close()
        answers = await asyncio.gather(*(node.read(A) for _ in range(10)))
        told = {(answer.entry.value, answer.mark, answer.tier) for answer in answers if answer.entry}
        assert told == {(b"1", Mark.NONE, "memory")}
        await origin.gate.reached.wait()
        origin.gate.open()
        await until(lambda: site.authority.rows[A].value == b"2")
        assert await value(node) == b"2"
        assert len(origin.calls) == 2
        site.advance(9)  # nobody reads: nothing is refreshed
        assert len(origin.calls) == 2


async def test_a_refresh_that_fails_is_not_tried_again_at_once(site: Site, origin: Origin) -> None:
    async with site.node(loaders={"a": origin}, loading=terms(policy=REVALIDATES)) as node:
        await node.read(A)
        site.advance(12)
        origin.away = True
        for _ in range(20):
            assert await value(node) == b"1"
            await asyncio.sleep(0)
        await until(lambda: len(node.reads.loads.room) and site.clock.sleepers)
        assert len(origin.calls) == 2
        site.advance(RETRY + 0.1)
        await until(lambda: not len(node.reads.loads.room))
        assert await value(node) == b"1"
        await until(lambda: len(origin.calls) == 3)


async def test_a_refresh_that_another_node_makes_is_left_to_it(site: Site, origin: Origin) -> None:
    loading = terms(policy=REVALIDATES)
    async with (
        site.node(loaders={"a": origin}, loading=loading) as here,
        site.node(loaders={"a": origin}, loading=Loading(loading.terms, holder="another")) as there,
    ):
        await here.read(A)
        site.catch_up(there)
        await there.read(A)
        site.advance(12)
        origin.gate.close()
        await here.read(A)
        await origin.gate.reached.wait()
        assert await value(there) == b"1"
        await until(lambda: len(there.reads.loads.room) == 1)
        origin.gate.open()
        await until(lambda: site.authority.rows[A].value == b"2")
        site.catch_up(there)
        assert await value(there) == b"2"
        assert len(origin.calls) == 2


async def test_what_the_origin_has_not_is_remembered_for_a_while_on_every_node(site: Site, origin: Origin) -> None:
    origin.gone = {A}
    loading = terms(policy=REMEMBERS)
    async with (
        site.node(loaders={"a": origin}, loading=loading) as here,
        site.node(loaders={"a": origin}, loading=loading) as there,
    ):
        assert (await here.read(A)).mark is Mark.NONE
        again = await here.read(A)
        assert (again.entry, again.mark, again.tier) == (None, Mark.NEGATIVE, "memory")
        elsewhere = await there.read(A)
        assert (elsewhere.entry, elsewhere.mark, elsewhere.tier) == (None, Mark.NEGATIVE, "database")
        assert (await there.read(A)).tier == "memory"
        assert len(origin.calls) == 1
        site.advance(31)
        origin.gone.clear()
        assert await value(here) == b"2"


@pytest.mark.parametrize("ends", ["put", "delete", "pattern"])
async def test_an_absence_ends_as_an_entry_does(site: Site, origin: Origin, ends: str) -> None:
    origin.gone = {A}
    async with site.node(loaders={"a": origin}, loading=terms(policy=REMEMBERS)) as node, site.node(redis=False) as other:
        await node.read(A)
        site.catch_up(node)
        drafts = {"put": put(A, b"7"), "delete": Draft(Operation.DELETE, A), "pattern": invalidate(Invalidation("a:*"))}
        await other.write(drafts[ends])
        site.catch_up(node)
        origin.gone.clear()
        assert await value(node) == (b"7" if ends == "put" else b"2")


async def test_an_absence_that_was_overtaken_is_not_kept(site: Site, origin: Origin) -> None:
    origin.gone = {A}
    origin.gate.close()
    async with site.node(loaders={"a": origin}, loading=terms(policy=REMEMBERS)) as node:
        loading = asyncio.create_task(node.read(A))
        await origin.gate.reached.wait()
        await node.write(put(A, b"7"))
        origin.gate.open()
        answer = await loading
        assert answer.entry is not None
        assert answer.entry.value == b"7"
        assert len(node.reads.stale.absences) == 0


async def test_what_the_origin_has_no_more_is_not_served_stale(site: Site, origin: Origin) -> None:
    policy = Policy(stale_while_revalidate=30.0, stale_if_error=30.0)
    async with site.node(loaders={"a": origin}, loading=terms(policy=policy)) as node:
        await node.read(A)
        site.advance(12)
        origin.gone = {A}
        assert await value(node) == b"1"  # and asks
        await until(lambda: site.authority.rows[A].deleted)
        assert await value(node) is None


async def test_without_a_policy_nothing_is_recorded_of_what_is_absent(site: Site, origin: Origin) -> None:
    origin.gone = {A}
    async with site.node(loaders={"a": origin}) as node:
        assert await value(node) is None
        assert await value(node) is None
        assert len(origin.calls) == 2
        assert site.authority.log == []
