"""The checker: knows what was acknowledged, and finds every read that is older.

What a read must show is taken down when it begins: an acknowledgement that arrives later proves nothing about it. And no
read is convicted on a guess: a deletion whose outcome is unknown excuses every miss of its key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Final, NamedTuple

DELETED: Final = 0  # the counter of a deletion; those of values start at 1
MAX_KEYS: Final = 200_000
_MAX_CONTENTS: Final = 16  # versions per key whose counter is remembered: the newest
_MAX_TOLD: Final = 20  # violations told in words; all are counted


class Read(NamedTuple):
    """A read that has begun: the newest version known by then, and up to which version the key is known to be gone."""

    key: str
    floor: int
    gone: int
    exact: bool


class Write(NamedTuple):
    """A write or deletion that has begun, with the counter its value carries."""

    key: str
    counter: int
    floor: int


@dataclass(slots=True)
class _Record:
    newest: int = 0  # of all changes known to be committed: acknowledged, or seen by a read
    deleted: int = 0  # the newest acknowledged deletion
    gone: int = 0  # a read that begins now and shows this version or an older one goes backwards
    deleting: int = 0  # deletions begun and not acknowledged: still on their way, or of unknown outcome
    contents: dict[int, int] = field(default_factory=dict)  # version -> counter


class Checker:
    """Versions and contents by key, for at most `max_keys` keys.

    With one node every read is exact. With several, a plain read may come from a node that has not followed yet: it
    is counted as lagged; one that sent the floor of its `begin_read` as `Min-Version` is exact.
    """

    def __init__(self, *, one_node: bool = True, max_keys: int = MAX_KEYS) -> None:
        self.violations: Counter[str] = Counter()
        self.told: list[str] = []
        self.checked = 0
        self.lagged = 0
        self._one_node = one_node
        self._max_keys = max_keys
        self._records: dict[str, _Record] = {}
        self._counters = count(DELETED + 1)

    def begin_read(self, key: str, *, exact: bool = False) -> Read:
        """`exact` says that the floor goes along as `Min-Version`; with one node every read is."""
        record = self._record(key)
        return Read(key, record.newest, record.gone, exact or self._one_node)

    def end_read(self, read: Read, version: int, counter: int, *, about: str | None = None) -> None:
        """The read was answered with the value `counter` of the key `about` (None: it names none) in `version`."""
        self.checked += 1
        record = self._record(read.key)
        if about != read.key:
            self.violated("content", f"{read.key}: the value is that of {about}")
        elif version < read.floor or version <= read.gone:
            self._old(read, f"version {version}")
        self.note(read.key, version, counter)
        record.newest = max(record.newest, version)

    def end_miss(self, read: Read) -> None:
        """The read was answered with 404."""
        self.checked += 1
        record = self._record(read.key)
        if read.floor and record.deleted < read.floor and not record.deleting:
            self._old(read, "no entry, and nobody deleted it,")
        elif self._one_node:
            record.gone = max(record.gone, read.floor)

    def begin_write(self, key: str) -> Write:
        return Write(key, next(self._counters), self._record(key).newest)

    def end_write(self, write: Write, version: int) -> None:
        """The write was acknowledged."""
        self._acknowledged(write, version)

    def begin_delete(self, key: str) -> Write:
        record = self._record(key)
        record.deleting += 1
        return Write(key, DELETED, record.newest)

    def end_delete(self, delete: Write, version: int) -> None:
        """The deletion was acknowledged; one that never is excuses misses of its key for good."""
        record = self._acknowledged(delete, version)
        record.deleting -= 1
        record.deleted = max(record.deleted, version)
        record.gone = max(record.gone, version)

    def _acknowledged(self, write: Write, version: int) -> _Record:
        record = self._record(write.key)
        if version <= write.floor:
            was = f"{write.key}: a write was given version {version}"
            self.violated("version", f"{was}, and {write.floor} was known before it began")
        self.note(write.key, version, write.counter)
        record.newest = max(record.newest, version)
        return record

    def newest(self) -> Iterator[tuple[str, int]]:
        """Each key that was written, with the newest version that is known to be committed."""
        return ((key, record.newest) for key, record in self._records.items() if record.newest)

    def note(self, key: str, version: int, counter: int) -> None:
        """A version has one content: of all reads that saw it and of the write that was told it."""
        contents = self._record(key).contents
        known = contents.setdefault(version, counter)
        if known != counter:
            self.violated("content", f"{key}: version {version} is value {counter} and value {known} ({DELETED} is none)")
        if len(contents) > _MAX_CONTENTS:
            del contents[min(contents)]

    def _old(self, read: Read, seen: str) -> None:
        if not read.exact:
            self.lagged += 1
            return
        known = f"version {read.floor}" if read.floor > read.gone else f"the deletion of version {read.gone}"
        self.violated("old", f"{read.key}: {seen} was read, after {known} was known")

    def violated(self, kind: str, text: str) -> None:
        self.violations[kind] += 1
        if len(self.told) < _MAX_TOLD:
            self.told.append(text)

    def _record(self, key: str) -> _Record:
        record = self._records.get(key)
        if record is None:
            if len(self._records) >= self._max_keys:
                raise ValueError(f"more than {self._max_keys} keys")
            record = self._records[key] = _Record()
        return record
