"""Pieces: what arrives on a connection, cut where heads and bodies end, so that each is judged by its own bytes.

The rule that must not break: no piece has bytes of two requests, nor of a head and of its body. The parser does not tell where
it stands; but a head, and a body of chunks with its trailers, end with an empty line, and any other body after its length.
"""

from __future__ import annotations

from typing import Final

_END: Final = b"\r\n\r\n"
_A_CHUNK: Final = 32  # bytes that may stand around a piece of a body: its size, and two ends of lines


class Pieces:
    """Of one connection. It is told where in a request the parser is: behind its head, in its body, at its end."""

    __slots__ = ("_in_head", "_left", "_seam", "around", "chunked", "head")

    def __init__(self) -> None:
        self.head = bytearray()  # as far as it is here
        self.around = 0  # bytes that came with a body and are none of it, over what its chunks need
        self.chunked = False  # the body, or the one before
        self._in_head = True
        self._left = 0  # bytes of a body whose length was said
        self._seam = b""  # the end of the piece before, where the end of this part may have begun

    def cut(self, data: bytes, at: int) -> bytes:
        """The piece that begins there."""
        if self._left:
            piece = data[at : at + self._left]
            self._left -= len(piece)
            return piece
        across = (self._seam + data[at : at + len(_END) - 1]).find(_END)
        within = data.find(_END, at)
        end = 0  # it goes on in the next read
        if across >= 0:
            end = at + across - len(self._seam) + len(_END)
        elif within >= 0:
            end = within + len(_END)
        piece = data[at:end] if end else data[at:]
        self._seam = b"" if end else (self._seam + piece)[1 - len(_END) :]
        if self._in_head:
            self.head += piece
        else:
            self.around = max(0, self.around) + len(piece)
        return piece

    def head_ended(self, length: int | None) -> None:
        """Behind it comes a body of so many bytes; None: in chunks."""
        self.head.clear()
        self._in_head, self.around = False, 0
        self.chunked, self._left = length is None, length or 0

    def body_came(self, size: int) -> None:
        self.around -= size + _A_CHUNK

    def ended(self) -> None:
        """What comes next is another request."""
        self._in_head, self._left, self._seam = True, 0, b""
