"""The audit over fake stores: what differs is found, and what is only on its way is not."""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict
from typing import Any

import pytest

from cachesvc.cluster.audit import BATCH, PATIENCE, SOON, Auditor, Suspect
from cachesvc.cluster.audit_report import Report
from cachesvc.cluster.copies import Copies, MemoryCopies, RedisCopies
from cachesvc.engine.cache import Cache
from cachesvc.model.change import Draft, Operation, invalidate
from cachesvc.model.entry import Entry, content_hash, tombstone
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Position, Seq, Version
from cachesvc.ports import Copy
from tests.engine.conftest import Site, put
from tests.engine.stores import FakeMemory, Gate
from tests.fakes import FakeClock

A, B = Key("a"), Key("b")
SEEDS = 40


class WalkingClock(FakeClock):
    """Who sleeps is passed over by others and finds the time gone by."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)


def auditor(cache: Cache, *, kind: type[Auditor] = Auditor, rate: float = math.inf, clock: FakeClock | None = None) -> Auditor:
    redis: Any = cache.redis
    tiers: list[Copies] = [MemoryCopies(cache.memory, cache.floors)]
    if redis is not None:
        tiers.append(RedisCopies(redis, cache.floors))
    return kind(cache, tiers, clock or WalkingClock(), interval=60.0, sample=1_000, rate=rate)


@pytest.fixture
def site() -> Site:
    return Site()


async def audited(made: Auditor, tier: str) -> Report:
    report = await made.round(tier)
    assert report is not None
    return report


def entries_of(cache: Cache) -> dict[Key, Entry]:
    assert isinstance(cache.memory, FakeMemory)
    return cache.memory.entries


async def written(site: Site, cache: Cache, *keys: str) -> None:
    """Written, followed and replayed."""
    await cache.write_many([put(key) for key in keys])
    await cache.puts.drained()
    site.catch_up(cache)
    site.replay()


def as_older(entry: Entry) -> Entry:
    return entry._replace(version=Version(entry.version - 1))


def as_newer(entry: Entry) -> Entry:
    return entry._replace(version=Version(entry.version + 1))


def as_other_content(entry: Entry) -> Entry:
    return entry._replace(value=b"wrong", content_hash=content_hash(entry.content_type, b"wrong"))


def as_altered(entry: Entry) -> Entry:
    """The bytes have changed, what is said of them has not."""
    return entry._replace(value=b"wrong")


PLANTED = [as_older, as_newer, as_other_content, as_altered]


@pytest.mark.parametrize("planted", PLANTED)
async def test_what_is_wrong_in_memory_is_found_and_taken_out(site: Site, planted: Any) -> None:
    async with site.node() as cache:
        await written(site, cache, A, B)
        entries_of(cache)[A] = planted(entries_of(cache)[A])
        report = await audited(auditor(cache), "memory")
        assert (report.audited, report.agreed, report.repaired, report.undecided) == (2, 1, 1, 0)
        assert report.coherence == 0.5
        assert A not in entries_of(cache)
        assert A not in site.redis.entries  # it may have come from there
        assert B in entries_of(cache)
        answer = await cache.read(A)
        assert answer.entry == site.authority.rows[A]


@pytest.mark.parametrize("planted", PLANTED)
async def test_what_is_wrong_in_redis_is_found_and_taken_out(site: Site, planted: Any) -> None:
    async with site.node() as cache:
        await written(site, cache, A, B)
        site.redis.entries[A] = planted(site.redis.entries[A])
        made = auditor(cache)
        report = await audited(made, "redis")
        assert (report.audited, report.repaired, report.undecided) == (2, 1, 0)
        assert list(site.redis.entries) == [B]
        assert entries_of(cache).get(A) in (None, site.authority.rows[A])
        assert (await cache.read(A)).entry == site.authority.rows[A]
        assert made.totals["redis"].repaired == 1
        assert made.told()["redis"]["repaired"] == 1


async def test_what_the_authority_does_not_have_is_wrong(site: Site) -> None:
    async with site.node(redis=False) as cache:
        await written(site, cache, A, B)
        del site.authority.rows[A]
        site.authority.rows[B] = tombstone(B, site.authority.rows[B].version, now=0.0, keep=1e9)
        report = await audited(auditor(cache), "memory")
        assert report.repaired == 2
        assert not entries_of(cache)


async def test_the_floor_is_raised_to_what_the_authority_has(site: Site) -> None:
    async with site.node() as cache:
        await written(site, cache, A)
        right = entries_of(cache)[A]
        cache.floors.start_over(cache.applied)  # floors are forgotten
        entries_of(cache)[A] = as_older(right)
        await audited(auditor(cache), "memory")
        assert cache.floors.floor(A) == right.version


async def test_a_write_that_is_not_followed_yet_is_no_fault(site: Site) -> None:
    async with site.node() as one, site.node() as other:
        await written(site, one, A)
        await other.read(A)
        site.catch_up(other)
        await one.write(put(A, b"2"))
        assert entries_of(other)[A].version < site.authority.rows[A].version
        made = auditor(other)
        gate = site.authority.gates["outlines"]
        gate.close()
        running = asyncio.create_task(made.round("memory"))
        await gate.reached.wait()
        gate.open()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not running.done()  # it waits for this node to be told
        site.catch_up(other)
        report = await running
        assert report is not None
        assert (report.audited, report.agreed, report.repaired, report.undecided) == (1, 1, 0, 0)


async def test_a_node_that_does_not_hear_of_it_stays_undecided(site: Site) -> None:
    async with site.node() as one, site.node() as other:
        await written(site, one, A)
        await other.read(A)
        await one.write(put(A, b"2"))
        clock = WalkingClock()
        report = await audited(auditor(other, clock=clock), "memory")
        assert (report.audited, report.repaired, report.undecided, report.coherence) == (0, 0, 1, None)
        assert PATIENCE <= clock.monotonic() < PATIENCE + 2 * SOON
        assert A in entries_of(other)


async def test_an_authority_that_was_set_back_convicts_nothing(site: Site) -> None:
    """What it lost is no fault of the tiers; that its history is another one is for the follower to notice."""
    async with site.node() as cache:
        await written(site, cache, A, B)
        del site.authority.rows[A]
        site.authority.log.pop()
        made = auditor(cache)
        for tier in ("memory", "redis"):
            report = await audited(made, tier)
            assert (report.audited, report.repaired, report.undecided) == (1, 0, 1)


async def test_an_authority_that_has_begun_another_history_convicts_nothing(site: Site) -> None:
    """Between two looks another node noticed that it was set back, and began an epoch; this node's follower is about to."""

    class Noticing(WalkingClock):
        async def sleep(self, seconds: float) -> None:
            site.authority.base = Position(Epoch(8), Seq(8_000))
            await super().sleep(seconds)

    async with site.node() as cache:
        await written(site, cache, A, B)
        del site.authority.rows[A]
        site.authority.log.pop()
        report = await audited(auditor(cache, clock=Noticing()), "memory")
        assert site.authority.position.epoch == 8
        assert (report.audited, report.repaired, report.undecided) == (1, 0, 1)


