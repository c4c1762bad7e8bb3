"""Numbers: which of the numbered messages of a connection have come, and the position that follows from them.

The rule that must not break: a position counts only once every message up to the one that told it has come. Answers overtake
what is pushed, so a message may come before one with a lower number.
"""

from __future__ import annotations


class Numbers:
    """Of one connection. All up to `whole` have come, hence every change up to `position`."""

    def __init__(self) -> None:
        self.whole = 0
        self.position = 0
        self._beyond: dict[int, int] = {}  # by number the position, past a hole

    @property
    def top(self) -> int:
        """The highest that has come."""
        return max(self._beyond, default=self.whole)

    def note(self, number: int, position: int) -> None:
        """A message has come."""
        if number <= self.whole:
            return
        self._beyond[number] = position
        while (reached := self._beyond.pop(self.whole + 1, None)) is not None:
            self.whole += 1
            self.position = max(self.position, reached)

    def holes(self) -> list[tuple[int, int]]:
        """The ranges that have not come, although a later number has; both ends are missing."""
        found = []
        start = self.whole + 1
        for number in sorted(self._beyond):
            if number > start:
                found.append((start, number - 1))
            start = number + 1
        return found

    def forgive(self, holes: list[tuple[int, int]]) -> None:
        """What is in these has come under other numbers."""
        for start, end in holes:
            for number in range(start, end + 1):
                self.note(number, 0)
