"""What the engine is asked and what it answers: plain values, shared by HTTP and the socket."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from cachesvc.model.change import Receipt
from cachesvc.model.entry import Entry
from cachesvc.model.position import Position, Version


@dataclass(frozen=True, slots=True)
class Want:
    """How a key is to be read.

    `fresh` asks the authority itself (`no-cache`), and the loader where that has nothing; `only_cached` never calls a loader
    (`only-if-cached`); `max_stale` is how many seconds past its life an entry may be; `min_version` is the sequence that must
    have been applied here.
    """

    fresh: bool = False
    only_cached: bool = False
    max_stale: float = 0.0
    min_version: Version | None = None


ANY: Final = Want()


class Mark(StrEnum):
    """What has to be said of an answer beside where it was found."""

    NONE = ""
    REVALIDATING = "revalidating"  # past its life, and loaded anew behind the caller's back
    SLOW = "slow"  # past its life: what is newer was not loaded soon enough
    FAILED = "failed"  # past its time: what is newer could not be had
    NEGATIVE = "negative"  # the origin said a short while ago that there is nothing


class Answer(NamedTuple):
    """What a read found: the entry or None, the tier that had it (`"memory"`, `"redis"`, `"database"`, `"loader"`).

    `token` is the position before the read began: with a miss, what a client sends along with the value it then computes.
    `ttl` is what is left of its life in seconds, negative when stale, None for an entry that does not end.
    `stored` says that a loader's value was kept. An answer with a `mark` is given as it is: a policy allows it.
    """

    entry: Entry | None
    tier: str
    token: Position
    now: float
    stored: bool = False
    mark: Mark = Mark.NONE

    @property
    def live(self) -> bool:
        return self.entry is not None and self.entry.live(self.now)

    def within(self, max_stale: float) -> Answer:
        """The answer as it may be given: past its life by more than `max_stale` seconds it is a miss."""
        entry = self.entry
        if entry is None or self.mark or entry.live(self.now):
            return self
        if entry.deleted or entry.expires_at is None or self.now >= entry.expires_at + max_stale:
            return self._replace(entry=None)
        return self

    @property
    def ttl(self) -> float | None:
        if self.entry is None or self.entry.expires_at is None:
            return None
        return self.entry.expires_at - self.now


class Written(NamedTuple):
    """What a write did. `request_id`, sent as `Idempotency-Key`, is answered with the same again."""

    receipt: Receipt
    request_id: str
    replayed: bool = False
