"""What is measured in a world: seconds of its own time, and bytes over its lines. The same seed gives the same figures."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from cachesvc.model.keys import Key
from tests.bench.digests import fill
from tests.simulation.world import GONE_AFTER, Node, World, opened


class Cost(NamedTuple):
    seconds: float
    carried: int  # bytes
    messages: int


async def spread(seed: int, sites: int, nodes: int, *, writes: int = 10) -> Cost:
    """Every site writes; until all have all of it."""
    async with opened(seed, sites, nodes) as world:
        await world.until(world.connected)
        await world.clock.sleep(2.0)
        before = world.carried, world.messages
        keys = [f"{name}:{number}" for name in world.names for number in range(writes)]
        for key in keys:
            await world.sites[key.partition(":")[0]].write(key, 1)
        seconds = await world.until(world.have(keys))
        return Cost(seconds, world.carried - before[0], world.messages - before[1])


async def repaired(seed: int, keys: int, differences: int) -> Cost:
    """One of two sites lacks some entries; what comparing moves until it has them."""
    async with opened(seed, 2, 1) as world:
        lacking, other = world.sites.values()
        for site in (lacking, other):
            fill(site.log, keys)
        lost = [Key(f"task:{number * (keys // max(1, differences)):07d}") for number in range(differences)]
        for key in lost:
            del lacking.log.rows_held[key]
        seconds = await world.until(world.have(lost) if lost else world.connected)
        (peer,) = lacking.nodes[0].peers
        await world.until(lambda: peer.latest is not None)
        report = peer.latest
        assert report is not None
        assert not report.error
        return Cost(seconds, report.sent + report.received, report.rounds)


async def healed(seed: int, sites: int, nodes: int, *, apart: float, writes: int) -> Cost:
    """Every site is cut off from every other while all write; from the healing until they are equal."""
    async with opened(seed, sites, nodes) as world:
        await world.until(world.connected)
        for one in world.names:
            for other in world.names:
                if one != other:
                    world.apart(one, other)
        for number in range(writes):
            await world.clock.sleep(apart / writes)
            for site in world.sites.values():
                await site.write(f"key:{world.random.randrange(writes)}", number)
                await site.write(f"{site.name}:{number}", number)
        world.heal()
        before = world.carried, world.messages
        seconds = await world.until(world.equal)
        return Cost(seconds, world.carried - before[0], world.messages - before[1])


async def taken_over(seed: int, nodes: int) -> tuple[float, float]:
    """The node that follows the others is killed: seconds until it is known to be gone, and until another follows."""
    async with opened(seed, 2, nodes) as world:
        await world.until(world.connected)
        await world.clock.sleep(world.random.uniform(5.0, 15.0))
        site = world.sites[world.names[0]]
        holder = next(node for node in site.nodes if node.follows)
        holder.kill()
        followed = world.until(lambda: any(node.follows for node in site.nodes))
        noticed, following = await asyncio.gather(_noticed(world, holder), followed)
        return noticed, following


async def _noticed(world: World, gone: Node) -> float:
    began = world.clock.monotonic()
    registry = world.sites[world.names[0]].registry
    while any(record.node == gone.name for record in await registry.nodes(seen_within=GONE_AFTER)):
        await world.clock.sleep(0.02)
    return world.clock.monotonic() - began
