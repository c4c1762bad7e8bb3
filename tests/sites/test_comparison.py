"""Comparing: what was lost, altered, added or not deleted is found and repaired; what a site says is not believed blindly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from random import Random
from typing import Any
from unittest.mock import patch

import pytest

from cachesvc.errors import EpochChanged, Forbidden, InvalidInput
from cachesvc.model.change import Operation
from cachesvc.model.digest import hashed
from cachesvc.model.entry import content_hash
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Seq, Version
from cachesvc.model.replica import mark_of, portable
from cachesvc.ports import Link, Reply
from cachesvc.protocol.api import parse
from cachesvc.protocol.frames import CacheSyncPayload
from cachesvc.protocol.replicated import entry_of, told
from cachesvc.sites.comparison import Comparison
from cachesvc.sites.intake import Intake, IntakeLimits
from cachesvc.sites.keeper import Keeper
from cachesvc.sites.report import PeerCounts, SiteReport
from tests.sites.network import Line, SimulatedSite, line, network

KEYS = [Key(f"key:{number}") for number in range(400)]


async def compared(sites: Mapping[str, SimulatedSite]) -> list[SiteReport]:
    """Everyone compares with everyone, once."""
    return [await peer.compare() for site in sites.values() for peer in site.peers.values()]


async def healed(sites: Mapping[str, SimulatedSite]) -> None:
    """Until nobody differs."""
    for _ in range(5):
        if all(report.agreed for report in await compared(sites)):
            return
    raise AssertionError("they do not come to the same")


async def filled(sites: Mapping[str, SimulatedSite]) -> None:
    for place, (name, site) in enumerate(sites.items()):
        for key in KEYS[place :: len(sites)]:
            await site.store.do(Operation.SET, key, f'"{name} {key}"'.encode())
    await healed(sites)


async def test_equal_sites_exchange_one_small_message() -> None:
    async with network("berlin", "oslo") as sites:
        await filled(sites)
        report = await sites["berlin"].peers["oslo"].compare()
        assert (report.entries, report.differing, report.rounds, report.error) == (len(KEYS), 0, 1, "")
        assert report.sent + report.received < 1_000


class Counted:
    """A line whose answers are kept."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.replies: list[tuple[bool, Reply]] = []  # whether it was compared

    async def ask(self, payload: Mapping[str, object]) -> Reply:
        reply = await self._link.ask(payload)
        self.replies.append(("checksums" in payload, reply))
        return reply


async def test_each_byte_is_counted_once_also_where_a_site_is_followed_meanwhile() -> None:
    async with network("berlin", "oslo") as sites:
        await filled(sites)
        peer = sites["berlin"].peers["oslo"]
        await sites["oslo"].store.do(Operation.SET, "more")
        lines: list[Counted] = []

        @asynccontextmanager
        async def counted() -> AsyncIterator[Counted]:
            async with line(sites["oslo"], "berlin") as link:
                lines.append(Counted(link))
                yield lines[-1]

        peer._connect = counted
        before = replace(peer.counts)
        report = await peer.compare()
        told = [(compared, reply.asked, len(reply.text)) for one in lines for compared, reply in one.replies]
        assert {compared for compared, _, _ in told} == {True, False}
        assert report.sent == sum(asked for compared, asked, _ in told if compared)
        assert report.received == sum(size for compared, _, size in told if compared)
        assert peer.counts.sent - before.sent == report.sent
        assert peer.counts.received - before.received == sum(size for _, _, size in told)


async def test_what_was_lost_altered_or_added_and_what_was_not_deleted_is_repaired() -> None:
    async with network("berlin", "oslo") as sites:
        await filled(sites)
        berlin, oslo = sites["berlin"], sites["oslo"]
        before = dict(oslo.store.rows_held)
        lost, altered, extra, undeleted = KEYS[0], KEYS[2], Key("extra"), KEYS[4]  # which berlin wrote, but for the extra one
        rows = oslo.store.rows_held
        del rows[lost]
        rows[altered] = rows[altered]._replace(value=b"666", content_hash=content_hash("application/json", b"666"))
        rows[extra] = before[KEYS[1]]._replace(key=extra, version=Version(7))
        oslo.keeper.digest.put(lost, None)
        for key in (altered, extra):
            oslo.keeper.digest.put(key, mark_of(rows[key], "oslo"))
        await berlin.store.do(Operation.DELETE, undeleted)
        await oslo.store.follow_on("berlin", berlin.store.position)  # and oslo missed it
        first = await oslo.peers["berlin"].compare()
        assert (first.differing, first.repaired, first.error) == (3, 3, "")
        assert rows[lost].value == before[lost].value
        assert rows[altered].value == before[altered].value
        assert rows[undeleted].deleted
        await healed(sites)
        assert extra in berlin.store.rows_held


