"""How far the authority's clock is ahead of this machine's."""

from __future__ import annotations

from cachesvc.clock import SystemClock
from cachesvc.ports import Authority


async def authority_offset(authority: Authority, clock: SystemClock) -> float:
    """Seconds to add to this machine's time: from the asking, of three, whose answer came soonest (as NTP does, RFC 5905)."""
    best: tuple[float, float] | None = None
    for _ in range(3):
        asked = clock.monotonic()
        local = clock.now() - clock.offset
        theirs = await authority.time()
        took = clock.monotonic() - asked
        if best is None or took < best[0]:
            best = (took, theirs - (local + took / 2))
    assert best is not None
    return best[1]
