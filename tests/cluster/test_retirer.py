"""The retirer, over an authority that notes what it is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cachesvc.cluster import retirer as module
from cachesvc.cluster.retirer import Retirer
from cachesvc.errors import CacheError, OutcomeUnknown, Refusal, Refused, Unavailable
from cachesvc.model.change import Draft
from cachesvc.model.invalidation import InForce, in_force
from cachesvc.model.job import Job, JobState
from cachesvc.model.position import Seq
from cachesvc.ports import Burial
from tests.fakes import FakeClock


class Authority:
    def __init__(self, pages: int) -> None:
        self.left = pages
        self.asked: list[tuple[str, int]] = []
        self.kept: list[Job] = []

    async def bury(self, pattern: InForce, *, limit: int) -> Burial:
        self.asked.append((pattern.pattern.text, limit))
        self.left -= 1
        return Burial(self.left <= 0, looked=len(self.asked) * limit, buried=len(self.asked))

    async def keep_job(self, job: Job) -> None:
        self.kept.append(job)


class Node:
    def __init__(self, pages: int, *patterns: InForce, fails: CacheError | None = None) -> None:
        self.authority = Authority(pages)
        self.patterns = patterns
        self.written: list[Draft] = []
        self.fails = fails
        authority: Any = self.authority
        self.clock = FakeClock()
        self.retirer = Retirer(authority, lambda: self.patterns, self.write, self.clock, batch=10, pause=0.0, share=0.2)

    async def write(self, draft: Draft) -> None:
        if self.fails is not None:
            raise self.fails
        self.written.append(draft)


OLD, NEW, DONE = in_force(Seq(5), "old*"), in_force(Seq(9), "new*"), in_force(Seq(1), "done*", retired=Seq(2))


async def test_the_oldest_active_one_is_swept_and_then_retired() -> None:
    node = Node(3, NEW, OLD, DONE)
    await node.retirer.step()
    assert node.authority.asked == [("old*", 10)] * 3
    [draft] = node.written
    assert draft.invalidation is not None
    assert (draft.operation, draft.invalidation.pattern, draft.invalidation.retires) == ("retire", "old*", 5)
    assert node.retirer.retired == 1
    [kept] = node.authority.kept
    assert (kept.id, kept.state, kept.total, kept.counts) == ("invalidation-5", JobState.DONE, 30, {"buried": 3})
    assert kept.ended_at == node.clock.now()


async def test_nothing_is_asked_where_none_is_active() -> None:
    node = Node(3, DONE)
    await node.retirer.step()
    assert (node.authority.asked, node.written) == ([], [])


async def test_a_long_sweep_is_gone_on_with_in_the_next_round() -> None:
    node = Node(module.STEPS + 1, OLD)
    await node.retirer.step()
    assert node.written == []
    await node.retirer.step()
    assert len(node.written) == 1


async def test_another_node_was_faster() -> None:
    node = Node(1, OLD, fails=Refused(Refusal.VERSION_CONFLICT, "pattern", "was retired by another node"))
    await node.retirer.step()
    assert node.retirer.retired == 0
    assert node.authority.kept == []


async def test_where_it_is_not_known_whether_it_was_retired_the_duty_fails_and_is_done_again() -> None:
    node = Node(1, OLD, fails=OutcomeUnknown("the connection was lost while committing"))
    with pytest.raises(Unavailable, match="old"):  # which ends no node, as any other error of a duty would
        await node.retirer.step()
    assert (node.retirer.retired, node.authority.kept) == (0, [])
    node.fails = None
    await node.retirer.step()
    assert (node.retirer.retired, len(node.written)) == (1, 1)


async def test_a_sweep_takes_its_share_of_the_time_and_no_more() -> None:
    node = Node(3, OLD)
    bury = node.authority.bury

    async def slowly(pattern: InForce, *, limit: int) -> Burial:
        node.clock.advance(2.0)
        return await bury(pattern, limit=limit)

    node.authority.bury = slowly  # type: ignore[method-assign] # as an authority under load
    began = node.clock.monotonic()
    stepping = asyncio.create_task(node.retirer.step())
    async with asyncio.timeout(10):
        while not stepping.done():
            await asyncio.sleep(0)
            if node.clock.sleepers:
                node.clock.advance(0.5)
    assert node.clock.monotonic() - began == 3 * 2.0 + 2 * 8.0
