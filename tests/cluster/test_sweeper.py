"""The sweeper, over the authority in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from cachesvc.cluster.sweeper import Sweeper
from cachesvc.logs.memory import MemoryAuthority
from cachesvc.model.change import Draft, Operation
from cachesvc.model.fold_state import Terms
from cachesvc.model.keys import Key
from cachesvc.ports import Retention
from cachesvc.tiers.memory import MemoryTier
from tests.fakes import FakeClock


class Site:
    """A sweeper, before whose writes comes what `first` says."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        tier = MemoryTier(ttl=3_600.0, max_size=1_000, max_bytes=1 << 20, clock=self.clock)
        self.authority = MemoryAuthority(tier, terms=Terms(), clock=self.clock)
        self.sweeper = Sweeper(self.authority, self.write, retention=Retention(), batch=2)
        self.first: list[Draft] = []
        self.batches = count()

    async def write(self, drafts: Sequence[Draft]) -> Sequence[object]:
        await self.append(self.first)
        return await self.append(drafts)

    async def append(self, drafts: Sequence[Draft]) -> Sequence[object]:
        return (await self.authority.append(drafts, batch=f"{next(self.batches):032x}")).outcomes


async def test_what_is_past_its_life_is_ended_in_batches() -> None:
    site = Site()
    await site.write([put(f"a:{place}", ttl=10.0) for place in range(5)])
    site.clock.advance(11.0)
    await site.sweeper.step()
    assert site.sweeper.expired == 5
    await site.sweeper.step()
    assert site.sweeper.expired == 5


async def test_what_was_written_again_meanwhile_lives_on_and_is_not_counted() -> None:
    site = Site()
    await site.write([put("a", ttl=10.0), put("b", ttl=10.0)])
    site.clock.advance(11.0)
    site.first = [put("a", ttl=None)]
    await site.sweeper.step()
    assert site.sweeper.expired == 1
    found = await site.authority.get([Key("a"), Key("b")], horizon=await site.authority.head())
    assert found[Key("a")].live(site.clock.now())
    assert Key("b") not in found or not found[Key("b")].live(site.clock.now())


def put(key: str, *, ttl: float | None) -> Draft:
    return Draft(Operation.SET, Key(key), b"1", ttl=ttl)
