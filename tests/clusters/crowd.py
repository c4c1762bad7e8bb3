"""A service over stores of several servers, with a crowd at work while something happens to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.faults.checker import check, repaired
from tests.faults.history import Kind, Outcome
from tests.faults.plan import Stores
from tests.faults.run import Result, until_ready, witnessed
from tests.faults.site import SETTINGS, Machine, Site

RATE = 50.0  # operations a second
LIMIT = 60.0  # seconds


async def until(so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT):
        while not await so():
            await asyncio.sleep(0.05)


class Crowd:
    """Two nodes, each a service, and clients that go on while something happens to the stores."""

    def __init__(self, directory: Path, database: str, redis_url: str) -> None:
        urls = {"levels__database__url": database, "levels__redis__url": redis_url}
        # an answer of a standby that confirms each commit takes its time
        self.machines = [
            Machine(directory / f"node-{n}", (), {**SETTINGS, **urls, "levels__database__timeout": "5"}) for n in range(2)
        ]
        self.site = Site(Stores.POSTGRES, self.machines, [], None, [], [])
        self.result = Result(Stores.POSTGRES, 1, 0.0)

    async def over(self, happening: Callable[[], Awaitable[None]]) -> Result:
        """What the clients saw of it, judged."""
        try:
            async with asyncio.TaskGroup() as group:
                for machine in self.machines:
                    group.create_task(asyncio.to_thread(machine.start))
            await witnessed(self.site, self.result, RATE, happening)
        finally:
            for machine in self.machines:
                await asyncio.to_thread(machine.kill)
        said = [line for machine in self.machines for line in machine.said]
        self.result.violations += [*check(self.result.history), *repaired(said)]
        return self.result

    async def whole(self) -> None:
        """Wait until every node believes all of Redis again."""
        await until_ready(self.site)

    async def served(self, more: int = 50) -> None:
        """Wait until so many more writes were acknowledged."""
        before = self._written()

        async def written() -> bool:
            return self._written() >= before + more

        await until(written)

    def _written(self) -> int:
        return sum(op.outcome is Outcome.OK and op.kind is not Kind.READ for op in self.result.history)
