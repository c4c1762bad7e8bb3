"""Syncs: what is told of one, and when."""

from __future__ import annotations

from typing import Any

import orjson

from cachesvc.model.syncs import MOST, Sync


def told(sync: Sync, broken: str = "") -> dict[str, Any]:
    said = sync.next(broken)
    message: dict[str, Any] = orjson.loads(said.message) if said is not None else {}
    return message


def test_it_begins_goes_on_by_steps_and_ends_once() -> None:
    sync = Sync("s", 100)
    statuses = []
    for _ in range(100):
        statuses.append(told(sync).get("status"))
        sync.note(1)
    statuses += [told(sync).get("status"), told(sync).get("status")]
    assert [status for status in statuses if status] == ["started", *["progress"] * 9, "completed"]
    assert statuses[-1] is None


def test_what_is_wrong_is_told_but_not_without_end() -> None:
    sync = Sync("s", 100)
    assert told(sync)["status"] == "started"
    sync.note(99, *["UNAVAILABLE"] * 99)
    sync.note(1)
    end = told(sync)
    assert (end["status"], end["errors"], end["processed"]) == ("completed", ["UNAVAILABLE"] * MOST, 100)


def test_it_is_an_error_where_nothing_succeeded_or_it_broke_off() -> None:
    all_wrong, broken = Sync("s", 2), Sync("s", 2)
    all_wrong.note(2, "FORBIDDEN", "FORBIDDEN")
    assert told(all_wrong) == {"syncId": "s", "status": "started", "progress": 0.0, "processed": 0, "total": 2}
    assert told(all_wrong).items() >= {"status": "error", "progress": 1.0, "errors": ["FORBIDDEN"] * 2}.items()
    broken.note(1)
    assert told(broken, "cancelled").items() >= {"status": "error", "errors": ["cancelled"], "progress": 0.5}.items()
    assert told(broken) == {}


def test_one_that_is_gone_on_with_is_not_told_to_begin_again() -> None:
    sync = Sync("s", 10, processed=5, begun=True)
    assert told(sync)["status"] == "progress"


def test_nothing_to_do_is_done() -> None:
    sync = Sync("s", 0)
    assert told(sync).items() >= {"status": "started", "progress": 0.0, "processed": 0}.items()
    assert told(sync).items() >= {"status": "completed", "progress": 1.0, "processed": 0}.items()
    assert told(sync) == {}
