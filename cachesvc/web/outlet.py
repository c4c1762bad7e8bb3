"""Outlet: whole texts on their way to a transport, as frames (RFC 6455, 5.2: where nothing is compressed).

The rule that must not break: nothing is written while the transport holds as much as it may. It is small, and knows nothing
else, as a change to thousands of subscribers touches the outlet of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cachesvc.web.text_frames import framed

_MOST_CORKED: Final = 64  # messages
_LONGEST_CORKED: Final = 4 << 10


@dataclass(slots=True)
class Traffic:
    """What went through the sockets of a node."""

    received: int = 0
    sent: int = 0
    sent_bytes: int = 0
    text: bytes = b""  # the last one, and its frame: what goes to many at once is one piece of memory, which stays near
    frame: bytes = framed(b"")


class Outlet:
    """Of one socket; `send` writes to its transport. `paused` while that holds as much as it may."""

    __slots__ = ("_corked", "_send", "paused", "traffic")

    def __init__(self, send: Callable[[bytes], None], traffic: Traffic) -> None:
        self.paused = False
        self.traffic = traffic
        self._send = send
        self._corked: list[bytes] | None = None  # what was written since, to go out at once

    def write(self, text: bytes) -> bool:
        """Write a whole text; False where none fits now."""
        if self.paused:
            return False
        traffic = self.traffic
        if text is not traffic.text:
            traffic.text, traffic.frame = text, framed(text)
        if self._corked is None:
            self._send(traffic.frame)
        else:
            self._corked.append(traffic.frame)
            if len(self._corked) >= _MOST_CORKED or len(text) > _LONGEST_CORKED:
                self.uncork()
                self.cork()
        traffic.sent += 1
        traffic.sent_bytes += len(text)
        return True

    def cork(self) -> None:
        """Keep what is written from here on together."""
        if self._corked is None:
            self._corked = []

    def uncork(self) -> None:
        corked, self._corked = self._corked, None
        if corked:
            self._send(corked[0] if len(corked) == 1 else b"".join(corked))