async def swept(site: SimulatedSite) -> None:
    """What is past its life has ended."""
    for key in list(site.store.rows_held):
        row, now = site.store.row(key), site.clock.now()
        if row is not None and not row.deleted and not row.live(now):
            await site.store.do(Operation.EXPIRE, key, b"", expected=row.version)


async def invalidated(sites: Mapping[str, SimulatedSite], at: SimulatedSite, named: Invalidation) -> None:
    """Here, and then by the others, as if their logs had told of it at once."""
    for site in sites.values():
        origin = "" if site is at else f"{at.name}:{at.store.position.sequence}"
        await site.store.do(Operation.INVALIDATE, "", b"", invalidation=named._replace(origin=origin))


@pytest.mark.parametrize("seed", range(12))
async def test_three_sites_come_to_the_same_whatever_happened(seed: int) -> None:
    random = Random(seed)
    async with network("berlin", "oslo", "porto") as sites:
        added = 0
        for _ in range(120):
            site = random.choice(list(sites.values()))
            key = f"key:{random.randrange(12)}"
            match random.randrange(9):
                case 0 | 1:
                    await site.store.do(Operation.SET, key, str(random.randrange(100)).encode())
                case 2:
                    await site.store.do(Operation.SET, f"own:{key}", distribute=False)
                case 3:
                    await site.store.do(Operation.DELETE, key)
                case 4 | 5:
                    await site.store.do(Operation.INCREMENT, "counter")
                    added += 1
                case 6:
                    site.clock.advance(random.random())
                case 7:
                    await invalidated(sites, site, Invalidation("key:1*", soft=bool(random.randrange(2))))
                case _:
                    await random.choice(list(site.peers.values())).compare()
        for _ in range(2):  # what is past its life at one of them is still told to the others
            await compared(sites)
            for site in sites.values():
                await swept(site)
        await healed(sites)
        states = [site.store.state for site in sites.values()]
        assert states[0] == states[1] == states[2]
        assert {int(site.store.rows_held[Key("counter")].value) for site in sites.values() if added} <= {added}
        for site in sites.values():
            kept = await site.keeper.current()
            anew = Keeper(site.store, site.store, site.clock, site=site.name)
            await anew._build()
            assert (kept.sum(""), sorted(kept.marks(""))) == (anew.digest.sum(""), sorted(anew.digest.marks("")))


async def test_a_site_from_the_far_future_waits_until_then() -> None:
    async with network("berlin", "oslo") as sites:
        berlin, oslo = sites["berlin"], sites["oslo"]
        clock = berlin.clock
        clock.set_now(clock.now() + 100.0)
        await berlin.store.do(Operation.SET, "ahead")
        clock.set_now(clock.now() - 100.0)
        report = await oslo.peers["berlin"].compare()
        assert (report.held, report.error) == (1, "")
        assert Key("ahead") not in oslo.store.rows_held
        await oslo.peers["berlin"].compare()  # finds it again, and it waits already
        counts = oslo.peers["berlin"].counts
        assert (counts.held, counts.held_ever) == (1, 1)
        clock.advance(41.0)
        await oslo.peers["berlin"].compare()
        assert oslo.store.rows_held[Key("ahead")].value == b"1"


async def test_what_waits_takes_no_more_than_its_room() -> None:
    async with network("berlin", "oslo") as sites:
        berlin, oslo = sites["berlin"], sites["oslo"]
        intake = oslo.peers["berlin"]._intake
        intake._limits = IntakeLimits(held_bytes=3)
        berlin.clock.set_now(berlin.clock.now() + 100.0)
        for key in ("a", "b"):
            await berlin.store.do(Operation.SET, key, b"12")
        berlin.clock.set_now(berlin.clock.now() - 100.0)
        await oslo.peers["berlin"].compare()
        counts = oslo.peers["berlin"].counts
        assert (counts.held, counts.held_dropped) == (1, 1)
        berlin.clock.advance(41.0)
        for _ in range(2):
            await oslo.peers["berlin"].compare()
        assert {key: row.value for key, row in oslo.store.rows_held.items()} == {Key("a"): b"12", Key("b"): b"12"}


