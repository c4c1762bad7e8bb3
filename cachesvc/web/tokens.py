"""Tokens: who a caller is, by a signed JSON Web Token (RFC 7519) as bearer (RFC 6750).

The rule that must not break: a key goes with its algorithm, and a token is only checked by keys of an allowed one; what the
token says of itself chooses among those and nothing else (RFC 8725, 3.1). A token that does not end is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

import jwt
import orjson

from cachesvc.errors import InvalidInput, SettingsError, TokenExpired, Unauthenticated, Unavailable
from cachesvc.model.revocation import Revocations
from cachesvc.ports import Clock
from cachesvc.protocol.algorithms import SYMMETRIC
from cachesvc.realtime.identity import Identity

_log = logging.getLogger(__name__)
MAX_TOKEN: Final = 8 << 10  # bytes
_MAX_KEYS: Final = 100
_SOON: Final = 10.0  # seconds between two askings for keys because of one that is not known
_REQUIRED: Final = ("exp", "iss", "aud", "sub")
_UNTOLD: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # what is no part of a name: as of keys


class Key(NamedTuple):
    """A key that tokens are checked with: its algorithm, its id ("" for none), and itself as PyJWT takes it."""

    algorithm: str
    id: str
    key: Any


class Tokens:
    """The doorman of `auth.mode = "jwt"`. What was checked is kept, in bounds, until it ends."""

    def __init__(
        self,
        keys: Sequence[Key],
        *,
        issuer: str,
        audience: str,
        leeway: float,
        most: int,
        clock: Clock,
        revocations: Revocations | None = None,
    ) -> None:
        self.checked = 0
        self.refused = 0
        self.unknown = False  # a token named a key that is not known: they may have been rotated
        self._own = list(keys)
        self._published: list[Key] = []
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        self._most = most
        self._clock = clock
        self._revocations = revocations if revocations is not None else Revocations((), clock.now)
        self._revocations.told.append(self._revoked)
        self._known: dict[bytes, Identity] = {}
        self._issued: set[Identity] = set()  # the same, to be found by whoever remembers one

    def greet(self, token: str | None) -> Identity | None:
        """By what came with a request or an upgrade; None when nothing did. Raises `Unauthenticated`."""
        return self.identity(token) if token is not None else None

    def authenticate(self, token: str, user_id: str) -> Identity:
        """By an `auth` message, whose `userId` is the token's subject. Raises `Unauthenticated`."""
        identity = self.identity(token)
        if identity.subject != user_id:
            raise Unauthenticated("userId is not the subject of the token")
        return identity

    def identity(self, token: str) -> Identity:
        """Whom a token stands for. Raises `Unauthenticated`, of which `TokenExpired` is one."""
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(digest)
        if known is not None:
            if known.live(self._clock.now() - self._leeway):
                return known
            self._forget(digest)
        identity = self._checked(token)
        while len(self._known) >= self._most:
            self._forget(next(iter(self._known)))
        self._known[digest] = identity
        self._issued.add(identity)
        return identity

    def knows(self, identity: Identity) -> bool:
        """Whether its token would still be believed, but for its time: its key may have been withdrawn."""
        return identity in self._issued

    def publish(self, keys: Sequence[Key]) -> None:
        """The keys that the issuer publishes now, in place of those of before; what was signed is checked anew."""
        self._published = list(keys[:_MAX_KEYS])
        self._known.clear()
        self._issued.clear()
        self.unknown = False

    def _revoked(self) -> None:
        """A revocation has come into force: what it is of is not remembered as believed any more."""
        for digest in [digest for digest, identity in self._known.items() if self._is_revoked(identity)]:
            self._forget(digest)

    def _is_revoked(self, identity: Identity) -> bool:
        return self._revocations.cover(identity.subject, identity.token_id, identity.issued_at)

    def _forget(self, digest: bytes) -> None:
        self._issued.discard(self._known.pop(digest))

    def _checked(self, token: str) -> Identity:
        self.checked += 1
        try:
            if len(token) > MAX_TOKEN:
                raise Unauthenticated("the token is too long")
            claims = self._claims(token)
            subject, name = _text(claims, "sub"), _text(claims, "jti", "")
            if not subject:
                raise Unauthenticated("the token's sub is empty")
            if _UNTOLD.search(subject):
                raise Unauthenticated("the token's sub has control characters, or lone surrogates")
            scopes = _text(claims, "scope", "").split()
            _time(claims, "nbf")
            identity = Identity(subject, scopes, _time(claims, "exp"), name, _time(claims, "iat"))
            if self._is_revoked(identity):
                raise Unauthenticated("the token was revoked")
            return identity
        except Unauthenticated:
            self.refused += 1
            raise
        except jwt.ExpiredSignatureError as exc:
            self.refused += 1
            raise TokenExpired("the token is not believed: it has expired") from exc
        except (jwt.PyJWTError, InvalidInput, ValueError, TypeError, KeyError, OverflowError) as exc:
            self.refused += 1
            raise Unauthenticated(f"the token is not believed: {_why(exc)}") from exc

    def _claims(self, token: str) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm, name = header.get("alg"), str(header.get("kid", ""))
        keys = [key for key in (*self._own, *self._published) if key.algorithm == algorithm]
        named = [key for key in keys if key.id == name]
        if not named and name:
            self.unknown = True
        failed: Exception = Unauthenticated("the token is of no key that is known here")
        for key in named or [key for key in keys if not key.id]:
            try:
                return jwt.decode(
                    token,
                    key.key,
                    algorithms=[key.algorithm],
                    issuer=self._issuer,
                    audience=self._audience,
                    leeway=self._leeway,
                    options={"require": list(_REQUIRED)},
                )
            except jwt.InvalidSignatureError as exc:  # of two secrets the other may be meant
                failed = exc
        raise failed


