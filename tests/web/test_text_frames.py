"""Frames told apart by the connection itself, against the library alone: whatever comes, in whatever pieces, is taken alike."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest
import uvicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState
from websockets.frames import Opcode
from websockets.utils import apply_mask

from cachesvc.web.live_protocol import LiveProtocol, live_protocol
from cachesvc.web.text_frames import extent, framed, unmasked
from cachesvc.web.trial import Wire

MOST = 400
HANDSHAKE = (
    b"GET /v1/ws/realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def test_masks_are_taken_off_by_compiled_code_where_there_is_any() -> None:
    speedups = pytest.importorskip("websockets.speedups")
    assert unmasked.__globals__["apply_mask"] is speedups.apply_mask


class Echo:
    """Says each message back, so that the order of all that is written is seen."""

    def __init__(self, peer: LiveProtocol) -> None:
        self.peer = peer
        self.told: list[object] = []

    def received(self, data: str | bytes) -> None:
        self.told.append(data)
        self.peer.outlet.write(data.encode() if isinstance(data, str) else b"binary " + data)

    def writable(self) -> None:
        pass

    def lost(self) -> None:
        if self.told[-1:] != ["lost"]:
            self.told.append("lost")


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def accepted(early: bytes = b"") -> tuple[LiveProtocol, Wire]:
    """A connection to which nobody listens yet."""
    config = uvicorn.Config(_app, log_config=None, lifespan="off", ws_max_size=MOST, ws_per_message_deflate=False)
    config.load()
    peer = live_protocol()(config=config, server_state=ServerState(), app_state={})
    wire = Wire()
    peer.connection_made(wire)
    peer.data_received(HANDSHAKE)
    if early:
        peer.data_received(early)
    while not peer.handshake_complete:
        await asyncio.sleep(0)
    wire.written = b""
    return peer, wire


async def ended(peer: LiveProtocol, wire: Wire) -> None:
    wire.closed = True
    peer.connection_lost(None)
    await asyncio.gather(*peer.tasks)


async def taken(pieces: Sequence[bytes], *, split: bool, early: bytes = b"") -> tuple[list[object], bytes]:
    """What a listener is told of these pieces, and what is written."""
    peer, wire = await accepted(early)
    echo = Echo(peer)
    if not split:
        peer._split = False
    peer.listen(echo)
    for piece in pieces:
        if not wire.closed:
            peer.data_received(piece)
    told, written = list(echo.told), wire.written
    await ended(peer, wire)
    return told, written


def frame(opcode: int, data: bytes, *, fin: bool = True, masked: bool = True, rsv1: bool = False) -> bytes:
    """A frame, also one that the library would not make."""
    size = len(data)
    short = size if size < 126 else 126 if size < 1 << 16 else 127
    longer = {126: size.to_bytes(8, "big")[6:], 127: size.to_bytes(8, "big")}.get(short, b"")
    head = bytes([fin << 7 | rsv1 << 6 | opcode, masked << 7 | short]) + longer
    if not masked:
        return head + data
    return head + b"\x01\x02\x03\x04" + apply_mask(data, b"\x01\x02\x03\x04")


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds) if a < b]


_FRAMES = st.one_of(
    st.text(max_size=150).map(lambda text: frame(Opcode.TEXT, text.encode())),
    st.text(max_size=150).map(lambda text: frame(Opcode.TEXT, text.encode())),
    st.builds(
        frame,
        st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PING, Opcode.PONG]),
        st.binary(max_size=200),
        fin=st.booleans(),
        masked=st.sampled_from([True] * 9 + [False]),
        rsv1=st.sampled_from([False] * 9 + [True]),
    ),
    st.just(frame(Opcode.CLOSE, b"\x03\xe8")),
    st.binary(max_size=20),
    st.just(frame(Opcode.TEXT, b"x" * (MOST + 1))),
)


@settings(max_examples=90, deadline=None)
@given(frames=st.lists(_FRAMES, max_size=8), places=st.lists(st.integers(0, 5_000), max_size=12))
@example([frame(Opcode.TEXT, b"a", fin=False), frame(Opcode.TEXT, b"b")], [])
@example([frame(Opcode.TEXT, b"\xff"), frame(Opcode.TEXT, b"b")], [])
@example([frame(Opcode.TEXT, b"a" * 130), frame(Opcode.PING, b"p"), frame(Opcode.TEXT, b"b")], [1, 2, 3, 4, 5, 9, 137, 139])
async def test_whatever_comes_is_taken_as_the_library_takes_it(frames: list[bytes], places: list[int]) -> None:
    """The library is given one byte after the other, so that it takes each frame before it sees the next."""
    data = b"".join(frames)
    expected = await taken([data[at : at + 1] for at in range(len(data))], split=False)
    assert await taken([data], split=True) == expected
    assert await taken(cut(data, places), split=True) == expected


async def test_what_came_before_anyone_listened_is_told_first() -> None:
    early, rest = frame(Opcode.TEXT, b"early")[:9], frame(Opcode.TEXT, b"early")[9:] + frame(Opcode.TEXT, b"late")
    assert (await taken([rest], split=True, early=early))[0] == ["early", "late"]


@pytest.mark.parametrize("reads", [True, False])
async def test_a_flood_of_pings_leaves_others_their_turn(reads: bool) -> None:
    """And is not answered while its sender does not read."""
    peer, wire = await accepted()
    peer.listen(Echo(peer))
    if not reads:
        peer.pause_writing()
    peer.data_received(frame(Opcode.PING, b"p") * 1_000 + frame(Opcode.TEXT, b"last"))
    assert peer.read_paused
    if not reads:
        for _ in range(20):
            await asyncio.sleep(0)
        assert wire.written == b""
        peer.resume_writing()
    pong = frame(Opcode.PONG, b"p", masked=False)
    for _ in range(20):
        before = len(wire.written)
        await asyncio.sleep(0)
        assert len(wire.written) - before <= len(pong) * 64
    assert wire.written == pong * 1_000 + framed(b"last")
    assert not peer.read_paused
    await ended(peer, wire)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 70_000])
def test_what_is_framed_is_as_the_library_frames_it(size: int) -> None:
    text = b"x" * size
    assert framed(text) == frame(Opcode.TEXT, text, masked=False)
    sent = frame(Opcode.TEXT, text)
    for short in range(2 if size < 126 else 4):
        assert extent(sent[:short], 0) is None
    found = extent(b"12" + sent + b"3", 2)
    assert found is not None
    body, end, usual = found
    assert (end, usual) == (2 + len(sent), True)
    assert unmasked(b"12" + sent + b"3", body, end) == text
