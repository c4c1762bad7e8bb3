"""Sweeper: ends what is past its life and trims what is kept no longer, in paced batches.

An expiry is a change like any other: it goes through the log, at the version that was seen past its time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from cachesvc.errors import CacheError
from cachesvc.model.change import Draft, Operation
from cachesvc.ports import Authority, Retention

ROUNDS = 20  # batches a step at most, so that a step ends


class Sweeper:
    """One step at a time, by the node that holds the duty. `write_many` appends drafts, and returns what came of each.

    One whose key was written again meanwhile is refused: it lives on. What is past its life is ended `grace` seconds later,
    since it may be served stale until then.
    """

    def __init__(
        self,
        authority: Authority,
        write_many: Callable[[Sequence[Draft]], Awaitable[Sequence[object]]],
        *,
        retention: Retention,
        batch: int,
        grace: float = 0.0,
    ) -> None:
        self.expired = 0
        self.trimmed = 0
        self._authority = authority
        self._write_many = write_many
        self._retention = retention
        self._batch = batch
        self._grace = grace

    async def step(self) -> None:
        """End what is past its life, drop old tombstones and kept answers, trim the log: some batches of each."""
        for _ in range(ROUNDS):
            found = await self._authority.expired(limit=self._batch, past=self._grace)
            if found:
                outcomes = await self._write_many(
                    [Draft(Operation.EXPIRE, key, expected=version, source="sweep", actor="sweep") for key, version in found]
                )
                self.expired += sum(not isinstance(outcome, CacheError) for outcome in outcomes)
            dropped = await self._authority.sweep(limit=self._batch)
            if max(len(found), dropped) < self._batch:
                break
        self.trimmed += await self._authority.trim(self._retention)
