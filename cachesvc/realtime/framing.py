"""Framing: the frames of one node's sessions, made once for all who are in step: one after the other, they are sent the very
same bytes, and what comes in batches is compressed once.
"""

from __future__ import annotations

from cachesvc.realtime.batches import packed
from cachesvc.realtime.told import Told


class Framing:
    """What was made last, a message and a batch of each compression."""

    __slots__ = ("_batches", "_frame", "_position", "_seq", "_told")

    def __init__(self) -> None:
        self._told: Told | None = None
        self._seq = self._position = 0
        self._frame = b""
        self._batches: dict[str, tuple[bytes, bytes]] = {}  # the messages, and the frame of them

    def frame(self, told: Told, seq: int, position: int) -> bytes:
        """The whole frame of a message, for one session."""
        if told is not self._told or seq != self._seq or position != self._position:
            self._told, self._seq, self._position = told, seq, position
            self._frame = told.frame(seq, position)
        return self._frame

    def batch(self, messages: bytes, compression: str, at: float, *, name: str) -> bytes:
        """The frame of a batch of messages, which are the array of them; their numbers give it its name."""
        known = self._batches.get(compression)
        if known is None or known[0] != messages:
            known = self._batches[compression] = messages, packed(messages, compression, at, name=name)
        return known[1]
