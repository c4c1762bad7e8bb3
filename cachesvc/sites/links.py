"""Links: all other sites, followed by the one node of this site that holds the duty.

The rule that must not break: two nodes that do it at once for a moment do no harm, since what was taken in twice is news once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from cachesvc.ports import Clock
from cachesvc.sites.peer import Peer
from cachesvc.sites.report import SiteReport


class Links:
    """Follows the peers while `hold` is called often enough: until `lease` seconds after the last time."""

    def __init__(self, peers: Sequence[Peer], clock: Clock, *, lease: float) -> None:
        self.peers: Mapping[str, Peer] = {peer.name: peer for peer in peers}
        self._clock = clock
        self._lease = lease
        self._until = 0.0
        self._held = asyncio.Event()
        self._wanted = asyncio.Event()
        self._asked: dict[str, asyncio.Future[SiteReport]] = {}
        self._begun: set[str] = set()

    async def hold(self) -> None:
        """A step of the duty."""
        self._until = self._clock.monotonic() + self._lease
        self._held.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._held.wait()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(peer.run(), name=f"site {peer.name}") for peer in self.peers.values()]
                while (left := self._until - self._clock.monotonic()) > 0:
                    await self._clock.sleep(left)
                self._held.clear()
                for task in tasks:
                    task.cancel()

    async def ask(self, names: Sequence[str], *, within: float) -> tuple[dict[str, SiteReport], bool]:
        """Have these compared with by `run`; those done after `within` seconds at most, and whether these are all.

        One that is asked for already is joined.
        """
        for name in names:
            if name not in self._asked:
                self._asked[name] = asyncio.get_running_loop().create_future()
        asked = {name: self._asked[name] for name in names}
        self._wanted.set()
        await asyncio.wait(asked.values(), timeout=within)
        reports = {name: future.result() for name, future in asked.items() if future.done()}
        return reports, len(reports) == len(asked)

    async def serve(self) -> None:
        """Carry out what is asked for, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                for name in self._asked.keys() - self._begun:
                    self._begun.add(name)
                    group.create_task(self._compare(name))

    async def _compare(self, name: str) -> None:
        report = await self.peers[name].compare()
        self._begun.discard(name)
        self._asked.pop(name).set_result(report)
