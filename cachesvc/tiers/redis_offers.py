"""Offers: entries on their way into Redis, cut into script calls.

The rule that must not break: a call is bounded in entries and in bytes, so that Redis is never held up for long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cachesvc.model.entry import Entry

MAX_CALL_ENTRIES: Final = 64
MAX_CALL_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Offer:
    """An entry on its way into Redis: its place in the call, its milliseconds to live (0: it is dead), its bytes."""

    place: int
    entry: Entry
    ttl: int
    stored: bytes


def calls(offers: Mapping[int, list[Offer]]) -> Iterator[list[tuple[int, list[Offer]]]]:
    """The offers by partition, cut into script calls of a bounded size, in order."""
    call: list[tuple[int, list[Offer]]] = []
    count = size = 0
    for number, mine in offers.items():
        batch: list[Offer] = []
        for offer in mine:
            if count and (count >= MAX_CALL_ENTRIES or size + len(offer.stored) > MAX_CALL_BYTES):
                if batch:
                    call.append((number, batch))
                yield call
                call, batch, count, size = [], [], 0, 0
            batch.append(offer)
            count += 1
            size += len(offer.stored)
        call.append((number, batch))
    if call:
        yield call
