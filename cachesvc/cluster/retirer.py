"""Retirer: sweeps the authority of what a pattern killed, in paced steps, then retires the pattern.

The rule that must not break: a pattern is retired only when every key has been looked at. Until then it costs reads a
little, and nothing more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from cachesvc.engine.jobs import sweep_of
from cachesvc.errors import OutcomeUnknown, Refused, Unavailable
from cachesvc.model.change import Draft, invalidate
from cachesvc.model.invalidation import InForce, Invalidation
from cachesvc.ports import Authority, Burial, Clock

STEPS = 100  # at most, before the lease is looked at again


class Retirer:
    """One round at a time, by the node that holds the duty. `in_force` is what this node knows, `write` appends a draft.

    Batches of `batch` keys have pauses of at least `pause` seconds between them, and take no more than `share` of the time.
    """

    def __init__(
        self,
        authority: Authority,
        in_force: Callable[[], Iterable[InForce]],
        write: Callable[[Draft], Awaitable[object]],
        clock: Clock,
        *,
        batch: int,
        pause: float,
        share: float,
    ) -> None:
        self.retired = 0
        self._authority = authority
        self._in_force = in_force
        self._write = write
        self._clock = clock
        self._batch = batch
        self._pause = pause
        self._rest = (1.0 - share) / share  # seconds for every second of work

    async def step(self) -> None:
        """Go on with the oldest active pattern; it is kept with the pattern how far that came. Raises `Unavailable`."""
        one = min((one for one in self._in_force() if not one.retired), default=None, key=lambda held: held.sequence)
        if one is None:
            return
        for _ in range(STEPS):
            began = self._clock.monotonic()
            burial = await self._authority.bury(one, limit=self._batch)
            if burial.done:
                await self._retire(one, burial)
                return
            # nobody waits for the sweep: the slower the authority is, the longer it is left to others
            await self._clock.sleep(max(self._pause, (self._clock.monotonic() - began) * self._rest))

    async def _retire(self, one: InForce, burial: Burial) -> None:
        """From then on it is forgotten before long; what its sweep came to is kept."""
        named = Invalidation(one.pattern.text, retires=one.sequence, soft=one.soft)
        try:
            await self._write(invalidate(named, actor="sweep", source="sweep"))
        except Refused:
            return  # retired by another node, or a newer one took its place, which this node is about to hear
        except OutcomeUnknown as unknown:  # the next round finds out
            raise Unavailable(f"whether {one.pattern.text} was retired is not known: {unknown.reason}") from unknown
        self.retired += 1
        now = self._clock.now()
        await self._authority.keep_job(sweep_of(one, burial._replace(ended_at=now), now))
