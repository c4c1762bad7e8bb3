"""Loads: one call for many callers on many nodes, time limits, what is never a value."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from cachesvc.engine.answers import Mark, Want
from cachesvc.engine.cache import Limits
from cachesvc.engine.last_reads import Reason
from cachesvc.engine.load_terms import Loading
from cachesvc.engine.loading import LAST_LOOK, LEASE_MARGIN
from cachesvc.engine.supply import FAILURES
from cachesvc.errors import Unavailable
from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.model.policy import Policy
from tests.engine.conftest import Site, put
from tests.engine.loads import Origin, terms, until
from tests.engine.stores import FakeLeases

A, B = Key("a:1"), Key("a:2")


@pytest.fixture
def origin() -> Origin:
    return Origin()


async def test_a_thousand_callers_on_four_nodes_are_one_call(site: Site, origin: Origin) -> None:
    leases = FakeLeases(site.clock.now)
    origin.gate.close()
    async with AsyncExitStack() as stack:
        named = [Loading(leases=leases, holder=f"n{i}") for i in range(4)]
        nodes = [await stack.enter_async_context(site.node(loaders={"a": origin}, loading=one)) for one in named]
        callers = [asyncio.create_task(nodes[i % 4].read(A)) for i in range(1_000)]
        await origin.gate.reached.wait()
        await until(lambda: sum(len(node.reads.loads.room) for node in nodes) == 3)
        origin.gate.open()
        await until(lambda: site.authority.log)
        for node in nodes:  # the log wakes them
            site.catch_up(node)
        answers = await asyncio.gather(*callers)
        assert {answer.entry.value for answer in answers if answer.entry} == {b"1"}
        assert all(answer.entry for answer in answers)
        assert origin.calls == [[A]]
        assert sum(node.reads.loads.counts.waits for node in nodes) == 3
        await until(lambda: not leases.held)


@pytest.mark.parametrize("directive", ["no-cache", "Min-Version"])
async def test_what_the_authority_itself_is_asked_for_is_loaded_once_where_it_has_nothing(
    site: Site, origin: Origin, directive: str
) -> None:
    limits, loading = Limits(min_version_wait=0.02), Loading(leases=FakeLeases(site.clock.now))
    async with site.node(loaders={"a": origin}, loading=loading, limits=limits) as node, site.node() as other:
        ahead = (await other.write(put(Key("b"), b"1"))).receipt.version  # which the node has not applied
        wants = Want(fresh=True) if directive == "no-cache" else Want(min_version=ahead)
        origin.gate.close()
        callers = [asyncio.create_task(node.read(A, wants)) for _ in range(5)]
        await origin.gate.reached.wait()
        await until(lambda: len(node.reads.loads.room) == 4)
        origin.gate.open()
        answers = await asyncio.gather(*callers)
        assert {answer.entry.value for answer in answers if answer.entry} == {b"1"}
        assert all(answer.entry for answer in answers)
        assert origin.calls == [[A]]
        assert (await node.read(B, replace(wants, only_cached=True))).entry is None
        assert origin.calls == [[A]]


async def test_a_wake_up_that_is_lost_costs_a_pause_only(site: Site, origin: Origin) -> None:
    async with (
        site.node(loaders={"a": origin}, loading=Loading(holder="n1")) as here,
        site.node(loaders={"a": origin}, loading=Loading(holder="n2")) as there,
    ):
        origin.gate.close()
        first = asyncio.create_task(there.read(A))
        await origin.gate.reached.wait()
        waiting = asyncio.create_task(here.read(A))
        await until(lambda: len(here.reads.loads.room) and site.clock.sleepers)
        origin.gate.open()
        await first
        site.advance(LAST_LOOK)  # nothing is followed here
        assert (await waiting).entry is not None
        assert origin.calls == [[A]]


async def test_those_who_wait_do_not_storm(site: Site, origin: Origin) -> None:
    leases = FakeLeases(site.clock.now)
    leases.held["load a:1"] = "dead", site.clock.now() + 1e9
    async with site.node(loaders={"a": origin}, loading=replace(terms(hard_timeout=60.0), leases=leases)) as node:
        waiting = asyncio.create_task(node.read(A))
        for _ in range(500):  # ten seconds
            await until(lambda: len(node.reads.loads.room) and site.clock.sleepers)
            site.advance(0.02)
        assert 10 <= len(leases.asked) <= 16  # after 0.1, 0.2, 0.4, 0.8 and then 1 s
        leases.held.clear()
        site.advance(LAST_LOOK)
        assert (await waiting).entry is not None


async def test_the_death_of_a_holder_costs_its_lease(site: Site, origin: Origin) -> None:
    leases = FakeLeases(site.clock.now)
    lease = 5.0 + LEASE_MARGIN
    leases.held["load a:1"] = "dead", site.clock.now() + lease
    async with site.node(loaders={"a": origin}, loading=Loading(leases=leases)) as node:
        began = site.clock.now()
        waiting = asyncio.create_task(node.read(A))
        while not origin.calls:
            await until(lambda: (len(node.reads.loads.room) and site.clock.sleepers) or origin.calls)
            site.advance(0.02)
        assert (await waiting).entry is not None
        assert lease <= site.clock.now() - began <= lease + 0.1


async def test_a_slow_holder_is_not_overtaken_before_its_hard_limit(site: Site, origin: Origin) -> None:
    leases = FakeLeases(site.clock.now)
    loading = replace(terms(hard_timeout=60.0), leases=leases)
    async with site.node(loaders={"a": origin}, loading=loading) as node:
        origin.gate.close()
        slow = asyncio.create_task(node.read(A))
        await origin.gate.reached.wait()
        assert leases.held["load a:1"][1] - site.clock.now() == 60.0 + LEASE_MARGIN
        origin.gate.open()
        await slow
        await until(lambda: not leases.held)


async def test_without_redis_the_authority_keeps_the_leases_and_without_that_nobody(site: Site, origin: Origin) -> None:
    leases = FakeLeases(site.clock.now)
    leases.refused = True
    async with site.node(loaders={"a": origin}, loading=Loading(leases=leases)) as node:
        assert (await node.read(A)).entry is not None
        assert site.authority.asked == [["load a:1"]]
        assert node.reads.loads.leases.without == 0
        site.authority.refused = True
        assert (await node.read(B)).entry is not None
        assert node.reads.loads.leases.without == 1


async def test_many_keys_are_leased_in_one_round_trip(site: Site, origin: Origin) -> None:
    keys = [Key(f"a:{i}") for i in range(300)]
    async with site.node(loaders={"a": origin}, loading=terms(batch=1, concurrency=300)) as node:
        await node.read_many(keys)
        assert [len(asked) for asked in site.authority.asked] == [300]
        assert len(origin.calls) == 300


async def test_what_another_node_filled_before_the_lease_was_ours_is_not_loaded(site: Site, origin: Origin) -> None:
    async with site.node(loaders={"a": origin}) as here, site.node(redis=False) as there:
        site.authority.lease_gate.close()
        late = asyncio.create_task(here.read(A))
        await site.authority.lease_gate.reached.wait()
        await there.write(put(A, b"7"))
        site.authority.lease_gate.open()
        answer = await late
        assert answer.entry is not None
        assert (answer.entry.value, answer.tier, origin.calls) == (b"7", "database", [])
        await until(lambda: not site.authority.held)


async def test_a_node_that_lags_loads_once_what_was_deleted_elsewhere(site: Site, origin: Origin) -> None:
    async with site.node(loaders={"a": origin}) as here, site.node(redis=False) as there:
        await there.write(put(A, b"7"))
        await there.write(Draft(Operation.DELETE, A))
        assert here.applied < site.authority.position
        answer = await here.read(A)
        assert answer.entry is not None
        assert len(origin.calls) == 1  # the load began after the deletion, so its value counts


async def test_who_comes_after_a_change_waits_for_a_load_that_began_after_it(site: Site, origin: Origin) -> None:
    async with site.node(loaders={"a": origin}) as node:
        origin.gate.close()
        early = asyncio.create_task(node.read(A))
        await origin.gate.reached.wait()
        await node.write(Draft(Operation.DELETE, A))
        late = asyncio.create_task(node.read(A))
        await until(lambda: len(node.reads.loads.room) == 1)
        origin.gate.open()
        values = {answer.entry.value for answer in await asyncio.gather(early, late) if answer.entry}
        assert values == {b"2"}  # the first value was refused: it began before the deletion
        assert len(origin.calls) == 2


async def test_past_the_hard_limit_a_load_is_given_up_and_nothing_is_kept(site: Site, origin: Origin) -> None:
    origin.gate.close()
    async with site.node(loaders={"a": origin}, loading=terms(hard_timeout=0.05)) as node:
        with pytest.raises(Unavailable, match=r"loader a: no answer within 0.05 s"):
            await node.read(A)
        assert site.authority.rows == {}
        await until(lambda: not site.authority.held)
        origin.gate.open()
        site.advance(5)
        assert (await node.read(A)).entry is not None


async def test_past_the_soft_limit_who_may_have_stale_content_gets_it_and_the_load_goes_on(site: Site, origin: Origin) -> None:
    loading = terms(soft_timeout=1.0, policy=Policy(stale_if_error=100.0))
    async with site.node(loaders={"a": origin}, loading=loading) as node:
        await node.read(A)
        site.advance(15)
        origin.gate.close()
        waiting = [asyncio.create_task(node.read(A)) for _ in range(3)]
        await origin.gate.reached.wait()
        await until(lambda: site.clock.sleepers)
        site.advance(1)
        answers = await asyncio.gather(*waiting)
        assert {(answer.entry.value, answer.mark) for answer in answers if answer.entry} == {(b"1", Mark.SLOW)}
        assert answers[0].ttl == -6
        assert (await node.read(A)).mark is Mark.SLOW  # at once: the load under way is slow
        assert len(origin.calls) == 2
        origin.gate.open()
        await until(lambda: site.authority.rows[A].value == b"2")
        fresh = await node.read(A)
        assert fresh.entry is not None
        assert (fresh.entry.value, fresh.mark) == (b"2", Mark.NONE)
        assert node.reads.stale.served == {Mark.SLOW: 4}


async def test_what_fails_for_one_key_fails_alone(site: Site, origin: Origin) -> None:
    origin.broken = {B}
    async with site.node(loaders={"a": origin}) as node:
        good, bad = await asyncio.gather(node.read(A), node.read(B), return_exceptions=True)
        assert origin.calls == [[A, B]]
        assert not isinstance(good, BaseException)
        assert isinstance(bad, Unavailable)
        assert "a:2 is broken" in str(bad)
        assert list(site.authority.rows) == [A]
        assert node.reads.loads.supplies["a"].failures == 1
        ends = [node.reads.last["loader"].of(key) for key in (A, B)]
        assert [end.reason for end in ends if end is not None] == [Reason.HIT, Reason.AWAY]
        assert (node.reads.counts.hits["loader"], node.reads.counts.misses["loader"]) == (1, 1)


async def test_a_loader_that_fails_is_left_alone_for_a_while(site: Site, origin: Origin) -> None:
    origin.away = True
    async with site.node(loaders={"a": origin}) as node:
        for _ in range(10):
            with pytest.raises(Unavailable, match="loader a"):
                await node.read(A)
        assert len(origin.calls) == FAILURES
        assert node.reads.loads.supplies["a"].breaker.state == "open"
        origin.away = False
        site.advance(10)
        assert (await node.read(A)).entry is not None


async def test_no_more_calls_are_under_way_than_allowed(site: Site, origin: Origin) -> None:
    origin.gate.close()
    async with site.node(loaders={"a": origin}, loading=terms(batch=1, concurrency=3)) as node:
        reading = asyncio.create_task(node.read_many([Key(f"a:{i}") for i in range(10)]))
        await until(lambda: origin.under_way == 3)
        origin.gate.open()
        await reading
        assert origin.most == 3


async def test_the_life_of_what_is_loaded_is_jittered(site: Site, origin: Origin) -> None:
    loading = replace(terms(ttl_jitter=0.2), random=lambda: 0.5)
    async with site.node(loaders={"a": origin}, loading=loading) as node:
        answer = await node.read(A)
        assert answer.ttl == 9.0
