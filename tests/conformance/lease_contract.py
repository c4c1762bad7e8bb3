"""The contract of leases, for any: a `leases` fixture, and `others`, the same place as another node reaches it."""

from __future__ import annotations

import asyncio

from cachesvc.ports import Leases

LONG, SHORT = 60.0, 0.05


class LeaseContract:
    """Who holds what, and for how long."""

    async def test_a_lease_has_one_holder(self, leases: Leases, others: Leases) -> None:
        assert await leases.acquire(["sweep"], "n1", LONG) == {"sweep": 0.0}
        assert 0 < (await others.acquire(["sweep"], "n2", LONG))["sweep"] <= LONG
        assert await leases.acquire(["sweep"], "n1", LONG) == {"sweep": 0.0}
        assert await others.acquire(["replay"], "n2", LONG) == {"replay": 0.0}
        await others.release(["sweep"], "n2")  # not its holder
        assert (await others.acquire(["sweep"], "n2", LONG))["sweep"] > 0
        await leases.release(["sweep"], "n1")
        assert await others.acquire(["sweep"], "n2", LONG) == {"sweep": 0.0}

    async def test_many_are_asked_for_at_once(self, leases: Leases, others: Leases) -> None:
        names = [f"load:ключ:{i}" for i in range(300)]
        await others.acquire(names[:100], "n2", LONG)
        left = await leases.acquire(names, "n1", LONG)
        assert set(left) == set(names)
        assert [name for name in names if not left[name]] == names[100:]
        assert all(0 < left[name] <= LONG for name in names[:100])
        await leases.release(names, "n1")
        assert [name for name, seconds in (await others.acquire(names, "n2", LONG)).items() if seconds] == []
        assert await leases.acquire([], "n1", LONG) == {}
        await leases.release([], "n1")

    async def test_of_many_who_ask_one_gets_the_lease(self, leases: Leases, others: Leases) -> None:
        asked = [(leases, others)[i % 2].acquire(["a", "b"] if i % 3 else ["b", "a"], f"n{i}", LONG) for i in range(10)]
        answers = await asyncio.gather(*asked)
        assert [sum(not answer[name] for answer in answers) for name in ("a", "b")] == [1, 1]

    async def test_a_lease_ends_and_is_renewed(self, leases: Leases, others: Leases) -> None:
        assert not (await leases.acquire(["sweep"], "n1", SHORT))["sweep"]
        async with asyncio.timeout(20):
            while (left := (await others.acquire(["sweep"], "n2", LONG))["sweep"]) > 0:
                assert left <= SHORT
                await asyncio.sleep(left / 4)
        assert (await leases.acquire(["sweep"], "n1", LONG))["sweep"] > SHORT

    async def test_a_lease_that_ends_later_than_any_is_free(self, leases: Leases, others: Leases) -> None:
        """It was taken before the clock was set back, by who may have died long ago."""
        await leases.acquire(["sweep"], "n1", 10 * LONG)
        assert await others.acquire(["sweep"], "n2", LONG) == {"sweep": 0.0}
        assert 0 < (await leases.acquire(["sweep"], "n1", LONG))["sweep"] <= LONG
