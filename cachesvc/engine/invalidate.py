"""Invalidate: one append, in force from then on; what a pattern killed is counted as it is swept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from cachesvc.engine.answers import Written
from cachesvc.errors import Unavailable
from cachesvc.model.change import Draft
from cachesvc.model.invalidation import InForce, Patterns
from cachesvc.ports import Burial

FIRST: Final = 1_000  # keys that are looked at before the answer: what is few is counted at once


class Invalidated(NamedTuple):
    """What an invalidation did.

    `matched` is how many entries it hit, None while a pattern's are not all counted, or where that is not remembered any more;
    `job` is the id of the sweep that counts and ends them, None where there is no pattern, or none that is remembered.
    """

    written: Written
    matched: int | None
    job: str | None

    def told(self) -> dict[str, object]:
        """As it is answered."""
        receipt = self.written.receipt
        return {
            "sequence": receipt.version,
            "operation": receipt.operation.value,
            "matched": self.matched,
            "cascaded": receipt.cascaded,
            "job": self.job,
        }


class Buries(Protocol):
    """Where what a pattern killed is ended: the authority."""

    async def bury(self, pattern: InForce, *, limit: int) -> Burial: ...

    async def burials(self) -> Mapping[InForce, Burial]: ...


class Floored(Protocol):
    @property
    def patterns(self) -> Patterns: ...


class Invalidating(Protocol):
    """What is needed of the cache."""

    @property
    def authority(self) -> Buries: ...

    @property
    def floors(self) -> Floored: ...

    async def write(self, draft: Draft) -> Written: ...


def job_of(pattern: InForce) -> str:
    """The id of the job that sweeps what a pattern killed."""
    return f"invalidation-{pattern.sequence}"


async def invalidate(cache: Invalidating, draft: Draft) -> Invalidated:
    """Append an invalidation. Raises `Refused`, `Unavailable`, `OutcomeUnknown`."""
    written = await cache.write(draft)
    receipt = written.receipt
    named = draft.invalidation
    if named is None or not named.pattern:
        return Invalidated(written, receipt.matched, None)
    one = cache.floors.patterns.find(named.name)
    try:
        if one is not None and not one.retired and one.sequence <= receipt.version:
            burial = await cache.authority.bury(one, limit=FIRST)
        else:  # swept already; one of the same name that came later has another count
            kept = await cache.authority.burials()
            told = {
                held: burial for held, burial in kept.items() if held.name == named.name and held.sequence <= receipt.version
            }
            one, burial = next(iter(told.items()), (None, Burial(done=False)))
    except Unavailable:  # it is in force all the same
        burial = Burial(done=False)
    matched = receipt.matched + burial.buried if burial.done else None
    return Invalidated(written, matched, job_of(one) if one is not None else None)
