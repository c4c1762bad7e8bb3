"""Call: one request of the data routes, and how its parts are read.

Everything that comes from outside is decoded strictly and once; what is not understood is refused by name, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from cachesvc.errors import Forbidden, InvalidInput
from cachesvc.model.keys import Key, parse_key
from cachesvc.protocol.codes import Code
from cachesvc.realtime.identity import ANONYMOUS, Identity
from cachesvc.web.problems import Problem, ProblemRaised
from cachesvc.web.service import Service

REQUEST_ID: Final = "cachesvc.request_id"  # of the scope
IDENTITY: Final = "cachesvc.identity"  # of the scope
SAID_ALL: Final = "cachesvc.said_all"  # of the scope: an event, set when the client says no more; it may listen still
KEPT: Final = "cachesvc.kept"  # of the scope: a client of HTTP/1.0 asks for its connection to be kept
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_MAX_PARAMETERS: Final = 1_000
_ENCODED: Final = Problem(
    415,
    Code.BAD_MESSAGE,
    "Content-Encoding: must be identity: a body is taken as it is",
    "Content-Encoding",
    headers={"Accept-Encoding": "identity"},
)

Query = Mapping[str, list[str]]


@dataclass(slots=True, eq=False)
class Call:
    """One request. While the outcome of a write is open, `writing` is its idempotency key, "" for none."""

    service: Service
    scope: Scope
    receive: Receive
    send: Send
    headers: Mapping[str, str]
    writing: str | None = None

    @property
    def identity(self) -> Identity:
        """Who asks; everything is allowed where nobody is asked for credentials."""
        identity: Identity = self.scope.get(IDENTITY, ANONYMOUS)
        return identity

    @property
    def subject(self) -> str:
        return self.identity.subject

    def require(self, action: str, *keys: str) -> None:
        """Raises `Forbidden` unless the caller may do that to each of these keys."""
        for key in keys:
            if not self.identity.may(action, key):
                raise Forbidden(action, key)

    def require_all(self, action: str, glob: str) -> None:
        """Raises `Forbidden` unless the caller may do that to all that a glob matches."""
        if not self.identity.may_all(action, glob):
            raise Forbidden(action, glob)

    @property
    def request_id(self) -> str:
        return str(self.scope[REQUEST_ID])

    def key(self, prefix: int) -> Key:
        """The key that the raw path has after its first `prefix` bytes."""
        return parse_key(decoded(raw_path(self.scope)[prefix:], "key"))

    def part(self, prefix: int, suffix: str = "") -> str:
        """What the raw path has after its first `prefix` bytes and before `suffix`, decoded."""
        return decoded(raw_path(self.scope)[prefix:].removesuffix(suffix.encode()), "id")

    def query(self, *allowed: str) -> Query:
        """The query's parameters; any but the allowed ones is refused."""
        return parse_query(self.scope["query_string"], allowed)

    async def body(self, limit: int) -> bytes:
        """The whole body; raises `InvalidInput` (too large) as soon as it is longer than `limit` bytes.

        One with a content coding is refused: it would be read as what it is not, or kept without saying what it is.
        """
        codings = self.headers.get("content-encoding", "").split(",")
        if any(coding.strip().lower() not in ("", "identity") for coding in codings):
            raise ProblemRaised(_ENCODED)
        length = self.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
            more = message.get("more_body", False)
        return b"".join(chunks)


def raw_path(scope: Scope) -> bytes:
    """The path as it was sent, still encoded."""
    raw = scope.get("raw_path")
    return raw if isinstance(raw, bytes) else quote(scope["path"]).encode()


def read_headers(scope: Scope) -> Mapping[str, str]:
    """The headers by lower-case name; those sent several times are joined, as RFC 9110 has it."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def parse_query(raw: bytes, allowed: Collection[str] | None = None) -> Query:
    """The parameters of a query string, strictly decoded, each with its values in order. Any but the allowed is refused."""
    parameters: dict[str, list[str]] = {}
    pieces = raw.split(b"&", _MAX_PARAMETERS)
    if len(pieces) > _MAX_PARAMETERS:
        raise InvalidInput("query", f"has over {_MAX_PARAMETERS} parameters")
    for piece in pieces:
        if piece:
            raw_name, _, raw_value = piece.replace(b"+", b" ").partition(b"=")
            name = decoded(raw_name, "query")
            parameters.setdefault(name, []).append(decoded(raw_value, name))
    for name in parameters:
        if allowed is not None and name not in allowed:
            raise InvalidInput(name, f"is not a parameter here; allowed: {', '.join(allowed) or 'none'}")
    return parameters


def single(query: Query, name: str) -> str | None:
    """The value of a parameter that may be given once."""
    values = query.get(name)
    if values is None:
        return None
    if len(values) > 1:
        raise InvalidInput(name, "is given more than once")
    return values[0]


def flag(query: Query, name: str, *, default: bool) -> bool:
    value = single(query, name)
    if value is None:
        return default
    if value not in ("true", "false"):
        raise InvalidInput(name, "must be true or false")
    return value == "true"


def whole_number(query: Query, name: str, *, default: int, least: int, most: int) -> int:
    value = single(query, name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) <= 16 and least <= int(value) <= most):
        raise InvalidInput(name, f"must be a whole number from {least} to {most}")
    return int(value)


def decoded(raw: bytes, field: str) -> str:
    """What is percent-encoded, as text; raises `InvalidInput` naming `field` for what is not, or not UTF-8."""
    if _BAD_ESCAPE.search(raw):
        raise InvalidInput(field, "has a '%' that two hexadecimal digits do not follow", malformed=True)
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise InvalidInput(field, "is not UTF-8 when percent-decoded", malformed=True) from None


def _too_large(limit: int) -> InvalidInput:
    return InvalidInput("body", f"is larger than the limit of {limit} bytes", too_large=True)
