"""Duties: work that one node of a site does for all, held by lease.

A duty must do no harm when two nodes do it at once for a moment: a lease is a hint, not a lock.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from cachesvc.errors import Unavailable
from cachesvc.ports import Clock, Registry

_log = logging.getLogger(__name__)


class Duty:
    """Calls `work` every `interval` seconds while this node holds the lease of that name, which is renewed in between."""

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        *,
        registry: Registry,
        node: str,
        clock: Clock,
        interval: float,
        lease: float,
    ) -> None:
        self.name = name
        self.held = False
        self.failures = 0
        self._failing = False
        self._work = work
        self._registry = registry
        self._node = node
        self._clock = clock
        self._interval = interval
        self._lease = lease
        self._renew_at = 0.0
        self._due_at = 0.0

    async def run(self) -> None:
        """For ever; gives the lease up when the work fails, so that a node that fares better may take it."""
        while True:
            try:
                if await self._holds():
                    if self._clock.monotonic() >= self._due_at:
                        await self._work()
                        self._failing = False
                        self._due_at = self._clock.monotonic() + self._interval
                    await self._clock.sleep(min(self._due_at - self._clock.monotonic(), self._lease / 4))
                    continue
                self._due_at = 0.0
            except Unavailable as exc:
                self.failures += 1
                _log.log(logging.DEBUG if self._failing else logging.WARNING, "the duty %s failed: %s", self.name, exc)
                self._failing = True
                await self.resign()
            await self._clock.sleep(self._lease / 4)  # however seldom the work is due: the lease may be free, the fault over

    async def resign(self) -> None:
        """Let another node take over at once."""
        if not self.held:
            return
        self.held, self._due_at = False, 0.0
        try:
            await self._registry.release([self.name], self._node)
        except Unavailable:
            _log.info("the lease %s could not be released; it runs out", self.name)

    async def _holds(self) -> bool:
        now = self._clock.monotonic()
        if not self.held or now >= self._renew_at:
            self.held = not (await self._registry.acquire([self.name], self._node, self._lease))[self.name]
            self._renew_at = now + self._lease / 3
        return self.held
