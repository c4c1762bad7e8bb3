"""The write path: the drafts of a tick are one append to the log; then floors, memory, and on to Redis.

Floors are raised right after the append, before anything is awaited: from then on this node serves nothing older.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from cachesvc.breaker import Breaker
from cachesvc.engine.answers import Written
from cachesvc.engine.combine import Combiner
from cachesvc.engine.floors import Floors
from cachesvc.engine.puts import Puts
from cachesvc.errors import CacheError, OutcomeUnknown, Refusal, Refused
from cachesvc.model.change import Appended, Change, Draft, Kind, request_id
from cachesvc.model.invalidation import Invalidation
from cachesvc.ports import Authority, Clock, Memory


@dataclass(slots=True, eq=False)
class Wish:
    """A draft and the caller who waits for what becomes of it."""

    draft: Draft
    outcome: asyncio.Future[tuple[Written, Change | None] | CacheError]

    def answer(self, outcome: tuple[Written, Change | None] | CacheError) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def fail(self, error: Exception) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)


class Writes:
    """Writes of this node, one append at a time. `appended` is told of each append before its callers are."""

    def __init__(
        self,
        *,
        memory: Memory,
        authority: Authority,
        floors: Floors,
        puts: Puts,
        breaker: Breaker,
        invalidate: Callable[[Change, Invalidation], None],
        appended: Callable[[Appended], None],
        new_batch: Callable[[], str],
        clock: Clock,
        most: int,
        weight: int,
        pending: int,
        pending_weight: int,
    ) -> None:
        self._memory = memory
        self._authority = authority
        self._floors = floors
        self._puts = puts
        self._breaker = breaker
        self._invalidate = invalidate
        self._appended = appended
        self._new_batch = new_batch
        self.failure = ""  # why the last append failed, "" where it did not
        self._loop = asyncio.get_running_loop()  # asked for once: each time it is a system call
        self.combiner: Combiner[Wish] = Combiner(
            "writes",
            self._run,
            Wish.fail,
            most=most,
            pending=pending,
            lanes=1,
            now=clock.monotonic,
            weigh=lambda wish: 200 + _weight(wish.draft),
            weight=weight,
            pending_weight=pending_weight,
        )

    async def write(self, draft: Draft) -> tuple[Written, Change | None]:
        """Append one draft; what became of it. Raises `Refused`, `Unavailable`, `OutcomeUnknown`."""
        outcome = await self.ask(draft)
        if isinstance(outcome, CacheError):
            raise outcome
        return outcome

    def ask(self, draft: Draft) -> asyncio.Future[tuple[Written, Change | None] | CacheError]:
        """Queue a draft for the next append. Raises `Overloaded`, and `TierUnavailable` at once while the authority is away."""
        if self._breaker.refuses:
            raise self._breaker.away(self._authority.name)
        wish = Wish(draft, self._loop.create_future())
        self.combiner.add(wish)
        return wish.outcome

    async def _run(self, batch: list[Wish]) -> None:
        wishes: list[Wish] = []
        for wish in batch:
            named = wish.draft.invalidation
            if wishes and named is not None and named.looked_up:  # looked up in the state before an append's first draft
                await self._append(wishes)
                wishes = []
            wishes.append(wish)
        await self._append(wishes)

    async def _append(self, wishes: list[Wish]) -> None:
        wishes = [wish for wish in wishes if not wish.outcome.done()]
        if not wishes:
            return
        if not self._breaker.allows():
            for wish in wishes:
                wish.answer(self._breaker.away(self._authority.name))
            return
        batch_id = self._new_batch()
        try:
            appended = await self._authority.append([wish.draft for wish in wishes], batch=batch_id)
        except OutcomeUnknown as exc:
            self._breaker.failed()
            self.failure = exc.reason
            for place, wish in enumerate(wishes):
                wish.answer(OutcomeUnknown(exc.reason, request_id=request_id(batch_id, place)))
            return
        except CacheError as exc:
            self._breaker.failed_with(exc)
            self.failure = str(exc)
            for wish in wishes:
                wish.answer(exc)
            return
        except BaseException:
            self._breaker.abandoned()
            raise
        self._breaker.succeeded()
        self.failure = ""
        made = self._take_in(appended)
        for place, (wish, outcome) in enumerate(zip(wishes, appended.outcomes, strict=True)):
            replayed = place in appended.replayed
            if isinstance(outcome, Refused):
                again = replayed and outcome.code is not Refusal.KEY_REUSED
                wish.answer(_again(outcome) if again else outcome)
            else:
                asked = wish.draft.idempotency.key if replayed and wish.draft.idempotency else ""
                written = Written(outcome, asked or request_id(appended.batch, place), replayed)
                wish.answer((written, made.get(outcome.version)))

    def _take_in(self, appended: Appended) -> dict[int, Change]:
        """What was committed is the floor from now on, and what memory holds. No await in here."""
        floors, memory, puts = self._floors, self._memory, self._puts
        # a value that the log does not hold is not here either: what is dropped below is read when it is asked for
        newest = {change.key: change.entry for change in appended.changes if change.entry is not None and change.value_held}
        if appended.before.epoch == floors.applied.epoch:
            # before its floor is raised, so that it takes the place of the older copy instead of coming after it
            before = appended.before  # it may have come late: then its token is old
            memory.store_all(e for e in newest.values() if floors.admits(e.key, e.version, before))
            puts.add_all(newest.values(), token=before)
        self._appended(appended)  # where nothing of others lies between, they have been applied by this
        same = appended.before.epoch == floors.applied.epoch
        for change in appended.changes:
            if same and floors.passed(change.sequence):
                continue
            if change.key is not None:
                floors.raise_to(change.key, change.sequence)
            elif change.invalidation is not None and change.kind is Kind.INVALIDATE:
                self._invalidate(change, change.invalidation)
        return {change.sequence: change for change in appended.changes}


def _again(refused: Refused) -> Refused:
    """The same refusal, as it is told to who asks again."""
    return Refused(refused.code, refused.field, refused.reason, current=refused.current, replayed=True)


def _weight(draft: Draft) -> int:
    """Bytes that a draft carries, about."""
    named = len(draft.invalidation.keys) if draft.invalidation is not None else 0
    said = len(draft.publication.message) if draft.publication is not None else 0
    return len(draft.value) + 300 * named + said