async def test_what_a_pattern_killed_says_nothing(site: Site) -> None:
    async with site.node() as cache:
        await written(site, cache, A, B)
        await cache.write(invalidate(Invalidation(pattern="a*")))
        site.catch_up(cache)
        site.replay()
        assert A in site.redis.entries
        report = await audited(auditor(cache), "redis")
        assert (report.audited, report.agreed) == (1, 1)


async def test_what_is_not_believed_says_nothing(site: Site) -> None:
    async with site.node() as cache:
        await written(site, cache, A)
        site.redis.entries[A] = as_other_content(site.redis.entries[A])
        site.redis.cursor = Position(site.redis.cursor.epoch, Seq(1))
        await cache.write(put(B))
        cache.floors.start_over(site.authority.position)  # the horizon is past the cursor
        report = await audited(auditor(cache), "redis")
        assert (report.audited, report.undecided, report.coherence) == (0, 0, None)


async def test_a_redis_that_is_away_is_told_and_not_asked_twice(site: Site) -> None:
    async with site.node() as cache:
        await written(site, cache, A)
        made = auditor(cache)
        site.redis.away = True
        assert (await audited(made, "redis")).error == "redis: away"
        cache.breaker.failed()
        cache.breaker.failed()
        assert "not asked again yet" in (await audited(made, "redis")).error
        assert made.totals["redis"].failed == 2
        assert (await audited(made, "memory")).error == ""


