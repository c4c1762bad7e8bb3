"""Server-sent events, from whatever pieces the bytes come in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachesvc.client import events
from cachesvc.client.events import Event, EventParser

STREAM = (
    "retry: 1000\nid: 1:1\n\n"
    ": a beat\n\n"
    'id: 1:2\nevent: write\ndata: {"a":"\u2028"}\n\n'
    "id: 1:3\r\ndata: one\r\ndata:two\r\n\r\n"
    "unknown: x\rdata\r\r"
    "id: 1:4\ndata: never finished"
).encode()
EVENTS = [
    Event("1:1", "", b""),
    Event("1:2", "write", '{"a":"\u2028"}'.encode()),
    Event("1:3", "", b"one\ntwo"),
    Event("1:3", "", b""),
]


@settings(max_examples=50)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_the_pieces_do_not_matter(cuts: list[int]) -> None:
    parser = EventParser()
    places = [0, *sorted(cuts), len(STREAM)]
    assert [event for a, b in pairwise(places) for event in parser.feed(STREAM[a:b])] == EVENTS


def test_an_event_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_EVENT", 1_000)
    parser = EventParser()
    for _ in range(9):
        list(parser.feed(b"data: " + b"x" * 100 + b"\n"))
    with pytest.raises(ValueError, match="larger than 1000"):
        list(parser.feed(b"data: " + b"x" * 100 + b"\n"))
