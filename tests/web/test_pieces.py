"""Pieces: wherever reads begin and end, none has bytes of two parts."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cachesvc.web.pieces import Pieces

HEADS = [b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\nPUT / HTTP/1.1\r\n\r\n", b"a\r\n\r\n"]
CHUNKS = [b"0\r\n\r\n", b"1;a=b\r\nx\r\n0\r\n\r\n", b"1\r\nx\r\n0\r\nA: b\r\n\r\n"]
BODIES = [b"", b"x", b"\r\n\r\n", b"a\r\n\r\nb\r\n\r\n\r\n", b"\r\n\r"]

REQUESTS = st.tuples(
    st.sampled_from(HEADS), st.one_of(st.sampled_from(BODIES), st.sampled_from(CHUNKS).map(lambda body: (body,)))
)


@given(st.lists(REQUESTS, max_size=5), st.data())
def test_no_piece_has_bytes_of_two_parts(requests: list[tuple[bytes, bytes | tuple[bytes]]], data: st.DataObject) -> None:
    parts: list[tuple[str, bytes]] = []  # as the parser would tell them
    for head, body in requests:
        parts.append(("head", head))
        parts.append(("length", body) if isinstance(body, bytes) else ("chunks", body[0]))
    parts = [part for part in parts if part[1]]
    sent = b"".join(part for _, part in parts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(sent)))) | {0, len(sent)})
    pieces = Pieces()
    kind, left = parts[0] if parts else ("", b"")
    place = 0
    for start, end in pairwise(cuts):
        read, at = sent[start:end], 0
        while at < len(read):
            piece = pieces.cut(read, at)
            at += len(piece)
            assert piece
            assert left.startswith(piece)
            left = left.removeprefix(piece)
            if kind == "head":
                assert parts[place][1] == bytes(pieces.head) + left
            if left:
                continue
            place += 1
            after, left = parts[place] if place < len(parts) else ("head", b"")
            if kind == "head":
                pieces.head_ended({"length": len(left), "chunks": None}.get(after, 0))
            if after == "head":
                pieces.ended()
                assert not pieces.head
            kind = after
    assert place == len(parts)


def test_what_comes_around_a_body_is_counted() -> None:
    pieces = Pieces()
    pieces.cut(b"PUT / HTTP/1.1\r\n\r\n", 0)
    pieces.head_ended(None)
    for _ in range(1_000):  # the size of a chunk, and its end
        pieces.cut(b"1\r\nx\r\n", 0)
        pieces.body_came(1)
    assert pieces.around <= 0
    for _ in range(100):
        pieces.cut(b"1;%s\r\nx\r\n" % (b"a" * 100), 0)
        pieces.body_came(1)
    assert 7_000 < pieces.around < 8_000
