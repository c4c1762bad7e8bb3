"""Conflation: what a subscriber has not seen yet is told by what became of it.

The latest of an entity wins, a deletion beats an update, what was created and deleted unseen is nothing, a metric keeps what it
was first and sums what it moved, and a status that has changed is told with what became of the mail since. What stands for
itself (new mail, publications, invalidations) is never conflated, and what waited of its keys before it is not merged with what
comes after it: of each key everything is told in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Generic, TypeVar

from cachesvc.model.numbers import add_roughly
from cachesvc.model.pattern import parse_pattern
from cachesvc.realtime.told import CREATED, DELETED, UPDATED, Told

Owner = TypeVar("Owner")
_METRIC: Final = "dashboard:update"
_STATUS: Final = "email:status"


@dataclass(slots=True)
class Waiting(Generic[Owner]):
    """A message that waits: since which change, until when (monotonic seconds), and for whom."""

    told: Told
    oldest: int
    due: float
    owner: Owner


class Conflator(Generic[Owner]):
    """Messages of one session that are not sent yet, in the order of the oldest change that each stands for."""

    def __init__(self) -> None:
        self.size = 0  # bytes
        self.due: float | None = None  # no earlier is any of them
        self.seen = 0  # what was created up to here its client may have seen on another node, which was further
        self.vanished: int | None = None  # the oldest creation that was never told, nor its deletion
        self._waiting: dict[object, Waiting[Owner]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, told: Told) -> bool:
        """Whether something of the same entity waits."""
        return bool(told.entity) and told.entity in self._waiting

    @property
    def oldest(self) -> int | None:
        """The oldest change that nobody was told of."""
        return next((waiting.oldest for waiting in self._waiting.values()), None)

    def add(self, told: Told, due: float, owner: Owner, *, conflates: bool = True) -> None:
        """Keep a message until it is due, together with what waits of the same entity, or behind it."""
        name: object = told.entity if told.entity and conflates else told.version
        if not told.entity:
            self._part(told, due)
        elif not conflates and told in self:
            self._apart({told.entity}, due)
        known = self._waiting.get(name)
        if known is None:
            known = self._waiting[name] = Waiting(told, told.version, due, owner)
        else:
            self.size -= known.told.size
            merged = merge(known.told, told)
            if merged is None and known.oldest > self.seen:
                self.vanished = min(self.vanished or known.oldest, known.oldest)
                del self._waiting[name]
                return
            merged = merged or told
            known.told, known.due = merged, min(known.due, due)
        self.size += known.told.size
        self.due = known.due if self.due is None else min(self.due, known.due)

    def take(self, now: float) -> Waiting[Owner] | None:
        """The first that is due, gone from here."""
        if self.due is None or self.due > now:
            return None
        for name, waiting in self._waiting.items():
            if waiting.due <= now:
                del self._waiting[name]
                self.size -= waiting.told.size
                return waiting
        self.due = min((waiting.due for waiting in self._waiting.values()), default=None)
        return None

    def keep(self, wanted: Callable[[Told], bool]) -> None:
        """Drop what is not wanted any more."""
        self._waiting = {name: waiting for name, waiting in self._waiting.items() if wanted(waiting.told)}
        self.size = sum(waiting.told.size for waiting in self._waiting.values())
        self.due = min((waiting.due for waiting in self._waiting.values()), default=None)

    def _part(self, told: Told, due: float) -> None:
        """What waits of the keys that a message names is told before it, as it is."""
        pattern = told.payload.get("pattern")
        glob = parse_pattern(pattern) if isinstance(pattern, str) else None
        keys = told.payload.get("keys", ())
        named = {told.resource, *keys} if isinstance(keys, list | tuple) else {told.resource}
        parted = {
            name
            for name in self._waiting
            if isinstance(name, str) and (name in named or (glob is not None and glob.matches(name)))
        }
        if parted:
            self._apart(parted, due)

    def _apart(self, names: Set[object], due: float) -> None:
        """What waits under these names is told no later than then, and nothing is merged with it any more."""
        for name in names:
            self._waiting[name].due = min(self._waiting[name].due, due)
        self._waiting = {waiting.told.version if name in names else name: waiting for name, waiting in self._waiting.items()}

    def clear(self) -> None:
        self._waiting.clear()
        self.size, self.due = 0, None


def merge(earlier: Told, later: Told) -> Told | None:
    """One message for two of the same entity, of which the first was not seen; None when there is nothing to tell."""
    if later.action == DELETED and earlier.action == CREATED:
        return None
    action = DELETED if later.action == DELETED else CREATED if earlier.action == CREATED else UPDATED
    if later.type == earlier.type == _METRIC:
        return later.changed(action, change=_moved(earlier, later))
    if earlier.type == _STATUS and later.type != _STATUS and _status_of(later.content) == earlier.payload["status"]:
        return _still(earlier, later)
    return later if later.action == action else later.changed(action)


def _status_of(content: object) -> object:
    return content.get("status") if isinstance(content, Mapping) else None


def _still(status: Told, later: Told) -> Told:
    """A status that became another, and is that after the mail has changed otherwise."""
    told = {name: status.payload[name] for name in ("messageId", "status", "changedBy")}
    common = {name: later.payload[name] for name in ("key", "contentType") if name in later.payload}
    return Told(
        status.type,
        {**told, "message": later.payload["value"], **common},
        version=later.version,
        epoch=later.epoch,
        at=later.at,
        resource=later.resource,
        entity=later.entity,
        action=later.action,
        content=later.content,
    )


def _moved(earlier: Told, later: Told) -> dict[str, object]:
    first, last = _change(earlier), _change(later)
    total = add_roughly(_delta(first), _delta(last))
    return {"previous": first["previous"], "current": last["current"], "delta": total}


def _change(told: Told) -> Mapping[str, object]:
    change = told.payload["change"]
    assert isinstance(change, Mapping)
    return change


def _delta(change: Mapping[str, object]) -> Decimal:
    delta = change["delta"]
    assert isinstance(delta, Decimal)
    return delta
