"""Identity: who a client is and what it may do, asked on every inbound message and on every delivery.

Who decides is handed in (`Doorman`): nothing in the protocol knows what a token looks like.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from cachesvc.model.pattern import Pattern, parse_pattern

ADMIN: Final = "admin"


class Identity:
    """A subject with its scopes: `admin`, which allows all, or `action:pattern`, as in `read:task:*`."""

    __slots__ = ("_allowed", "subject", "unrestricted")

    def __init__(self, subject: str, scopes: Iterable[str]) -> None:
        held = list(scopes)
        self.subject = subject
        self.unrestricted = ADMIN in held
        allowed: dict[str, list[Pattern]] = {}
        for scope in held:
            action, colon, glob = scope.partition(":")
            if colon:
                allowed.setdefault(action, []).append(parse_pattern(glob, field="scope"))
        self._allowed: Mapping[str, list[Pattern]] = allowed

    def may(self, action: str, resource: str) -> bool:
        """Whether the subject may do that to a key, or to all that a glob's text stands for."""
        return self.unrestricted or any(pattern.matches(resource) for pattern in self._allowed.get(action, ()))


class Doorman(Protocol):
    """Who lets clients in."""

    def greet(self, token: str | None) -> Identity | None:
        """By what came with the upgrade; None: the client has yet to say who it is. Raises `Unauthenticated`."""
        ...

    def authenticate(self, token: str, user_id: str) -> Identity:
        """By an `auth` message. Raises `Unauthenticated`."""
        ...


NOBODY: Final = Identity("", ())
ANONYMOUS: Final = Identity("anonymous", (ADMIN,))


class OpenDoor:
    """The doorman of `auth.mode = "none"`: everyone is anonymous and may do all, whatever the token."""

    def greet(self, token: str | None) -> Identity | None:
        return ANONYMOUS

    def authenticate(self, token: str, user_id: str) -> Identity:
        return ANONYMOUS
