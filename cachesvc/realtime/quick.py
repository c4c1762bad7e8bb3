"""Quick: a `cache:get` of what memory holds, answered in the turn in which it comes, without a model, a task or a time limit.

The rule that must not break: it is answered with the very bytes that the plain way (`commands.py`) would answer with, to whom
that would answer. Whatever is in any way unusual is left to the plain way, and so is all that is not in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from cachesvc.engine.leash import Leash
from cachesvc.model.entry import JSON, Entry
from cachesvc.model.keys import Key
from cachesvc.model.moments import moment
from cachesvc.ports import Clock
from cachesvc.protocol.frames import MAX_ID
from cachesvc.protocol.values import value_members
from cachesvc.realtime.replies import frame
from cachesvc.realtime.session import Session

_NAMED: Final = '"cache:get"'
_MEMBERS: Final = frozenset(("type", "payload", "requestId", "timestamp"))
_VALUE: Final = (  # as `frame` makes it, of an entry that is JSON
    b'{"type":"cache:value","payload":{"key":%b,"found":true,"version":%d,"contentType":"application/json","value":%b%b},'
    b'"timestamp":"%b"%b}'
)


class Hits(Protocol):
    """What is needed of the cache."""

    @property
    def leash(self) -> Leash: ...

    def hit(self, key: Key) -> Entry | None: ...


@dataclass(frozen=True, slots=True)
class Quick:
    """The quick way of a node."""

    cache: Hits
    clock: Clock

    def answers(self, session: Session, text: str) -> bool:
        """Whether a message was one for here, and is answered."""
        asked = _read(text) if _NAMED in text else None
        identity = session.client.identity
        if asked is None or identity is None or session.closing is not None:
            return False
        key, request = asked
        if not (identity.unrestricted or identity.may("read", key)) or not session.affords("cache:get"):
            return False
        entry = self.cache.hit(key)
        if entry is None:
            return False
        now = self.clock.now()
        if self.clock.monotonic() >= self.cache.leash.until:  # this node was frozen meanwhile, or is still
            return False
        session.pay("cache:get")
        session.reply(_rendered(entry, now, request))
        return True


def found(entry: Entry, ttl: float | None) -> dict[str, object]:
    """What is told of an entry that is there."""
    told: dict[str, object] = {"key": entry.key, "found": True, "version": entry.version, **value_members(entry)}
    if ttl is not None:
        told["ttl"] = _to_the_millisecond(ttl)
    return told


def _to_the_millisecond(seconds: float) -> float:
    """A fifth of what `round(seconds, 3)` costs, which finds the nearest decimal by long division."""
    return round(seconds * 1_000) / 1_000


def _rendered(entry: Entry, now: float, request: str | None) -> bytes:
    """The frame that tells of an entry, made without an object for each of its parts."""
    ttl = entry.expires_at - now if entry.expires_at is not None else None
    if entry.content_type != JSON:
        return frame("cache:value", found(entry, ttl), now, answers=request)
    left = b',"ttl":%b' % orjson.dumps(_to_the_millisecond(ttl)) if ttl is not None else b""
    answers = b',"correlationId":%b' % orjson.dumps(request) if request is not None else b""
    return _VALUE % (orjson.dumps(entry.key), entry.version, entry.value, left, moment(now).encode(), answers)


def _read(text: str) -> tuple[Key, str | None] | None:
    """What is asked for and the request's id; None for what is to be read by its model. That it is a key says who holds it."""
    try:
        members: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if type(members) is not dict or members.get("type") != "cache:get" or not _MEMBERS.issuperset(members):
        return None
    payload, request, at = members.get("payload"), members.get("requestId"), members.get("timestamp")
    if type(payload) is not dict or len(payload) != 1 or (at is not None and type(at) is not str):
        return None
    named = payload.get("key")
    if type(named) is not str or not (request is None or (type(request) is str and 0 < len(request) <= MAX_ID)):
        return None
    texts = len(members) + 3 + (request is not None) + (at is not None)  # the names and values; are there more, one came twice
    return (Key(named), request) if text.count('"') == 2 * texts else None
