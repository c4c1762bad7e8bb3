"""The contract of a change log: reading, following, trimming, and new epochs.

A wake-up may come or be lost: no test looks at how soon.
"""

from __future__ import annotations

import asyncio

import pytest

from cachesvc.errors import EpochChanged, LogTrimmed, Refusal
from cachesvc.logs.following import Bell
from cachesvc.model.change import (
    Change,
)
from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.ports import Authority, Retention
from tests.conformance.authority_store import LONG, SHORT, Store, add, append, delete, fill, passed, put, refusal, values


class Log:
    """`read`, `follow`, `trim` and `new_epoch`."""

    async def test_reading_goes_on_after_a_position(self, authority: Authority) -> None:
        start = await authority.head()
        assert await authority.oldest() <= start
        assert list(await authority.read(start, 10)) == []
        changes = (await append(authority, *(put(f"k{i}") for i in range(10)))).changes
        assert list(await authority.read(start, 4)) == list(changes[:4])
        assert list(await authority.read(Position(start.epoch, changes[3].sequence), 4)) == list(changes[4:8])
        assert list(await authority.read(await authority.head(), 4)) == []

    async def test_another_epoch_or_a_position_past_the_head_is_refused(self, authority: Authority) -> None:
        head = await authority.head()
        for wrong in (
            Position(Epoch(head.epoch - 1), head.sequence),
            Position(Epoch(head.epoch + 1), head.sequence),
            Position(head.epoch, Seq(head.sequence + 1)),
        ):
            with pytest.raises(EpochChanged):
                await authority.read(wrong, 10)

    async def test_before_the_oldest_is_refused(self, authority: Authority) -> None:
        oldest = await authority.oldest()
        with pytest.raises(LogTrimmed):
            await authority.read(Position(oldest.epoch, Seq(oldest.sequence - 1)), 10)

    async def test_trim_by_count(self, authority: Authority) -> None:
        start = await authority.head()
        changes = (await append(authority, *(put(f"k{i}") for i in range(20)))).changes
        dropped = 0
        while step := await authority.trim(Retention(count=5)):
            dropped += step
        assert dropped == 15
        assert await authority.oldest() == Position(start.epoch, changes[14].sequence)
        assert list(await authority.read(await authority.oldest(), 100)) == list(changes[15:])
        with pytest.raises(LogTrimmed) as caught:
            await authority.read(start, 100)
        assert caught.value.oldest == changes[14].sequence
        assert await values(authority, "k0") == [b"1"]

    @pytest.mark.parametrize(
        "retention", [Retention(bytes=1), Retention(age=SHORT), Retention(count=1)], ids=["bytes", "age", "count"]
    )
    async def test_trim_never_drops_the_last(self, authority: Authority, retention: Retention) -> None:
        start = await authority.head()
        assert await authority.trim(retention) == 0
        changes = (await append(authority, *(put(f"k{i}", b'"%s"' % (b"x" * 1_000)) for i in range(20)))).changes
        await passed(authority, await authority.time() + 2 * SHORT)
        while await authority.trim(retention):
            pass
        oldest = await authority.oldest()
        assert oldest == Position(start.epoch, changes[-2].sequence)
        assert list(await authority.read(oldest, 10)) == [changes[-1]]
        assert (await append(authority, put("k"))).changes[0].sequence == changes[-1].sequence + 1

    async def test_trim_keeps_what_is_within(self, authority: Authority) -> None:
        start = await authority.head()
        await append(authority, *(put(f"k{i}") for i in range(20)))
        assert await authority.trim(Retention(age=LONG, count=20, bytes=1 << 20)) == 0
        assert await authority.oldest() <= start

    async def test_trim_by_bytes_keeps_the_newest(self, authority: Authority) -> None:
        changes = (await append(authority, *(put(f"k{i}", b'"%s"' % (b"x" * 1_000)) for i in range(20)))).changes
        while await authority.trim(Retention(bytes=10_000)):
            pass
        kept = list(await authority.read(await authority.oldest(), 100))
        assert kept == list(changes[-len(kept) :])
        assert 1 < len(kept) < 11

    @pytest.mark.parametrize("wakes", [True, False], ids=["woken", "by polls"])
    async def test_following_misses_nothing(self, store: Store, monkeypatch: pytest.MonkeyPatch, wakes: bool) -> None:
        if not wakes:
            monkeypatch.setattr(Bell, "ring", lambda bell, sequence=0: None)
        async with asyncio.timeout(20), store.opened(poll_interval=LONG if wakes else SHORT) as authority:
            start = await authority.head()
            heard: list[Change] = []

            async def listen() -> None:
                async with authority.follow(start) as batches:
                    async for changes in batches:
                        assert changes
                        heard.extend(changes)
                        if len(heard) == 60:
                            return

            async with asyncio.TaskGroup() as group:
                group.create_task(listen())
                group.create_task(listen_until(authority, start, 60))
                for i in range(20):
                    await append(authority, put(f"k{i}"), add("n"), delete(f"k{i}"))
            assert heard == list(await authority.read(start, 1_000))

    async def test_following_what_another_handle_writes(self, authority: Authority, second: Authority) -> None:
        start = await authority.head()
        async with asyncio.timeout(20), authority.follow(start) as batches:
            for i in range(5):
                written = (await append(second, put(f"k{i}"))).changes
                assert list(await anext(batches)) == list(written)

    async def test_following_passes_over_what_is_known(self, authority: Authority) -> None:
        start = await authority.head()
        position = (await append(authority, put("known"))).changes[-1].sequence
        await append(authority, put("new"))
        known = Position(start.epoch, position)
        async with asyncio.timeout(20), authority.follow(start, known=lambda: known) as batches:
            assert [change.key for change in await anext(batches)] == ["new"]

    async def test_following_raises_as_read_does(self, authority: Authority) -> None:
        head = await authority.head()
        with pytest.raises(EpochChanged):
            async with authority.follow(Position(Epoch(head.epoch + 1), head.sequence)) as batches:
                await anext(batches)
        oldest = await authority.oldest()
        with pytest.raises(LogTrimmed):
            async with authority.follow(Position(oldest.epoch, Seq(oldest.sequence - 1))) as batches:
                await anext(batches)

    async def test_a_new_epoch(self, authority: Authority, second: Authority) -> None:
        await append(authority, put("k", b"1"))
        head = await authority.head()
        seen = Position(head.epoch, Seq(head.sequence + 1_000_000_000))
        first, again = await asyncio.gather(authority.new_epoch(seen), second.new_epoch(seen))
        assert first == again
        assert first.epoch > seen.epoch
        assert first.sequence > seen.sequence
        assert await authority.head() == await second.head() == await authority.oldest() == first
        with pytest.raises(EpochChanged):
            await authority.read(head, 10)
        assert await values(authority, "k") == [b"1"]
        assert refusal(await append(authority, fill("k", head))) is Refusal.STALE_FILL
        appended = await append(authority, put("k", b"2"))
        assert appended.before == first
        assert [change.sequence for change in appended.changes] == [first.sequence + 1]
        assert list(await second.read(first, 10)) == list(appended.changes)
        assert await authority.new_epoch(seen) == first  # who asks late starts there too

    async def test_following_ends_with_the_epoch(self, authority: Authority) -> None:
        head = await authority.head()
        async with asyncio.timeout(20), authority.follow(head) as batches:
            await authority.new_epoch(head)
            with pytest.raises(EpochChanged):
                await anext(batches)


async def listen_until(authority: Authority, start: Position, many: int) -> None:
    """Follow until so many changes have come: one of several listeners, none of which takes from another."""
    seen = 0
    async with authority.follow(start) as batches:
        async for changes in batches:
            seen += len(changes)
            if seen >= many:
                return
