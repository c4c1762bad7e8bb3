"""The contract of quotas, for any: a `quotas` fixture, and `others`, the same place as another node reaches it."""

from __future__ import annotations

import asyncio

import pytest

from cachesvc.ports import Quotas

MOST = 3_600.0


class QuotaContract:
    """What is drawn by all together is no more than there is."""

    async def test_a_budget_is_drawn_from_until_it_is_used_up(self, quotas: Quotas, others: Quotas) -> None:
        first = await quotas.draw("user:ключ 日本", asked=1_000.0, most=MOST)
        assert first == pytest.approx((1_000.0, 1_000.0), abs=5)
        second = await others.draw("user:ключ 日本", asked=1_000.0, most=MOST)
        assert second == pytest.approx((1_000.0, 2_000.0), abs=30)
        third = await quotas.draw("user:ключ 日本", asked=10_000.0, most=MOST)
        assert third == pytest.approx((1_600.0, MOST), abs=60)
        nothing = await others.draw("user:ключ 日本", asked=1.0, most=MOST)
        assert nothing.given <= 1.0
        assert nothing.used == pytest.approx(MOST, abs=1)
        assert (await others.draw("user:other", asked=1.0, most=MOST)).given == pytest.approx(1.0)

    async def test_it_fills_with_time(self, quotas: Quotas) -> None:
        assert (await quotas.draw("a", asked=0.2, most=0.2)).given == pytest.approx(0.2, abs=0.001)
        given = 0.0
        async with asyncio.timeout(30):
            while given < 0.2:
                given += (await quotas.draw("a", asked=0.2, most=0.2)).given
                await asyncio.sleep(0.01)

    async def test_a_budget_that_was_made_smaller_takes_nothing_back(self, quotas: Quotas) -> None:
        await quotas.draw("a", asked=1_000.0, most=MOST)
        assert (await quotas.draw("a", asked=5.0, most=10.0)).given == 0.0

    async def test_a_budget_that_is_full_later_than_any_fills_with_time(self, quotas: Quotas, others: Quotas) -> None:
        """The clock was set back: it is not refused for so long."""
        await quotas.draw("a", asked=MOST, most=MOST)
        async with asyncio.timeout(30):
            while not (await others.draw("a", asked=0.05, most=0.1)).given:
                pass

    async def test_of_many_at_once_no_more_is_given_than_there_is(self, quotas: Quotas, others: Quotas) -> None:
        asked = [(quotas, others)[i % 2].draw("a", asked=500.0, most=MOST) for i in range(20)]
        assert sum(drawn.given for drawn in await asyncio.gather(*asked)) == pytest.approx(MOST, abs=60)
