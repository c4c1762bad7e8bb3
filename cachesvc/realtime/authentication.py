"""Authentication: who the client of one session is, until when that is believed, and what it is asked for.

The rule that must not break: a challenge is signed once, by whom it was sent to, in its time; whatever comes back uses it up.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from cachesvc.errors import CacheError, TokenExpired, Unauthenticated
from cachesvc.model.moments import moment
from cachesvc.ports import Clock
from cachesvc.protocol.challenge import NODE_SUBJECT, Challenge
from cachesvc.protocol.codes import CloseCode
from cachesvc.protocol.frames import Auth
from cachesvc.realtime.identity import Doorman, Identity

NODE_SCOPES: Final = ("node:*", "read:*")  # of who has proven to be a node
_AGAIN: Final = 1.0  # seconds, at least, until another token is asked for after one that ends as soon


class AuthLimits(NamedTuple):
    """Seconds."""

    timeout: float = 10.0  # for the first message to say who the client is
    challenge: float = 30.0  # for a challenge to be signed
    notice: float = 30.0  # before the end of a token its client is asked for another
    grace: float = 25.0  # after it, for that to come


class Proofs(NamedTuple):
    """What may be asked for beside a token: secrets that nodes share, and those of whose token has one of these scopes.

    A subject that is in `sites` proves itself by the secret there and no other.
    """

    nodes: tuple[bytes, ...] = ()
    step_up: tuple[bytes, ...] = ()
    scopes: Collection[str] = ()
    sites: Mapping[str, bytes] = MappingProxyType({})

    def of_node(self, subject: str) -> tuple[bytes, ...]:
        return (self.sites[subject],) if subject in self.sites else self.nodes


NO_PROOFS: Final = Proofs()


class Names(NamedTuple):
    """The ids of a session, and the nonce of its challenge, which nobody can guess."""

    connection: str
    session: str
    nonce: str = ""


class Closing(NamedTuple):
    """Why the socket is to be closed, once what is in the outbox is sent."""

    code: CloseCode
    reason: str


class Rejected(Exception):
    """What came is not believed: what is answered, and how the connection ends."""

    def __init__(self, error: CacheError, closing: Closing) -> None:
        super().__init__(closing.reason)
        self.error = error
        self.closing = closing


class Authentication:
    """Of one session. `shown` came with the upgrade; a `node` has nothing to show, and asks to be challenged."""

    def __init__(
        self,
        names: Names,
        limits: AuthLimits,
        clock: Clock,
        doorman: Doorman,
        shown: Identity | None,
        *,
        proofs: Proofs,
        node: bool,
    ) -> None:
        self.identity: Identity | None = None
        self._names = names
        self._limits = limits
        self._clock = clock
        self._doorman = doorman
        self._shown = shown
        self._proofs = proofs
        self._node = node and shown is None
        self._opened_at = clock.monotonic()
        self._token_ends_at = math.inf  # by the monotonic clock
        self._challenge: Challenge | None = None
        self._challenged = 0
        self._renewing = False
        self._renewed_until = -math.inf  # by the monotonic clock; until then no other token is asked for

    def open(self) -> bool:
        """Whether the client is known already; if not, it may have to be asked."""
        if self._shown is not None and not self._must_prove(self._shown):
            self.believe(self._shown)
        return self.identity is not None

    @property
    def claimed(self) -> Identity | None:
        """Whom the client is, or has still to prove to be."""
        return self.identity or self._shown

    @property
    def asks(self) -> bool:
        """Whether a challenge is to be sent now."""
        return self.identity is None and not self._challenged and (self._node or self._shown is not None)

    def ask(self) -> dict[str, object]:
        """The payload of a challenge: to prove who one is, or, where that is known, for a token that ends later."""
        now = self._clock.now()
        self._challenged += 1
        if self.identity is not None:
            self._renewing = True
            nonce, ends = f"{self._names.nonce}-{self._challenged}", self.identity.ends + self._limits.grace
        else:
            self._opened_at = self._clock.monotonic()
            nonce, ends = self._names.nonce, now + self._limits.challenge
            self._challenge = Challenge(nonce, self._names.connection, moment(now))
        return {
            "nonce": nonce,
            "timestamp": moment(now),
            "expiresAt": moment(ends),
            "connectionId": self._names.connection,
        }

    def take(self, received: Auth) -> bool:
        """An `auth` came: whether the client is known now; if not, it must still prove that. Raises `Rejected`."""
        known = self.identity
        try:
            identity = self._authenticated(received)
            proven = known is not None or not self._must_prove(identity)
            if not proven and not self._proven(received, identity.subject, self._proofs.step_up):
                self._shown = identity
                return False
        except TokenExpired as error:
            raise Rejected(error, Closing(CloseCode.TOKEN_EXPIRED, "the token has expired")) from error
        except Unauthenticated as error:
            raise Rejected(error, Closing(CloseCode.BAD_TOKEN, "the token is not accepted")) from error
        if known is not None and not identity.continues(known):
            # what it subscribed to, and was sent, was by what it might read
            reason = "the token is of another subject, or has other scopes: connect anew with it"
            raise Rejected(Unauthenticated(reason), Closing(CloseCode.STATE_LOST, reason))
        self.believe(identity)
        return True

    def believe(self, identity: Identity) -> None:
        now, left = self._clock.monotonic(), identity.ends - self._clock.now()
        if self._renewing:  # the new one may be the same, or end as soon: it is not asked for with each message
            self._renewed_until = now + max(left / 2, _AGAIN)
        self.identity = identity
        self._token_ends_at = now + left
        self._renewing = False

    @property
    def due(self) -> float:
        """When the client must have said who it is, is asked to say it again, and must have said it again."""
        limits = self._limits
        if self.identity is None:
            return self._opened_at + (limits.challenge if self._challenged else limits.timeout)
        if self._renewing:
            return self._token_ends_at + limits.grace
        return max(self._token_ends_at - limits.notice, self._renewed_until)

    def end(self) -> Closing | None:
        """It is due: how the connection ends; None when it is to be asked first."""
        if self.identity is None:
            return Closing(CloseCode.AUTH_TIMEOUT, "no auth message came in time")
        if self._renewing:
            return Closing(CloseCode.TOKEN_EXPIRED, "the token has expired, and no other came")
        return None

    def _authenticated(self, received: Auth) -> Identity:
        if received.token or received.signature is None or self.identity is not None:
            return self._doorman.authenticate(received.token, received.user_id)
        if not self._node:  # the token came with the upgrade
            if self._shown is None or self._shown.subject != received.user_id:
                raise Unauthenticated("userId is not the subject of a token that was shown")
            return self._shown
        subject = received.user_id
        if not subject.startswith(NODE_SUBJECT) or not self._proven(received, subject, self._proofs.of_node(subject)):
            raise Unauthenticated("the challenge is not met")
        return Identity(subject, NODE_SCOPES, issued_at=self._clock.now())

    def _must_prove(self, identity: Identity) -> bool:
        return bool(self._proofs.step_up) and not identity.scopes.isdisjoint(self._proofs.scopes)

    def _proven(self, received: Auth, subject: str, secrets: tuple[bytes, ...]) -> bool:
        """Whether the challenge was met. False where none was sent yet; raises `Unauthenticated` where it was not met."""
        challenge, self._challenge = self._challenge, None
        if challenge is None:
            if self._challenged:
                raise Unauthenticated("the challenge was answered before")
            return False
        in_time = self._clock.monotonic() < self._opened_at + self._limits.challenge
        if received.signature is None or not in_time or not challenge.met(secrets, subject, received.signature):
            raise Unauthenticated("the challenge is not met")
        return True