def _text(claims: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """A claim that is a text, as `sub`, `jti` and `scope` are (RFC 7519, RFC 8693)."""
    said = claims.get(name, default)
    if not isinstance(said, str):
        raise Unauthenticated(f"the token's {name} is no text")
    return said


def _time(claims: Mapping[str, Any], name: str) -> float:
    """A claim that is a time, in Unix seconds (RFC 7519's NumericDate); 0 where there is none."""
    said = claims.get(name, 0)
    if isinstance(said, bool) or not isinstance(said, int | float):
        raise Unauthenticated(f"the token's {name} is no number")
    return float(said)


def _why(exc: Exception) -> str:
    """In a few words that come from no client."""
    if isinstance(exc, jwt.ImmatureSignatureError):
        return "it is not valid yet"
    if isinstance(exc, jwt.InvalidIssuerError | jwt.InvalidAudienceError):
        return "it is by another issuer or for another audience"
    if isinstance(exc, jwt.MissingRequiredClaimError):
        return f"it says no {exc.claim}"
    if isinstance(exc, jwt.InvalidSignatureError):
        return "its signature is not of a key that is known here"
    return "it cannot be read"


def own_keys(algorithms: Sequence[str], secrets: Sequence[str], pems: Sequence[tuple[str, bytes]]) -> list[Key]:
    """The keys of the settings: secrets are HS256's, a PEM file is of the one allowed algorithm that fits it.

    Raises `SettingsError` for a file that no allowed algorithm takes.
    """
    keys = [Key(SYMMETRIC, "", secret.encode()) for secret in secrets]
    for name, pem in pems:
        for algorithm in algorithms:
            if algorithm == SYMMETRIC:
                continue
            try:
                keys.append(Key(algorithm, "", jwt.get_algorithm_by_name(algorithm).prepare_key(pem)))
                break
            except (jwt.PyJWTError, ValueError, TypeError):
                continue
        else:
            raise SettingsError("auth.public_keys", name, f"holds no public key of {', '.join(algorithms)}")
    return keys


def published_keys(document: bytes, algorithms: Sequence[str]) -> list[Key]:
    """The keys of a JWK set (RFC 7517) that are of an allowed algorithm, which may be none; never a symmetric one.

    Raises `ValueError` for what is no such set.
    """
    said = orjson.loads(document)
    if not isinstance(said, dict) or not isinstance(said.get("keys"), list):
        raise ValueError("is no JWK set")
    keys: list[Key] = []
    for jwk in said["keys"]:
        try:
            key = jwt.PyJWK.from_dict(jwk)
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError):
            continue  # a kind of key that is not for here
        if jwk.get("kty") != "oct" and jwk.get("use", "sig") == "sig" and key.algorithm_name in algorithms:
            keys.append(Key(key.algorithm_name, key.key_id or "", key.key))
    return keys


async def follow_keys(
    tokens: Tokens, fetch: Callable[[], Awaitable[bytes]], algorithms: Sequence[str], clock: Clock, *, interval: float
) -> None:
    """Ask for the published keys every so often, for ever, and soon after a token named one that is not known."""
    failing = empty = False
    while True:
        try:
            keys = published_keys(await fetch(), algorithms)
            tokens.publish(keys)
            if not keys and not empty:
                _log.warning("no key of an allowed algorithm is published: what was signed by such a key is refused")
            failing, empty = False, not keys
        except (Unavailable, ValueError) as exc:
            _log.log(logging.DEBUG if failing else logging.WARNING, "the keys of tokens could not be read: %s", exc)
            failing = True
        waited = 0.0
        while waited < interval and not (tokens.unknown and waited >= _SOON):
            await clock.sleep(_SOON / 10)
            waited += _SOON / 10
