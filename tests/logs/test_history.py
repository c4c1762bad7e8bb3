"""A log under which another history was put: noticed before anything is written to it, and where it is read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from cachesvc.errors import EpochChanged, TierUnavailable
from cachesvc.model.position import Gap, Position, Seq
from cachesvc.ports import Authority
from tests.backups import Backup, PostgresBackup, RedisBackup, SqliteBackup
from tests.conformance.authority_store import Store, append, put, refusal, values
from tests.conformance.authority_store import fill as filling
from tests.conformance.test_authorities import RedisStore
from tests.logs.database_store import DatabaseStore


@dataclass
class Restored:
    """A store, a handle that has seen all of it, and the backup that lacks the latest three changes."""

    store: Store
    backup: Backup
    authority: Authority
    kept: Position
    seen: Position

    async def written_past(self, count: int) -> None:
        """By somebody who knows nothing of what was lost."""
        async with self.store.opened() as other:
            await append(other, *(put(f"past:{number}", b'"past"') for number in range(count)))


@pytest.fixture(params=["sqlite", "postgres", "valkey"])
def kept_twice(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, Backup]:
    """A store of each kind, and how a backup of it is taken."""
    match request.param:
        case "sqlite":
            return DatabaseStore(f"sqlite:///{tmp_path}/cache.db", tmp_path), SqliteBackup(tmp_path / "cache.db")
        case "postgres":
            url = request.getfixturevalue("postgres_url")
            return DatabaseStore(url, tmp_path), PostgresBackup(url)
        case _:
            url = request.getfixturevalue("valkey_url")
            return RedisStore(url), RedisBackup(url)


@pytest.fixture
async def restored(kept_twice: tuple[Store, Backup]) -> AsyncIterator[Restored]:
    store, backup = kept_twice
    async with AsyncExitStack() as stack:
        authority = await stack.enter_async_context(store.opened())
        await append(authority, put("kept", b'"kept"'))
        kept = await authority.head()
        await backup.take()
        await append(authority, put("kept", b'"lost"'), put("lost:1"), put("lost:2"))
        seen = await authority.head()
        await backup.put_back()
        yield Restored(store, backup, authority, kept, seen)


PAST = pytest.mark.parametrize("past", [0, 2, 3, 9], ids="written past by {}".format)


@PAST
async def test_nothing_is_appended_to_another_history(restored: Restored, past: int) -> None:
    await restored.written_past(past)
    head = await restored.authority.head()
    with pytest.raises(TierUnavailable) as caught:
        await append(restored.authority, put("mine"))
    assert caught.value.answered
    assert await restored.authority.head() == head
    assert await values(restored.authority, "mine", "kept") == [None, b'"kept"']


@PAST
async def test_nothing_is_read_of_another_history(restored: Restored, past: int) -> None:
    await restored.written_past(past)
    for after in (restored.seen, restored.kept):
        with pytest.raises(EpochChanged) as caught:
            await restored.authority.read(after, 10)
        assert caught.value.history_lost


@PAST
async def test_a_new_epoch_numbers_on_past_both(restored: Restored, past: int) -> None:
    await restored.written_past(past)
    authority = restored.authority
    head = await authority.head()
    begun = await authority.new_epoch(restored.seen, kept=restored.kept.sequence)
    assert begun.epoch > max(restored.seen.sequence, head.sequence)
    standing = await authority.standing()
    assert (standing.position, list(standing.gaps)) == (begun, [Gap(Seq(restored.kept.sequence + 1), Seq(begun.epoch - 1))])
    appended = await append(authority, put("kept", b'"new"'))
    assert appended.before == begun
    assert list(await authority.read(begun, 10)) == list(appended.changes)
    async with restored.store.opened() as other:
        assert list((await other.standing()).gaps) == list(standing.gaps)
        for token in (restored.kept, restored.seen, Position(begun.epoch, Seq(begun.sequence + 100))):
            assert refusal(await append(other, filling("filled", token))).value == "STALE_FILL"


async def test_a_gap_for_each_loss_and_no_end_of_them(restored: Restored) -> None:
    authority = restored.authority
    first = await authority.new_epoch(restored.seen, kept=restored.kept.sequence)
    for _ in range(110):
        await authority.new_epoch((await authority.standing()).position)
    gaps = (await authority.standing()).gaps
    assert len(gaps) == 100
    assert gaps[0].first == restored.kept.sequence + 1
    assert gaps[0].last > first.epoch
    assert all(one.last < two.first for one, two in pairwise(gaps))


async def test_a_backup_from_before_the_epoch(restored: Restored) -> None:
    authority = restored.authority
    await authority.new_epoch(restored.seen)
    await authority.standing()
    await append(authority, put("later"))
    seen = await authority.head()
    await restored.backup.put_back()
    with pytest.raises(TierUnavailable):
        await append(authority, put("mine"))
    with pytest.raises(EpochChanged) as caught:
        await authority.read(seen, 10)
    assert caught.value.history_lost
    begun = await authority.new_epoch(seen, kept=restored.kept.sequence)
    assert begun.epoch > seen.sequence
    await authority.standing()
    await append(authority, put("mine"))


async def test_the_trail_tells_whose_changes_are_there(restored: Restored) -> None:
    async with restored.store.opened() as other:
        assert (await other.standing()).position == restored.kept
        trail = await other.trail([restored.kept.sequence, restored.seen.sequence, 1])
        assert set(trail.ids) == {restored.kept.sequence}
        changes = (await append(other, put("a"), put("b"))).changes
        trail = await other.trail([change.sequence for change in changes])
        assert trail.ids == {change.sequence: change.id for change in changes}
        assert (trail.head, trail.oldest) == (await other.head(), await other.oldest())