async def test_rounds_go_over_all_of_it_one_after_the_other_at_the_rate(site: Site) -> None:
    async with site.node(redis=False) as cache:
        keys = [f"k:{n}" for n in range(3 * BATCH)]
        await written(site, cache, *keys)
        clock = WalkingClock()
        tiers = [MemoryCopies(cache.memory, cache.floors)]
        made = Auditor(cache, tiers, clock, interval=60.0, sample=2 * BATCH, rate=BATCH)
        assert (await audited(made, "memory")).audited == 2 * BATCH
        assert clock.monotonic() == pytest.approx(2.0)
        assert (await audited(made, "memory")).audited == BATCH
        assert (await audited(made, "memory")).audited == 2 * BATCH


class Hasty(Auditor):
    """Judges at the first look."""

    async def _look_again(self, tier: Copies, suspects: dict[Key, Suspect], report: Report) -> None:
        report.repaired += len(suspects)


class Deaf(Auditor):
    """Looks twice, and does not wait until the tier was told."""

    async def _look_again(self, tier: Copies, suspects: dict[Key, Suspect], report: Report) -> None:
        nowhere = {key: one._replace(upto=one.upto._replace(sequence=Seq(0))) for key, one in suspects.items()}
        await super()._look_again(tier, nowhere, report)


class Drifting(Gate):
    """A call takes a few turns, in which others have theirs."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    async def __call__(self) -> None:
        for _ in range(self._rng.randrange(6)):
            await asyncio.sleep(0)


async def busy_site(seed: int, kind: type[Auditor]) -> tuple[int, int]:
    """Two nodes read, write, delete, invalidate, evict and follow in a random order while both are audited without pause.

    How many entries were audited, and how many taken for wrong.
    """
    rng = random.Random(seed)
    site = Site()
    site.authority.gates = defaultdict(lambda: Drifting(rng))
    site.redis.gates = defaultdict(lambda: Drifting(rng))
    keys = [Key(f"k:{n}") for n in range(6)]
    async with site.node() as one, site.node() as other:
        made = [auditor(cache, kind=kind) for cache in (one, other)]
        working = True

        async def work(cache: Cache) -> None:
            for _ in range(60):
                key = rng.choice(keys)
                what = rng.random()
                if what < 0.35:
                    await cache.read(key)
                elif what < 0.7:
                    await cache.write(put(key, b"%d" % rng.randrange(1_000)))
                elif what < 0.75:
                    await cache.write(Draft(Operation.DELETE, key))
                elif what < 0.78:
                    await cache.write(invalidate(Invalidation(pattern=rng.choice(["k:*", "k:[0-2]"]))))
                elif what < 0.85:
                    await cache.memory.evict([key])
                else:
                    await asyncio.sleep(0)

        async def follow() -> None:
            while working:
                for move in rng.sample([lambda: site.catch_up(one), lambda: site.catch_up(other), site.replay], k=1):
                    move()
                for _ in range(rng.randrange(30)):
                    await asyncio.sleep(0)

        async def audit(auditing: Auditor) -> None:
            while working:
                await auditing.round(rng.choice(["memory", "redis"]))
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as background:
            background.create_task(follow())
            for auditing in made:
                background.create_task(audit(auditing))
            await asyncio.gather(*(work(cache) for cache in (one, other, one, other)))
            working = False
        totals = [total for auditing in made for total in auditing.totals.values()]
        return sum(total.audited for total in totals), sum(total.repaired for total in totals)


async def test_nothing_on_its_way_is_ever_taken_for_a_fault() -> None:
    for seed in range(SEEDS):
        seen, wrong = await busy_site(seed, Auditor)
        assert seen > 0
        assert not wrong, f"seed {seed}"


@pytest.mark.parametrize("kind", [Hasty, Deaf])
async def test_without_a_rule_it_is(kind: type[Auditor]) -> None:
    for seed in range(SEEDS):
        _, wrong = await busy_site(seed, kind)
        if wrong:
            return
    pytest.fail("nothing was taken for a fault")


async def test_a_copy_tells_what_it_was_told(site: Site) -> None:
    async with site.node() as cache:
        await written(site, cache, A)
        copies = await MemoryCopies(cache.memory, cache.floors).look([A, B])
        entry = entries_of(cache)[A]
        assert copies == {A: Copy(entry, cache.applied, entry.size)}
