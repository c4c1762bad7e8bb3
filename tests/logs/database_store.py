"""A database for the tests of the database authority."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from cachesvc.clock import SystemClock
from cachesvc.logs.database import DatabaseAuthority, opened
from cachesvc.model.fold_state import Terms

_TERMS = Terms(default_ttl=600.0, tombstone_ttl=600.0)
_LONG = 3_600.0


@dataclass
class DatabaseStore:
    """A database of either kind, by its URL."""

    url: str
    data_dir: Path
    indexed_fields: tuple[str, ...] = ()
    shared: bool = True
    timeout: float = 10.0

    def opened(
        self, *, terms: Terms = _TERMS, poll_interval: float = _LONG, idempotency_ttl: float = _LONG, nodes_kept: float = _LONG
    ) -> AbstractAsyncContextManager[DatabaseAuthority]:
        return opened(
            self.url,
            terms=terms,
            indexed_fields=self.indexed_fields,
            data_dir=self.data_dir,
            pool_size=3,
            timeout=self.timeout,
            poll_interval=poll_interval,
            idempotency_ttl=idempotency_ttl,
            nodes_kept=nodes_kept,
            clock=SystemClock(),
        )
