from __future__ import annotations

from typing import Any

import pytest

from tests.load.checker import Checker
from tests.load.stream import Stream, matches


def update(seq: int, key: str, version: int, counter: int = 0, **more: Any) -> dict[str, Any]:
    value = {"counter": counter} if counter else None
    return {"type": "cache:update", "seq": seq, "version": version, "payload": {"key": key, "value": value}, **more}


def invalidated(seq: int, pattern: str, version: int) -> dict[str, Any]:
    return {"type": "cache:invalidate", "seq": seq, "version": version, "payload": {"pattern": pattern}}


def written(checker: Checker, key: str, version: int) -> int:
    write = checker.begin_write(key)
    checker.end_write(write, version)
    return write.counter


def test_a_stream_that_tells_everything() -> None:
    checker = Checker()
    stream = Stream(checker)
    counters = [written(checker, "a:1", 5), written(checker, "a:2", 6)]
    assert stream.take({"type": "ack"}) == 0
    assert stream.take(update(1, "a:1", 5, counters[0])) == counters[0]
    stream.take(update(2, "a:2", 6, counters[1], position=6))
    for delete in [checker.begin_delete("a:1")]:
        checker.end_delete(delete, 7)
    stream.take(invalidated(3, "a:*1", 7))
    stream.end()
    assert (checker.violations.total(), stream.told, stream.position) == (0, 3, 6)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([update(1, "a:1", 5), update(3, "a:1", 9)], "message 3 came after message 1"),
        ([update(1, "a:1", 9), update(2, "a:1", 9)], "version 9 was told after version 9"),
        ([update(1, "a:1", 9), update(2, "a:1", 8)], "version 8 was told after version 9"),
        ([update(1, "a:1", 9, 77)], "version 9 is value 77 and value 1"),
        ([update(1, "a:1", 5)], "version 9 was never told"),
        ([invalidated(1, "a:*2", 9)], "version 9 was never told"),
        ([], "version 9 was never told"),
    ],
)
def test_a_stream_that_does_not(frames: list[dict[str, Any]], said: str) -> None:
    checker = Checker()
    written(checker, "a:1", 9)
    stream = Stream(checker)
    for frame in frames:
        stream.take(frame)
    stream.end()
    assert any(said in text for text in checker.told)


@pytest.mark.parametrize(("pattern", "key", "does"), [("a:*1", "a:21", True), ("a:*1", "a:2", False), ("a*a", "a", False)])
def test_patterns_of_the_operator(pattern: str, key: str, does: bool) -> None:
    assert matches(pattern, key) is does
