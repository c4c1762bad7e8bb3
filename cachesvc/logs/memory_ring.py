"""The ring of the memory authority: its latest changes, in the memory of the process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from cachesvc.errors import EpochChanged, LogTrimmed
from cachesvc.model.change import MAX_RECORDED_VALUE, Change, Kind
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import mark_of
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.ports import Retention

_MARK: Final = mark_of("")


class Ring:
    """The latest changes, all those after `since`, and the last write of them by key. Never more than `bounds` allows."""

    def __init__(self, first: Seq, bounds: Retention) -> None:
        self.last: dict[Key, Seq] = {}
        self._changes: deque[Change] = deque()
        self._marks: deque[tuple[Seq, Key]] = deque()
        self._bytes = 0
        self._bounds = bounds
        self.restart(first)

    def restart(self, first: Seq) -> None:
        """Empty, in the epoch that is named by its first sequence."""
        self.head = Position(Epoch(first), first)
        self.since = first
        self._changes.clear()
        self._marks.clear()
        self.last.clear()
        self._bytes = 0

    def extend(self, changes: Sequence[Change]) -> None:
        for change in changes:
            entry = change.entry
            if entry is not None and len(entry.value) > MAX_RECORDED_VALUE:
                change = change._replace(entry=entry._replace(value=b""), value_held=False)  # noqa: PLW2901
            self._changes.append(change)
            self._bytes += change.size
            if change.kind is not Kind.EXPIRE:  # which leaves nothing that what came before it could not know
                for key in change.touches:
                    self.last[key] = change.sequence
        self.head = Position(self.head.epoch, changes[-1].sequence)
        self.trim(self._bounds, before=0.0, limit=len(self._changes))

    def note(self, rows: Mapping[Key, Entry]) -> None:
        """The last change of what no record names: the marks of tags."""
        for key, row in rows.items():
            if key.startswith(_MARK):
                self._note(key, Seq(row.version))

    def mark(self, tags: Iterable[str], sequence: Seq) -> None:
        """What has these tags changed there, without a record of its own."""
        for tag in tags:
            self._note(mark_of(tag), sequence)

    def _note(self, mark: Key, sequence: Seq) -> None:
        self.last[mark] = max(sequence, self.last.get(mark, sequence))
        self._marks.append((sequence, mark))

    def read(self, after: Position, limit: int) -> list[Change]:
        if after.epoch != self.head.epoch or after.sequence > self.head.sequence:
            raise EpochChanged(after.epoch, self.head.epoch)
        if after.sequence < self.since:
            raise LogTrimmed(after.sequence, self.since)
        first = after.sequence - self.since  # sequences are dense
        return [self._changes[place] for place in range(first, min(first + limit, len(self._changes)))]

    def id_at(self, sequence: int) -> str:
        """The id of the change there, "" where none is held."""
        return self._changes[sequence - self.since - 1].id if self.since < sequence <= self.head.sequence else ""

    def at(self, sequences: Iterable[int]) -> Iterator[Change]:
        """The changes at those sequences that are held."""
        held = (sequence for sequence in sequences if self.since < sequence <= self.head.sequence)
        return (self._changes[sequence - self.since - 1] for sequence in held)

    def trim(self, retention: Retention, *, before: float, limit: int) -> int:
        """Drop up to `limit` of what is too much or older than `before`, never the last; how many."""
        changes = self._changes
        dropped = 0
        while len(changes) > 1 and dropped < limit:
            oldest = changes[0]
            if oldest.at >= before and len(changes) <= retention.count and self._bytes <= retention.bytes:
                break
            changes.popleft()
            dropped += 1
            self._bytes -= oldest.size
            self.since = oldest.sequence
            for key in oldest.touches:
                if self.last.get(key) == oldest.sequence:
                    del self.last[key]
        while self._marks and self._marks[0][0] <= self.since:
            version, key = self._marks.popleft()
            if self.last.get(key) == version:
                del self.last[key]
        return dropped