async def test_who_is_another_site_than_it_says_or_none_that_is_known_is_refused() -> None:
    async with network("berlin", "oslo") as sites:
        teller = sites["berlin"].teller
        for named, proven in (("oslo", "porto"), ("porto", "porto"), ("porto", "oslo")):
            with pytest.raises(Forbidden, match=rf"node of cache:sync is not .* to be {named} of sites\.peers"):
                await teller.answer(CacheSyncPayload(nodeId=named), proven)


@pytest.mark.parametrize(
    "asked",
    [
        {"checksums": {"xyz": "0:0"}},
        {"checksums": {"a" * 17: "0:0"}},
        {"checksums": {"a": "0"}},
        {"checksums": {"a": "-1:0"}},
        {"requestSync": ["g"], "checksums": {}},
        {"checksums": {f"{number:04x}": "0:0" for number in range(5_000)}},
        {"requestSync": [""] * 257},
        {"position": "1"},
        {"position": "x:y"},
    ],
)
async def test_what_cannot_be_meant_is_refused(asked: dict[str, Any]) -> None:
    async with network("berlin", "oslo") as sites:
        with pytest.raises(InvalidInput):
            await sites["berlin"].teller.answer(parse(CacheSyncPayload, {"nodeId": "oslo", **asked}), "oslo")


class Liar:
    """A peer that answers what it is told to."""

    def __init__(self, *answers: Reply) -> None:
        self._answers = list(answers)

    async def ask(self, payload: Mapping[str, object]) -> Reply:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def sums(**checksums: str) -> Reply:
    return Reply("cache:sync", {"nodeId": "oslo", "position": "1:1", "checksums": checksums}, b"")


def comparison(site: SimulatedSite) -> tuple[Comparison, PeerCounts]:
    counts = PeerCounts()

    async def at_once(_: object) -> None:
        return None

    intake = Intake(
        site.store, site.clock, witness=site.witness, peer="oslo", counts=counts, limits=site.peers["oslo"]._limits.intake
    )
    made = Comparison(site.keeper, intake, site.clock, site=site.name, peer="oslo", others=(), caught_up=at_once, pace=at_once)
    return made, counts


@pytest.mark.parametrize(
    "answers",
    [
        (sums(zz="1:1"),),
        (sums(a="1:1"), sums(b="1:1")),  # what it was not asked for
        (sums(a="1:1"), sums(a="1:1")),  # and would be asked for again and again
        (Reply("batch:update", {"updates": []}, b"{}"),),
        (sums(a0b1c2d3e4f50617="1:1"), Reply("cache:sync", {}, b"{}")),
        (
            sums(a0b1c2d3e4f50617="1:1"),
            Reply("batch:update", {"batchId": "1", "data": "H4sI", "compression": "gzip", "totalSize": 90}, b""),
        ),
    ],
)
async def test_a_peer_that_lies_ends_the_comparison_and_harms_nothing(answers: tuple[Reply, ...]) -> None:
    async with network("berlin", "oslo") as sites:
        berlin = sites["berlin"]
        await berlin.store.do(Operation.SET, "key")
        before = berlin.store.state
        made, _ = comparison(berlin)
        report = await made.run(Liar(*answers), SiteReport("oslo", 0.0))
        assert report.error
        assert berlin.store.state == before


async def test_an_entry_that_is_not_what_its_checksum_says_is_refused() -> None:
    async with network("berlin", "oslo") as sites:
        await sites["oslo"].store.do(Operation.SET, "key", b'"right"')
        payload = told(sites["oslo"].store.rows_held[Key("key")], "oslo")
        assert entry_of({**payload, "value": None, "operation": "delete", "hash": "00" * 16}).deleted
        wrongs: list[dict[str, object]] = [
            {"hash": "11" * 16},
            {"vector": {}},
            {"vector": {"oslo": 0}},
            {"origin": {"site": "a b", "sequence": 1}},
        ]
        for wrong in wrongs:
            with pytest.raises(InvalidInput):
                entry_of({**payload, **wrong})


