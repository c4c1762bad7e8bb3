"""Revocations: tokens that are not believed any more though they have not ended, and what a node knows of them.

The rule that must not break: one that is known is never taken back, whatever the log says or loses; it is forgotten when no
token that it is of can live any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import orjson

GRACE: Final = 300.0  # seconds past its time that one is kept: clocks differ
_TIDYING: Final = 60.0  # seconds between two looks for those past their time


class Revocation(NamedTuple):
    """Of the token with that id (`jti`); or, without one, of all of a subject that were issued up to a time (Unix seconds).

    After `until` no such token lives.
    """

    until: float
    token: str = ""
    subject: str = ""
    before: float = 0.0

    @property
    def name(self) -> str:
        """The same for what may stand in each other's place."""
        return f"token:{self.token}" if self.token else f"subject:{self.before!r}:{self.subject}"

    def past(self, now: float) -> bool:
        return self.until + GRACE < now


def pack_revocation(one: Revocation) -> bytes:
    """As bytes of which the greater are those of the later `until`."""
    return b"%020.6f" % one.until + orjson.dumps(list(one))


def unpack_revocation(packed: bytes) -> Revocation:
    return revocation_of(orjson.loads(packed[20:]))


def revocation_of(said: list[Any]) -> Revocation:
    """What was written down as a list; what a newer version added is passed over."""
    until, token, subject, before = said[:4]
    return Revocation(until, token, subject, before)


class Revocations:
    """Those in force on a node. Who is in `told` hears of each as it comes into force."""

    def __init__(self, known: Iterable[Revocation], now: Callable[[], float]) -> None:
        self.told: list[Callable[[], None]] = []
        self._now = now
        self._tidied = now()
        self._tokens: dict[str, Revocation] = {}
        self._subjects: dict[str, list[Revocation]] = {}
        self._size = 0
        self.add(known)

    def __len__(self) -> int:
        return self._size

    def add(self, some: Iterable[Revocation]) -> None:
        """They are in force from here on."""
        added = False
        for one in some:
            added = True
            if one.token:
                known = self._tokens.get(one.token)
                self._tokens[one.token] = max(known, one) if known is not None else one
            else:
                others = self._subjects.get(one.subject, [])
                # of one subject the later of two stands for both, if it also lasts as long
                if not any(other.before >= one.before and other.until >= one.until for other in others):
                    kept = [other for other in others if other.before > one.before or other.until > one.until]
                    self._subjects[one.subject] = [*kept, one]
        if added:
            self._tidy()
            for tell in list(self.told):
                tell()

    def cover(self, subject: str, token: str, issued_at: float) -> bool:
        """Whether a token is revoked."""
        if token and token in self._tokens:
            return True
        return any(issued_at <= one.before for one in self._subjects.get(subject, ()))

    def _tidy(self) -> None:
        now = self._now()
        if now - self._tidied >= _TIDYING:
            self._tidied = now
            self._tokens = {name: one for name, one in self._tokens.items() if not one.past(now)}
            left = {name: [one for one in some if not one.past(now)] for name, some in self._subjects.items()}
            self._subjects = {name: some for name, some in left.items() if some}
        self._size = len(self._tokens) + sum(map(len, self._subjects.values()))
