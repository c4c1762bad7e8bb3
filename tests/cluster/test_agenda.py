"""The keeper of the agenda, over the authority in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import pytest

from cachesvc.cluster.agenda import BATCH, Keeper
from cachesvc.errors import TierUnavailable
from cachesvc.logs.memory import MemoryAuthority
from cachesvc.model.agenda import CONFLICT
from cachesvc.model.change import Draft, Operation
from cachesvc.model.fold_state import Terms
from cachesvc.model.keys import Key
from cachesvc.model.merging import Policy, Strategy
from cachesvc.model.position import Version
from cachesvc.tiers.memory import MemoryTier
from tests.fakes import FakeClock

TERMS = Terms(policies={"open": Policy(Strategy.MANUAL)}, conflicts_expire=100.0, conflicts_kept=1_000.0)


class Site:
    def __init__(self, *, max_kept: int = 1_000) -> None:
        self.clock = FakeClock()
        tier = MemoryTier(ttl=3_600.0, max_size=10_000, max_bytes=64 << 20, clock=self.clock)
        self.authority = MemoryAuthority(tier, terms=TERMS, clock=self.clock)
        self.keeper = Keeper(self.authority, self.write, max_kept=max_kept)
        self.away = False
        self.batches = count()  # their names are in the order of time, as those of a node are

    async def write(self, drafts: Sequence[Draft]) -> Sequence[object]:
        if self.away:
            return [TierUnavailable("database", "away")] * len(drafts)
        return (await self.authority.append(drafts, batch=f"{next(self.batches):032x}")).outcomes

    async def conflict(self, key: str) -> None:
        for value in (b"1", b"2"):
            base = Version(0) if value == b"2" else None
            await self.write([Draft(Operation.SET, Key(key), value, base=base)])

    async def kept(self) -> int:
        return len(await self.authority.list_items(CONFLICT, limit=10_000))

    async def told(self) -> list[str]:
        changes = await self.authority.read(await self.authority.oldest(), 10_000)
        return [change.publication.type for change in changes if change.publication is not None]


async def test_all_that_is_due_is_looked_at_however_much_it_is() -> None:
    site = Site()
    for place in range(BATCH + 1):
        await site.conflict(f"open:{place}")
    await site.keeper.step()
    assert site.keeper.looked == 0
    site.clock.advance(101.0)
    await site.keeper.step()
    assert site.keeper.looked == BATCH + 1
    assert (await site.told()).count("conflict:resolved") == BATCH + 1
    site.clock.advance(1_001.0)
    await site.keeper.step()
    assert await site.kept() == 0


async def test_over_what_is_kept_the_oldest_go_and_an_open_one_is_settled_first() -> None:
    site = Site(max_kept=1)
    await site.conflict("open:1")
    await site.conflict("other:1")
    await site.keeper.forget()
    assert (await site.told())[-1] == "conflict:resolved"
    await site.keeper.forget()
    [left] = await site.authority.list_items(CONFLICT, limit=10)
    assert b"other:1" in left.record


async def test_what_could_not_be_looked_at_is_left_and_said() -> None:
    site = Site()
    await site.conflict("open:1")
    site.clock.advance(101.0)
    site.away = True
    with pytest.raises(TierUnavailable):
        await site.keeper.step()
    site.away = False
    await site.keeper.step()
    assert site.keeper.looked == 1
