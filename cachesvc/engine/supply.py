"""Supply: a module's loader behind its breaker and its hard limit, and how it fares."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from cachesvc.breaker import Breaker
from cachesvc.engine.load_terms import LoadTerms
from cachesvc.errors import Unavailable
from cachesvc.model.keys import Key
from cachesvc.ports import Clock, Loaded, Loader

FAILURES = 5  # calls in a row that fail, after which it is left alone for a while
_log = logging.getLogger(__name__)


class Supply:
    """One loader. `calls` are counted, and of the keys it was asked for: `loads`, `failures`, and `hits`, which it had."""

    def __init__(self, name: str, loader: Loader, terms: LoadTerms, clock: Clock) -> None:
        self.name = name
        self.terms = terms
        self.breaker = Breaker(clock, threshold=FAILURES)
        self.calls = 0
        self.loads = 0
        self.failures = 0
        self.hits = 0
        self._loader = loader

    @property
    def away(self) -> Unavailable:
        """What callers are told while it is left alone."""
        told = self.breaker.away(self.name)
        return Unavailable(f"loader {self.name}: failed, and is not asked again yet", retry_after=told.retry_after)

    async def call(self, keys: Sequence[Key]) -> Mapping[Key, Loaded | Unavailable]:
        """What it has of these keys; a failure of one stands in its place. Raises `Unavailable` when all failed."""
        if not self.breaker.allows():
            raise self.away
        self.calls += 1
        self.loads += len(keys)
        try:
            async with asyncio.timeout(self.terms.hard_timeout):
                loaded = await self._loader.load(keys)
        except Exception as exc:
            self.breaker.failed()
            self.failures += len(keys)
            raise self._told(exc) from exc
        except BaseException:
            self.breaker.abandoned()
            raise
        failed = sum(isinstance(value, Unavailable) for value in loaded.values())
        self.failures += failed
        self.hits += len(loaded) - failed
        if failed == len(keys):
            self.breaker.failed()
        else:
            self.breaker.succeeded()
        return loaded

    def _told(self, exc: Exception) -> Unavailable:
        if isinstance(exc, Unavailable):
            return exc
        if isinstance(exc, TimeoutError):
            return Unavailable(f"loader {self.name}: no answer within {self.terms.hard_timeout:g} s")
        _log.warning("a loader failed", extra={"loader": self.name}, exc_info=exc)
        return Unavailable(f"loader {self.name}: {type(exc).__name__}")
