"""Identity: who a client is and what it may do, asked on every inbound message and on every delivery.

Who decides is handed in (`Doorman`): nothing in the protocol knows what a token looks like.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from cachesvc.errors import InvalidInput
from cachesvc.model import entry
from cachesvc.model.pattern import Pattern, parse_pattern

ADMIN: Final = "admin"


class Identity:
    """A subject with its scopes: `admin`, which allows all, or `action:pattern`, as in `read:task:*`."""

    __slots__ = ("_allowed", "ends", "issued_at", "scopes", "subject", "token_id", "unrestricted")

    def __init__(
        self, subject: str, scopes: Iterable[str], ends: float = math.inf, token_id: str = "", issued_at: float = 0.0
    ) -> None:
        self.scopes = held = frozenset(scopes)
        self.subject = subject
        self.ends = ends  # Unix seconds
        self.token_id = token_id
        self.issued_at = issued_at  # Unix seconds; 0: that is not known
        self.unrestricted = ADMIN in held
        allowed: dict[str, list[Pattern]] = {}
        for scope in held:
            action, colon, glob = scope.partition(":")
            if colon:
                allowed.setdefault(action, []).append(parse_pattern(glob, field="scope"))
        self._allowed: Mapping[str, list[Pattern]] = allowed

    def live(self, now: float) -> bool:
        """Whether it has not ended."""
        return now < self.ends

    def continues(self, other: Identity) -> bool:
        """Whether it is the same subject, that may do the same."""
        return self.subject == other.subject and self.scopes == other.scopes

    def may(self, action: str, key: str) -> bool:
        """Whether the subject may do that to a key."""
        return self.unrestricted or any(pattern.matches(key) for pattern in self._allowed.get(action, ()))

    def may_all(self, action: str, glob: str) -> bool:
        """Whether it may do that to every key that a glob matches. In doubt it may not: only prefixes are compared."""
        if self.unrestricted:
            return True
        try:
            asked = parse_pattern(glob, field="resource")
        except InvalidInput:
            return self.may(action, glob)  # no glob, so it is a key
        if asked.exact:
            return self.may(action, asked.prefix)
        return any(allowed.covers(asked) for allowed in self._allowed.get(action, ()))


class Doorman(Protocol):
    """Who lets clients in."""

    def greet(self, token: str | None) -> Identity | None:
        """By what came with the upgrade; None: the client has yet to say who it is. Raises `Unauthenticated`."""
        ...

    def authenticate(self, token: str, user_id: str) -> Identity:
        """By an `auth` message. Raises `Unauthenticated`."""
        ...

    def knows(self, identity: Identity) -> bool:
        """Whether it would still be let in, but for its time: it was not revoked, nor its key."""
        ...


NOBODY: Final = Identity("", ())
ANONYMOUS: Final = Identity(entry.ANONYMOUS, (ADMIN,))


class OpenDoor:
    """The doorman of `auth.mode = "none"`: everyone is anonymous and may do all, whatever the token."""

    def greet(self, token: str | None) -> Identity | None:
        return ANONYMOUS

    def authenticate(self, token: str, user_id: str) -> Identity:
        return ANONYMOUS

    def knows(self, identity: Identity) -> bool:
        return True
