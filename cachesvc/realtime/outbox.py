"""Outbox: what is to be sent on one connection, bounded in bytes.

The rule that must not break: nothing is added past the limit, so a reader that stalls holds so much and no more. Answers and
control messages have a queue of their own, and go first.
"""

from __future__ import annotations

from collections import deque


class Outbox:
    """Two queues of frames; each holds up to `most` bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.pushed = 0  # bytes of pushed messages that wait
        self.answered = 0
        self._pushes: deque[bytes] = deque()
        self._answers: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._pushes) + len(self._answers)

    @property
    def crowded(self) -> bool:
        """Whether a quarter of the room for answers is taken."""
        return self.answered * 4 > self.most

    def push(self, frame: bytes) -> bool:
        """Whether there was room."""
        if self._pushes and self.pushed + len(frame) > self.most:
            return False
        self._pushes.append(frame)
        self.pushed += len(frame)
        return True

    def answer(self, frame: bytes) -> bool:
        """Whether there was room."""
        if self._answers and self.answered + len(frame) > self.most:
            return False
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
        self._pushes.clear()
        self._answers.clear()
        self.pushed = self.answered = 0