async def test_the_other_is_asked_for_no_more_than_differs() -> None:
    async with network("berlin", "oslo") as sites:
        await filled(sites)
        await sites["oslo"].store.do(Operation.SET, KEYS[9], b'"new"')
        async with line(sites["oslo"], "berlin") as link:
            made, counts = comparison(sites["berlin"])
            report = await made.run(link, SiteReport("oslo", 0.0))
        assert (report.differing, counts.entries, report.error) == (1, 1, "")
        assert sites["berlin"].keeper.digest.sum(hashed(KEYS[9])) != sites["oslo"].keeper.digest.sum("")


async def test_what_a_third_site_wrote_and_has_not_told_yet_is_no_fault() -> None:
    async with network("berlin", "oslo", "porto") as sites:
        berlin, oslo, porto = sites.values()
        await porto.store.do(Operation.SET, "task:1", b"1")
        await oslo.peers["porto"].compare()
        porto.cut = True  # berlin follows it, and cannot hear of it
        report = await berlin.peers["oslo"].compare()
        assert (report.differing, report.relayed, report.repaired, report.error) == (1, 1, 0, "")
        assert berlin.store.state == oslo.store.state
        assert berlin.peers["oslo"].counts.repaired == 0


@pytest.mark.parametrize("soft", [False, True])
async def test_what_an_invalidation_ended_at_one_site_alone_is_no_fault(soft: bool) -> None:
    async with network("berlin", "oslo") as sites:
        berlin, oslo = sites.values()
        await healed(sites)
        await oslo.store.do(Operation.SET, "task:1", b"1")
        await berlin.peers["oslo"].compare()  # berlin has heard of it
        await oslo.store.do(Operation.INVALIDATE, "", b"", invalidation=Invalidation("task:*", soft=soft, origin="berlin:7"))
        reports = await compared(sites)
        assert [(report.ended, report.repaired, report.error) for report in reports] == [(0, 0, ""), (not soft, 0, "")]
        await healed(sites)
        rows = [site.store.row(Key("task:1")) for site in sites.values()]
        assert [row is not None and row.deleted for row in rows] == [not soft] * 2
        assert berlin.store.state == oslo.store.state
        assert all(peer.counts.repaired == 0 for site in sites.values() for peer in site.peers.values())


async def test_what_is_over_at_one_site_alone_comes_back() -> None:
    async with network("berlin", "oslo") as sites:
        berlin, oslo = sites.values()
        key = Key("task:1")
        await berlin.store.do(Operation.SET, key, b"1")
        await healed(sites)
        await oslo.store.do(Operation.INVALIDATE, "", b"", invalidation=Invalidation("task:*", soft=True, origin="berlin:7"))
        stale = oslo.store.row(key)
        assert stale is not None
        berlin.clock.advance(1.0)
        await oslo.store.do(Operation.EXPIRE, key, b"", expected=stale.version)
        report = await oslo.peers["berlin"].compare()
        assert (report.ended, report.repaired, report.error) == (1, 0, "")
        assert [site.store.rows_held[key].value for site in sites.values()] == [b"1"] * 2
        await healed(sites)


async def test_a_site_that_was_restored_begins_anew_past_what_another_has_seen_of_its_log() -> None:
    async with network("berlin", "oslo") as sites:
        berlin, oslo = sites.values()
        await berlin.store.do(Operation.SET, "task:1")
        await oslo.store.follow_on("berlin", Position(berlin.store.epoch, Seq(9)))
        report = await oslo.peers["berlin"].compare()
        assert "epoch" in report.error
        assert berlin.losses.changes == 7
        assert berlin.store.position.sequence == 10
        head = (await oslo.peers["berlin"]._ask(Line(berlin, "oslo"), "")).position
        assert head == berlin.store.position
        assert berlin.losses.histories == 1


