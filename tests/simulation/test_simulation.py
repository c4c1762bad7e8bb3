"""Small worlds; `python -m tests.simulation` has those of a hundred nodes and twenty sites."""

from __future__ import annotations

from random import Random

import pytest

from cachesvc.model.change import Operation
from cachesvc.model.keys import Key
from cachesvc.sites.peer import PeerLimits
from tests.bench.digests import fill
from tests.simulation.scenarios import healed, repaired, spread, taken_over
from tests.simulation.time import VirtualClock, run
from tests.simulation.world import World, opened
from tests.sites.network import network


async def history(seed: int) -> tuple[list[dict[Key, bytes]], int, float]:
    """Writes at all sites while lines are cut and nodes are killed; then what all sites have, and what it cost."""
    chance = Random(f"{seed} history")
    async with opened(seed, 3, 3, interval=10.0) as world:
        await world.until(world.connected)
        added = 0
        for _ in range(80):
            await world.clock.sleep(chance.expovariate(2.0))
            site = chance.choice(list(world.sites.values()))
            match chance.randrange(10):
                case 0:
                    world.apart(*chance.sample(world.names, 2))
                case 1:
                    world.heal()
                case 2 if len(site.alive) > 1:
                    chance.choice(site.alive).kill()
                case 3 if len(site.alive) < 3:
                    site.add(world)
                case 4 | 5:
                    await site.log.do(Operation.INCREMENT, "counter")
                    added += 1
                case 6:
                    await site.log.do(Operation.DELETE, f"key:{chance.randrange(8)}")
                case _:
                    await site.write(f"key:{chance.randrange(8)}", chance.randrange(100))
        world.heal()
        await world.until(world.equal, within=60.0)
        await told_equal(world)
        for site in world.sites.values():
            assert int(site.log.rows_held[Key("counter")].value) == added
        return [site.log.state for site in world.sites.values()], world.carried, world.clock.monotonic()


async def told_equal(world: World) -> None:
    """The digests say so, too, and nothing was ever repaired that was not on its way."""
    for site in world.sites.values():
        for peer in next(node for node in site.alive).peers:
            report = await peer.compare()
            assert (report.differing, report.error) == (0, "")
    peers = [peer for site in world.sites.values() for node in site.nodes for peer in node.peers]
    assert sum(peer.counts.repaired for peer in peers) == 0


@pytest.mark.parametrize("seed", range(3))
def test_sites_come_to_the_same_whatever_was_cut_and_killed(seed: int) -> None:
    states, *_ = run(history(seed))
    assert states[0] == states[1] == states[2]


def test_a_seed_is_a_history_to_the_last_byte() -> None:
    assert run(history(7)) == run(history(7))


def test_after_an_hour_apart_sites_are_soon_equal() -> None:
    cost = run(healed(1, 2, 1, apart=3_600.0, writes=12))
    assert cost.seconds < 10.0  # they knock every five seconds


def test_a_dead_node_is_noticed_and_its_duty_taken_over() -> None:
    for seed in range(5):
        noticed, following = run(taken_over(seed, 4))
        assert noticed <= 5.1
        assert following <= 10.0


def test_what_a_site_writes_is_soon_at_all() -> None:
    assert run(spread(1, 4, 2)).seconds < 1.0


def test_the_bytes_grow_with_the_differences_and_not_with_the_store() -> None:
    none, few, many = (run(repaired(1, 2_000, differences)) for differences in (0, 5, 200))
    assert none.carried < 1_000
    assert few.carried < many.carried / 5
    assert run(repaired(1, 8_000, 5)).carried < 2 * few.carried


async def paced(bandwidth: float) -> tuple[int, float]:
    """Bytes that a site took from another, comparing with it and following it, and the seconds that this took."""
    async with network("berlin", "oslo", limits=PeerLimits(bandwidth=bandwidth), clock=VirtualClock()) as sites:
        fill(sites["oslo"].store, 500)
        await sites["berlin"].store.follow_on("oslo", sites["oslo"].store.position)
        for number in range(500):
            await sites["oslo"].store.do(Operation.SET, f"new:{number}", b"%d" % number)
        began = sites["berlin"].clock.monotonic()
        report = await sites["berlin"].peers["oslo"].compare()
        assert report.error == ""
        return report.received, sites["berlin"].clock.monotonic() - began


def test_the_budget_of_bytes_is_kept() -> None:
    received, seconds = run(paced(2_000.0))
    assert received > 10_000
    assert received / seconds <= 1.05 * 2_000.0  # what came last is waited for after it was counted
    assert run(paced(0.0))[1] == 0.0
