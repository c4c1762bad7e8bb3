"""A restore, over a cache that says what becomes of each draft."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cachesvc.engine.answers import Written
from cachesvc.engine.restore import Restoring
from cachesvc.errors import CacheError, OutcomeUnknown, Refusal, Refused, Unavailable
from cachesvc.model.change import Change, Draft, Operation, Receipt
from cachesvc.model.entry import JSON, Entry, content_hash
from cachesvc.model.job import Job
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Version

BACK = Written(Receipt(Operation.RESTORE, Version(9), True), "")


class Log:
    async def read(self, after: Position, limit: int) -> Sequence[Change]:
        return ()


class Cache:
    def __init__(self, outcomes: Sequence[Written | CacheError]) -> None:
        self.outcomes = outcomes

    async def write_many(self, drafts: Sequence[Draft]) -> list[Written | CacheError]:
        return list(self.outcomes)


ENTRIES = [Entry(Key(name), Version(5), b"1", JSON, 1.0, 1.0, None, content_hash(JSON, b"1")) for name in "abc"]


async def put(*outcomes: Written | CacheError) -> Job:
    return await Restoring(Cache(outcomes), Log(), None).put(Job("j", "restore", "a restore"), ENTRIES)


async def test_what_became_of_each_entry_is_counted() -> None:
    newer, later = (Refused(code, "key", "is newer") for code in (Refusal.VERSION_CONFLICT, Refusal.STALE_FILL))
    job = await put(BACK, newer, later)
    assert dict(job.counts) == {"restored": 1, "skipped": 1, "refused": 1}
    assert job.error_count == 0


@pytest.mark.parametrize("error", [Unavailable("away"), OutcomeUnknown("the connection was lost while committing")])
async def test_entries_of_which_nothing_is_known_are_put_back_again(error: CacheError) -> None:
    with pytest.raises(Unavailable):
        await put(BACK, error, error)
