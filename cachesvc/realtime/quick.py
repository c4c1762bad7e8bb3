"""Quick: a `cache:get` of what memory holds, answered in the turn in which it comes, without a model, a task or a time limit.

The rule that must not break: it is answered with the very bytes that the plain way (`commands.py`) would answer with, to whom
that would answer. Whatever is in any way unusual is left to the plain way, and so is all that is not in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from cachesvc.engine.leash import Leash
from cachesvc.errors import CacheError
from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key, parse_key
from cachesvc.ports import Clock
from cachesvc.protocol.frames import MAX_ID
from cachesvc.protocol.values import value_members
from cachesvc.realtime.replies import frame
from cachesvc.realtime.session import Session

_NAMED: Final = '"cache:get"'
_MEMBERS: Final = frozenset(("type", "payload", "requestId", "timestamp"))


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
        if _NAMED not in text:
            return False
        asked = _read(text)
        if asked is None or session.closing is not None:
            return False
        key, request = asked
        identity = session.identity
        if identity is None or not (identity.unrestricted or identity.may("read", key)):
            return False
        entry = self.cache.hit(key)
        if entry is None:
            return False
        now = self.clock.now()
        frozen = self.clock.monotonic() >= self.cache.leash.until  # meanwhile, or still
        if frozen or (session.meter is not None and not session.affords("cache:get")):
            return False
        ttl = entry.expires_at - now if entry.expires_at is not None else None
        session.reply(frame("cache:value", found(entry, ttl), now, answers=request))
        return True


def found(entry: Entry, ttl: float | None) -> dict[str, object]:
    """What is told of an entry that is there."""
    told: dict[str, object] = {"key": entry.key, "found": True, "version": entry.version, **value_members(entry)}
    if ttl is not None:
        told["ttl"] = round(ttl, 3)
    return told


def _read(text: str) -> tuple[Key, str | None] | None:
    """The key that is asked for and the request's id; None for what is to be read by its model."""
    try:
        members: Any = orjson.loads(text)
        if type(members) is not dict or members.get("type") != "cache:get" or not members.keys() <= _MEMBERS:
            return None
        payload, request = members.get("payload"), members.get("requestId")
        named = payload.get("key") if type(payload) is dict and len(payload) == 1 else None
        usual = request is None or (type(request) is str and 0 < len(request) <= MAX_ID)
        if not (usual and type(named) is str and isinstance(members.get("timestamp"), str | None)):
            return None
        return parse_key(named), request
    except (orjson.JSONDecodeError, CacheError):
        return None
