"""What the tests of an authority are given and say: a store to open, drafts, and what became of them.

Nothing here knows an implementation.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from typing import Any, Protocol

from cachesvc.errors import Refusal, Refused
from cachesvc.model.change import (
    MAX_RECORDED_VALUE,
    Appended,
    Change,
    Draft,
    Operation,
    Receipt,
)
from cachesvc.model.entry import Entry
from cachesvc.model.fold_state import Terms
from cachesvc.model.keys import Key
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.position import Position, Version
from cachesvc.ports import Authority

TERMS = Terms(default_ttl=600.0, tombstone_ttl=600.0)
SHORT = 0.01
LONG = 3_600.0
EVERYTHING = parse_pattern("*")
KEYS = ["a", "task:42", "日本:🦊", "100%_of\\'em\"", "a b/c//d/../e", "_" * 512, "é" * 256, "{17}:x", "-", "*?[a]"]


class Store(Protocol):
    """A store of one kind, empty at first. Every `opened` is another handle of it, as another process has one."""

    shared: bool  # whether two handles may be open at once

    def opened(
        self, *, terms: Terms = TERMS, poll_interval: float = LONG, idempotency_ttl: float = LONG, nodes_kept: float = LONG
    ) -> AbstractAsyncContextManager[Authority]: ...


def put(key: str, value: bytes = b"1", **more: Any) -> Draft:
    return Draft(Operation.SET, Key(key), value, **more)


def delete(key: str, **more: Any) -> Draft:
    return Draft(Operation.DELETE, Key(key), **more)


def add(key: str, amount: str = "1", **more: Any) -> Draft:
    return Draft(Operation.INCREMENT, Key(key), amount=Decimal(amount), **more)


def fill(key: str, token: Position, value: bytes = b"1", **more: Any) -> Draft:
    return Draft(Operation.FILL, Key(key), value, token=token, **more)


def expire(key: str, version: int) -> Draft:
    return Draft(Operation.EXPIRE, Key(key), expected=Version(version))


def receipts(appended: Appended) -> list[Receipt]:
    """The outcomes, all of which are to be receipts."""
    found = [outcome for outcome in appended.outcomes if isinstance(outcome, Receipt)]
    assert len(found) == len(appended.outcomes), appended.outcomes
    return found


def refusal(appended: Appended, place: int = 0) -> Refusal:
    outcome = appended.outcomes[place]
    assert isinstance(outcome, Refused), outcome
    return outcome.code


async def append(authority: Authority, *drafts: Draft) -> Appended:
    return await authority.append(drafts, batch=f"{time.time_ns():032x}")


async def entry_at(authority: Authority, key: str) -> Entry | None:
    """The row, tombstones left out: an authority may show them or not."""
    found = (await authority.get([Key(key)], horizon=await authority.head())).get(Key(key))
    return None if found is None or found.deleted else found


async def values(authority: Authority, *keys: str) -> list[bytes | None]:
    found = [await entry_at(authority, key) for key in keys]
    return [entry.value if entry is not None else None for entry in found]


async def passed(authority: Authority, until: float) -> None:
    """Wait for the authority's clock."""
    async with asyncio.timeout(10):
        while await authority.time() <= until:
            await asyncio.sleep(0)


def as_recorded(change: Change) -> Change:
    """The change as the log gives it back: without a value that is too large to be recorded."""
    entry = change.entry
    if entry is None or len(entry.value) <= MAX_RECORDED_VALUE:
        return change
    return change._replace(entry=entry._replace(value=b""), value_held=False)