async def test_a_site_that_was_restored_begins_anew_past_what_another_knows_of_its_writes() -> None:
    async with network("berlin", "oslo") as sites:
        berlin, oslo = sites.values()
        for _ in range(5):
            await berlin.store.do(Operation.SET, "task:1")
        await oslo.peers["berlin"].compare()
        berlin.store.changes, berlin.store.rows_held = [], {}
        entry = portable(oslo.store.rows_held[Key("task:1")], "oslo")
        with pytest.raises(EpochChanged):
            await berlin.witness.knew([entry], who="oslo")
        assert berlin.losses.changes == 5
        assert berlin.store.position.sequence == 7
        await berlin.witness.knew([entry], who="oslo")


async def test_what_no_clock_can_have_come_to_is_no_evidence() -> None:
    async with network("berlin", "oslo") as sites:
        berlin = sites["berlin"]
        far = Seq(int((berlin.clock.now() + 100.0) * 1_000_000))
        await berlin.witness.saw(Position(berlin.store.epoch, far), who="oslo")
        assert berlin.losses.histories == 0


async def test_a_site_falls_behind_as_long_as_it_does_not_have_all_that_another_tells() -> None:
    async with network("berlin", "oslo") as sites:
        berlin, oslo = sites.values()
        peer = berlin.peers["oslo"]
        assert peer.lag == 0.0  # nobody follows
        following = asyncio.create_task(peer.run())
        while not peer.counts.batches:
            await asyncio.sleep(0)
            await oslo.store.do(Operation.SET, "task:1")
        oslo.cut = True
        await oslo.store.do(Operation.SET, "task:2")
        behind = peer.lag
        berlin.clock.advance(50.0)
        assert peer.lag == behind + 50.0
        following.cancel()
        await asyncio.wait([following])
        assert peer.lag == 0.0


