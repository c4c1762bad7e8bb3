"""The clock."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """The only source of time. Tests hand in one that stands still."""

    def now(self) -> float:
        """Unix seconds, of the authority as far as this node can tell. It decides expiry and nothing else."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards, for time limits and intervals."""
        ...

    async def sleep(self, seconds: float) -> None: ...
