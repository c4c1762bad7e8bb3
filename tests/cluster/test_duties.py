"""Duties, on made-up time: two nodes, of which one does what is to be done, however seldom that is."""

from __future__ import annotations

import asyncio
from collections import Counter

from cachesvc.cluster.duties import Duty
from cachesvc.logs.memory import MemoryAuthority
from cachesvc.model.fold_state import Terms
from cachesvc.tiers.memory import MemoryTier
from tests.fakes import FakeClock

LEASE = 5.0
SELDOM = 60.0


async def test_what_is_done_seldom_is_done_by_one_node_and_when_that_is_gone_by_another_at_once() -> None:
    clock, done = FakeClock(), Counter[str]()
    authority = MemoryAuthority(MemoryTier(ttl=1.0, max_size=9, max_bytes=9, clock=clock), terms=Terms(), clock=clock)

    def duty(node: str) -> Duty:
        async def work() -> None:
            done[node] += 1

        return Duty("sweep", work, registry=authority, node=node, clock=clock, interval=SELDOM, lease=LEASE)

    async def passed(seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            clock.advance(0.25)
            for _ in range(10):
                await asyncio.sleep(0)  # every task has its turn

    first, second = duty("first"), duty("second")
    async with asyncio.TaskGroup() as group:
        holder = group.create_task(first.run())
        await passed(1.0)
        other = group.create_task(second.run())
        await passed(2 * SELDOM + 2.0)
        assert (dict(done), first.held, second.held) == ({"first": 3}, True, False)
        holder.cancel()  # killed: it gives nothing up
        await passed(LEASE + LEASE / 4 + 0.5)
        assert (done["second"], second.held) == (1, True)
        other.cancel()
