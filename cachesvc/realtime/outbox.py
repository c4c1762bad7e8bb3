"""Outbox: what is to be sent on one connection, bounded in bytes.

The rule that must not break: nothing is added past the limit, so a reader that stalls holds so much and no more. Answers and
control messages have a queue of their own, and go first. Where nothing waits, what is added goes out at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

_NONE: Final[deque[bytes]] = deque(maxlen=0)  # stands for a queue that was never needed: most connections are never behind


def nowhere(frame: bytes) -> bool:
    """A driver that sends nothing at once."""
    return False


class Outbox:
    """Two queues of frames; each holds up to `most` bytes. `straight` sends a frame now, or says that it cannot."""

    __slots__ = ("_answers", "_pushes", "answered", "most", "pushed", "straight")

    def __init__(self, most: int, straight: Callable[[bytes], bool] = nowhere) -> None:
        self.most = most
        self.straight = straight
        self.pushed = 0  # bytes of pushed messages that wait
        self.answered = 0
        self._pushes = _NONE
        self._answers = _NONE

    def __len__(self) -> int:
        return len(self._pushes) + len(self._answers)

    @property
    def crowded(self) -> bool:
        """Whether a quarter of the room for answers is taken."""
        return self.answered * 4 > self.most

    def push(self, frame: bytes) -> bool:
        """Whether there was room."""
        if self.passed(frame):
            return True
        if self._pushes and self.pushed + len(frame) > self.most:
            return False
        if self._pushes is _NONE:
            self._pushes = deque()
        self._pushes.append(frame)
        self.pushed += len(frame)
        return True

    def passed(self, frame: bytes) -> bool:
        """Whether nothing waits, and so it went out at once."""
        return not (self._pushes or self._answers) and self.straight(frame)

    def answer(self, frame: bytes) -> bool:
        """Whether there was room."""
        if self._answers and self.answered + len(frame) > self.most:
            return False
        if self._answers is _NONE:
            self._answers = deque()
        self._answers.append(frame)
        self.answered += len(frame)
        return True

    def take(self) -> bytes | None:
        """The next frame to send."""
        if self._answers:
            frame = self._answers.popleft()
            self.answered -= len(frame)
            return frame
        if self._pushes:
            frame = self._pushes.popleft()
            self.pushed -= len(frame)
            return frame
        return None

    def clear(self) -> None:
        """Nothing of it can be sent any more."""
        self._pushes = self._answers = _NONE
        self.pushed = self.answered = 0
