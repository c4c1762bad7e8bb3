"""The contract of jobs: kept as durably as the rest, one of a kind at a time, moved by who knows the last revision."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from cachesvc.errors import Overloaded
from cachesvc.model.job import MAX_ERRORS, Job, JobState
from cachesvc.ports import Authority
from tests.conformance.authority_store import Store


def job(name: str = "", **more: Any) -> Job:
    return Job(name or uuid4().hex, "warm", "all of it")._replace(**more)


async def added(authority: Authority, one: Job, body: bytes = b"body") -> Job:
    assert await authority.add_job(one, body, most=10) == one
    return one


class Jobs:
    """`ports.Jobs`."""

    async def test_a_job_is_found_as_it_was_given(self, authority: Authority, second: Authority) -> None:
        one = await added(
            authority,
            job(
                title="日本 %_'",
                same="s",
                place="here",
                created_at=1.5,
                total=7,
                counts={"warmed": 3},
                errors=(("k", "no"),),
                error_count=1,
                checkpoint="é",
            ),
            b"\0\xff",
        )
        for handle in (authority, second):
            assert await handle.find_job(one.id) == one
            assert await handle.job_body(one.id) == b"\0\xff"
            assert list(await handle.list_jobs(limit=10)) == [one]
            assert list(await handle.open_jobs()) == [one]
        assert await authority.find_job("other") is None
        assert await authority.job_body("other") is None

    async def test_the_same_job_is_there_once_until_it_has_ended(self, authority: Authority, second: Authority) -> None:
        one = await added(authority, job(same="x"))
        assert await second.add_job(job(same="x"), b"", most=10) == one
        await added(second, job(same="y"))
        running = one.moved(2.0)._replace(state=JobState.RUNNING)
        assert await authority.move_job(running)
        assert await second.add_job(job(same="x"), b"", most=10) == running
        assert await authority.move_job(running.ended(JobState.DONE, 3.0))
        await added(second, job(same="x"))

    async def test_there_are_only_so_many_that_have_not_ended(self, authority: Authority) -> None:
        one = await added(authority, job(same="x"))
        await added(authority, job())
        with pytest.raises(Overloaded):
            await authority.add_job(job(), b"", most=2)
        assert await authority.add_job(job(same="x"), b"", most=2) == one
        assert await authority.move_job(one.ended(JobState.CANCELLED, 1.0))
        assert await authority.add_job(job("late"), b"", most=2)

    async def test_who_does_not_know_the_last_revision_moves_nothing(self, authority: Authority, second: Authority) -> None:
        one = await added(authority, job())
        mine = one.moved(2.0).counted(warmed=3)
        assert await authority.move_job(mine)
        assert not await second.move_job(one.ended(JobState.FAILED, 3.0))
        assert not await second.move_job(one.ended(JobState.CANCELLED, 3.0))
        assert await second.find_job(one.id) == mine
        assert not await authority.move_job(job("nobody").moved(1.0))
        assert await authority.find_job("nobody") is None

    async def test_one_that_ended_has_no_body_and_is_moved_no_more(self, authority: Authority) -> None:
        one = await added(authority, job())
        ended = one.ended(JobState.FAILED, 2.0, reason="broken")
        assert await authority.move_job(ended)
        assert await authority.job_body(one.id) is None
        assert list(await authority.open_jobs()) == []
        assert await authority.find_job(one.id) == ended
        assert not await authority.move_job(one.moved(3.0))

    async def test_one_that_has_ended_elsewhere_is_kept_as_it_was_first_told(
        self, authority: Authority, second: Authority
    ) -> None:
        one = job(created_at=1.0).ended(JobState.DONE, 2.0)
        await authority.keep_job(one)
        await second.keep_job(one.counted(warmed=3))
        assert await second.find_job(one.id) == one
        assert list(await second.list_jobs(limit=10)) == [one]
        assert list(await authority.open_jobs()) == []
        assert await authority.forget_jobs(before=3.0, most=10) == 1
        assert await second.find_job(one.id) is None

    async def test_lists_begin_with_the_newest(self, authority: Authority) -> None:
        made = [await added(authority, job(created_at=float(place))) for place in range(4)]
        assert list(await authority.list_jobs(limit=3)) == made[:0:-1]
        assert list(await authority.open_jobs()) == made

    async def test_what_ended_long_ago_or_is_too_much_is_forgotten(self, authority: Authority) -> None:
        made = [await added(authority, job(created_at=float(place))) for place in range(5)]
        for one, at in zip(made[:4], (1.0, 10.0, 11.0, 12.0), strict=True):
            assert await authority.move_job(one.ended(JobState.DONE, at))
        assert await authority.forget_jobs(before=5.0, most=2) == 2
        assert [one.id for one in await authority.list_jobs(limit=10)] == [made[4].id, made[3].id, made[2].id]
        assert await authority.forget_jobs(before=5.0, most=2) == 0

    async def test_jobs_are_as_durable_as_their_authority(self, store: Store) -> None:
        if not store.shared:
            return
        one = job(same="x", errors=tuple((f"k{place}", "no") for place in range(MAX_ERRORS)))
        async with store.opened() as authority:
            await added(authority, one)
        async with store.opened() as authority:
            assert await authority.find_job(one.id) == one
            assert await authority.job_body(one.id) == b"body"
