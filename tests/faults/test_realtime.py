"""A short run of the scenario "realtime", and its checker, which convicts what is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest

from cachesvc.client.told import Missed
from cachesvc.protocol.envelope import Message
from cachesvc.protocol.messages import FROM_SERVER
from tests.faults.audience import Listener, Stored
from tests.faults.realtime import replay, run

SEED = 1


def test_every_view_is_what_is_stored(tmp_path: Path) -> None:
    outcome = run(SEED, 4.0, tmp_path, clients=8, rate=20.0)
    assert outcome.violations == [], replay(outcome)
    assert min(outcome.written, outcome.told, outcome.drops) > 0
    assert outcome.restarts


def told(kind: str, version: int, **payload: Any) -> Message:
    members = {"type": kind, "payload": payload, "timestamp": "", "version": version, "seq": version}
    return FROM_SERVER[kind].model_validate(members)


def task(version: int, value: Any, action: str = "updated") -> Message:
    return told("task:update", version, key="task:a:1", task=value, action=action, source="internal")


def published(version: int) -> Message:
    return told("publish", version, resource="task:news", message=1, published_by="ann")


STORED = {"task:a:1": (3, "new")}
WHOLE = [task(1, "old"), published(2), task(3, "new")]


@pytest.mark.parametrize(
    ("events", "wrong", "lacks"),
    [
        (WHOLE, "", ""),
        ([task(1, "old"), published(2)], "", r"task:a:1 is \(3, 'new'\)"),
        ([*WHOLE, task(4, None, "deleted")], "", "its view has None"),
        ([task(1, "old"), task(3, "new")], "", r"not told: \[2\]"),
        ([*WHOLE, published(2)], "version 2 was told twice", ""),
        ([published(2), task(3, "new"), task(1, "old")], "version 1 of task:a:1 was told after 3", ""),
    ],
)
def test_what_is_wrong_is_found(events: list[Message], wrong: str, lacks: str) -> None:
    listener = Listener(0, cast(Any, None), cast(Any, None), cast(Any, None), cast(Any, None))
    for event in events:
        listener._take(event)
    assert [wrong in found for found in listener.wrong] == [True] * bool(wrong)
    assert [bool(re.search(lacks, found)) for found in listener.lacks(STORED, {2})] == [True] * bool(lacks)


async def test_who_has_missed_something_may_have_missed_what_was_published_last() -> None:
    async def stored() -> Stored:
        return STORED

    async def head() -> int:
        return 5

    listener = Listener(0, cast(Any, None), cast(Any, None), stored, head)
    await listener._read_again(Missed("the log does not go back so far"))
    assert listener.lacks(STORED, {2, 5}) == []
    assert "not told: [6]" in listener.lacks(STORED, {2, 5, 6})[0]