class Mute:
    """A line over which the log is told once, and then nothing of it any more."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.asked = asyncio.Event()

    async def ask(self, payload: Mapping[str, object]) -> Reply:
        if payload.get("position"):
            self.asked.set()
            await asyncio.Event().wait()
        return await self._link.ask(payload)


async def test_a_comparison_does_not_wait_for_what_is_not_followed_any_more() -> None:
    async with network("berlin", "oslo") as sites, line(sites["oslo"], "berlin") as link:
        peer = sites["berlin"].peers["oslo"]
        mute = Mute(link)
        peer._connect = lambda: nullcontext(mute)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            following = group.create_task(peer.run())
            await mute.asked.wait()
            await sites["oslo"].store.do(Operation.SET, "task:1")
            comparing = group.create_task(peer.compare())
            while not peer._turn.locked():
                await asyncio.sleep(0)
            following.cancel()
        assert "does not follow oslo any more" in comparing.result().error


async def test_an_address_that_leads_to_another_site_is_noticed() -> None:
    async with network("berlin", "oslo", "porto") as sites:
        berlin, porto = sites["berlin"], sites["porto"]
        await porto.store.do(Operation.SET, "task:1")
        berlin.peers["oslo"]._connect = lambda: line(porto, "berlin")
        report = await berlin.peers["oslo"].compare()
        assert "leads to another site" in report.error
        assert not berlin.store.state
        made, _ = comparison(berlin)
        async with line(porto, "berlin") as link:
            assert "leads to another site" in (await made.run(link, SiteReport("oslo", 0.0))).error


class Writing:
    """A line over which somebody writes, before each question that is not the first."""

    def __init__(self, link: Link, write: Callable[[], Awaitable[None]]) -> None:
        self._link = link
        self._write = write
        self._asked = 0

    async def ask(self, payload: Mapping[str, object]) -> Reply:
        self._asked += 1
        if self._asked > 1:
            await self._write()
        return await self._link.ask(payload)


async def test_what_was_written_while_it_was_compared_is_waited_for() -> None:
    async with network("berlin", "oslo") as sites:
        berlin, oslo = sites.values()
        await filled(sites)
        await oslo.store.do(Operation.SET, KEYS[0], b'"first"')
        made, _ = comparison(berlin)
        waited: list[Position] = []
        first = oslo.store.position

        async def caught_up(position: Position) -> None:
            waited.append(position)

        made._caught_up = caught_up
        async with line(oslo, "berlin") as link:
            await made.run(Writing(link, lambda: oslo.store.do(Operation.SET, "more")), SiteReport("oslo", 0.0))
        ((_, sequence),) = waited
        assert sequence > first.sequence  # of the last look, not of the first


async def test_what_is_fetched_since_the_log_was_trimmed_is_no_fault() -> None:
    async with network("berlin", "oslo") as sites:
        berlin, oslo = sites.values()
        await filled(sites)
        peer = berlin.peers["oslo"]
        await peer.compare()
        await oslo.store.do(Operation.SET, KEYS[0], b'"new"')
        await berlin.store.follow_on("oslo", oslo.store.position)
        began = asyncio.Event()
        made = Comparison.run

        async def run(self: Comparison, link: Link, report: SiteReport) -> SiteReport:
            began.set()
            peer._start_over(oslo.store.position, "")  # while it compares
            return await made(self, link, report)

        with patch.object(Comparison, "run", run):
            report = await peer.compare()
        assert began.is_set()
        assert (report.initial, report.repaired, peer.counts.repaired) == (True, 1, 0)
        assert (await peer.compare()).initial  # what was compared before it started over may differ still
        assert not (await peer.compare()).initial


async def test_who_goes_on_for_one_that_had_not_compared_yet_starts_over_too() -> None:
    async with network("berlin", "oslo") as sites:
        berlin, oslo = sites.values()
        await oslo.store.do(Operation.SET, "task:1")
        dead = berlin.peers["oslo"]
        async with line(oslo, "berlin") as link:
            head = (await dead._ask(link, "")).position
            following = asyncio.create_task(dead._follow(link, await dead._begin(head)))
            await oslo.store.do(Operation.SET, "task:2")
            while dead.position == head:
                await asyncio.sleep(0)
            following.cancel()  # and no more, before it is killed
        berlin.meet(sites)
        report = await berlin.peers["oslo"].compare()
        assert (report.initial, report.differing, report.error) == (True, 1, "")  # the one before
        assert berlin.peers["oslo"].counts.repaired == 0
        berlin.meet(sites)
        assert not (await berlin.peers["oslo"].compare()).initial
        assert berlin.peers["oslo"].counts.started_over == 0


async def test_a_batch_that_is_cut_off_is_taken_in_when_it_is_told_again() -> None:
    async with network("berlin", "oslo") as sites:
        berlin, oslo = sites.values()
        peer = berlin.peers["oslo"]
        await peer.compare()
        await oslo.store.do(Operation.SET, "task:1", b'"' + b"x" * 4_000 + b'"')
        async with line(oslo, "berlin") as link:
            whole = await link.ask({"nodeId": "berlin", "position": str(peer.position), "compression": "gzip"})
        before = await berlin.store.followed("oslo")
        cut = Reply(whole.type, {**whole.payload, "data": whole.payload["data"][:-20]}, whole.text)
        with pytest.raises(InvalidInput):
            await peer._intake.take(cut)
        assert await berlin.store.followed("oslo") == before
        assert not berlin.store.state
        assert (await peer.compare()).error == ""
        assert berlin.store.state == oslo.store.state


async def test_a_site_that_was_silent_for_longer_than_deletions_are_remembered_starts_over() -> None:
    async with network("berlin", "oslo") as sites:
        berlin, oslo = sites.values()
        await filled(sites)
        for days, started_over in ((0.9, 0), (1.1, 1)):
            berlin.clock.advance(days * 86_400.0)
            await oslo.store.do(Operation.SET, f"after {days} days")
            berlin.meet(sites)
            report = await berlin.peers["oslo"].compare()
            assert (report.initial, berlin.peers["oslo"].counts.started_over) == (bool(started_over), started_over)
            assert Key(f"after {days} days") in berlin.store.rows_held
        assert berlin.peers["oslo"].counts.repaired == 0


async def test_a_site_that_settles_conflicts_otherwise_is_told_of_by_each(caplog: pytest.LogCaptureFixture) -> None:
    for policies, differ in ((("one", "one"), False), (("one", "other"), True)):
        async with network("berlin", "oslo", policies=policies) as sites:
            for site, other in (("berlin", "oslo"), ("oslo", "berlin")):
                report = await sites[site].peers[other].compare()
                assert (report.policies_differ, report.error) == (differ, "")
                assert sites[site].peers[other].counts.policies_differ is differ
                assert (f"the site {other} settles conflicts by OTHER POLICIES" in caplog.text) is differ
