"""Usual: requests as nearly all are, read by their bytes: whole, with headers that have one meaning, and of the data.

The rule that must not break: what is read here means what uvicorn's parser would make of it. Whatever is in any way unusual is
not read at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeVar

from cachesvc.errors import CacheError
from cachesvc.model.keys import MAX_KEY_BYTES, Key, parse_key
from cachesvc.model.position import Version
from cachesvc.realtime.identity import Doorman, Identity
from cachesvc.web.call import decoded
from cachesvc.web.conditions import unchanged
from cachesvc.web.heads import HOST
from cachesvc.web.protocol import HeadLimits
from cachesvc.web.routes import BATCH, ENTRY, READING

T = TypeVar("T")
_PREFIX: Final = b"/v1/cache/"
_LINE: Final = re.compile(  # no fragment
    rb"(GET|HEAD|PUT|POST|DELETE) ((?:/v1/cache/|(/v1/batch(?=[ ?])))[A-Za-z0-9%:._~!$&'()*+,;=@/-]{0,1536})"
    rb"(?:\?([A-Za-z0-9%:._~!$&'()*+,;=@/?-]*))? HTTP/1\.1\r\n"
)
_HEADERS: Final = re.compile(rb"(?:[A-Za-z-]+: ?[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?\r\n)+")
_LENGTH: Final = re.compile(r"[0-9]{1,8}")
_VERSION: Final = b" HTTP/1.1\r\n"
_END: Final = b"\r\n\r\n"
# Headers that say nothing to this service.
_SAY_NOTHING: Final = frozenset(
    ("accept", "accept-charset", "accept-encoding", "accept-language", "dnt", "origin", "priority", "referer", "sec-ch-ua",
     "sec-ch-ua-mobile", "sec-ch-ua-platform", "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "sec-fetch-user",
     "traceparent", "tracestate", "user-agent", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip",
     "x-request-id")
)  # fmt: skip
# Those that endpoints read. All others change what is answered, or may one day.
_ASK: Final = frozenset(("cache-control", "content-length", "fill-token", "idempotency-key", "if-match", "min-version"))
_OF_HITS: Final = _SAY_NOTHING | {"content-type", "if-none-match"}  # with which memory may answer
_FORWARDED: Final = frozenset(("x-forwarded-for", "x-forwarded-proto"))  # of whom it is, where uvicorn believes who says so
_KNOWN: Final = 2_000  # requests, and blocks of headers, that are remembered as they were sent
_LONGEST_KNOWN: Final = 1 << 10  # bytes of one


class Head(NamedTuple):
    """What a block of headers says: by whom it is, of how long a body, and whether memory may answer it."""

    headers: Mapping[str, str]
    identity: Identity
    length: int | None
    of_hits: bool
    conditional: bool

    def has(self, version: Version) -> bool:
        """Whether who asks has this version already."""
        return unchanged(self.headers, version)


class Request(NamedTuple):
    """A usual request, and how many bytes it has, of them `length` of its body. `key` where memory may answer it."""

    method: str
    key: Key | None
    head: Head
    size: int
    length: int
    route: str
    path: bytes
    query: bytes


class Usual:
    """The reader of a service's requests. Clients send the same again and again, so what was read is remembered."""

    def __init__(self, limits: HeadLimits, doorman: Doorman, *, by_address: bool) -> None:
        self._limits = limits
        self._doorman = doorman
        self._by_address = by_address  # what addresses ask for is counted, or told: then it matters whose they are
        self._heads: dict[bytes, Head | None] = {}
        self.known: dict[bytes, Request] = {}

    def read(self, data: bytes, at: int) -> Request | None:
        """The request that begins there; None where it is not usual. One that is all of `data` is `known` from then on."""
        found = _LINE.match(data, at)
        end = data.find(_END, found.end()) + 2 if found is not None else 1
        if found is None or end < len(_END):
            return None
        head = self._head(data[found.end() : end])
        if head is None or found.end() - found.start(2) - len(_VERSION) > self._limits.request_line:
            return None
        method, path, query = found[1].decode(), found[2], found[4]
        route, reading, length = BATCH if found[3] else ENTRY, method in READING, head.length or 0
        size = end + 2 + length - at
        if at + size > len(data) or (reading and head.length is not None):
            return None
        of_hits = reading and head.of_hits and route is ENTRY and query is None
        key = self._key(path[len(_PREFIX) :]) if of_hits else None
        request = Request(method, key, head, size, length, route, path, query or b"")
        if size == len(data) <= _LONGEST_KNOWN and not length:
            _remember(self.known, data, request)
        return request

    def stands(self, identity: Identity, now: float) -> bool:
        """Whether whom a remembered head is of would still be let in; else all that is remembered is forgotten."""
        if identity.live(now) and self._doorman.knows(identity):
            return True
        self._heads.clear()
        self.known.clear()
        return False

    def _head(self, headers: bytes) -> Head | None:
        try:
            return self._heads[headers]
        except KeyError:
            if len(headers) > _LONGEST_KNOWN:
                return None
            return _remember(self._heads, headers, self._read_head(headers))

    def _read_head(self, headers: bytes) -> Head | None:
        if not _HEADERS.fullmatch(headers):
            return None
        said: dict[str, str] = {}
        lines = headers.decode("ascii").split("\r\n")[:-1]
        for line in lines:
            name, _, value = line.partition(":")
            said[name.lower()] = value.strip(" \t")
        many = len(lines) > self._limits.headers or len(headers) > self._limits.header_bytes
        host = said.pop("host", None)
        if many or len(said) + 1 < len(lines) or host is None or not HOST.fullmatch(host.encode()):
            return None
        closes = said.pop("connection", "keep-alive").lower() != "keep-alive"
        told_elsewhere = self._by_address and not _FORWARDED.isdisjoint(said)
        scheme, _, token = said.pop("authorization", "").partition(" ")
        length = said.get("content-length")
        if closes or told_elsewhere or not said.keys() <= _OF_HITS | _ASK or (length and not _LENGTH.fullmatch(length)):
            return None
        try:
            identity = self._doorman.greet(token.strip() if scheme.lower() == "bearer" else None)
            unchanged(said, Version(0))
        except CacheError:
            return None
        if identity is None:
            return None
        of_hits = said.keys() <= _OF_HITS
        return Head(said, identity, int(length) if length else None, of_hits, "if-none-match" in said)

    def _key(self, target: bytes) -> Key | None:
        """The key of a target; None where its endpoint is to say what is wrong with it."""
        if b"%" not in target:
            return Key(target.decode("ascii")) if 0 < len(target) <= MAX_KEY_BYTES else None
        try:
            return parse_key(decoded(target, "key"))
        except CacheError:
            return None


def _remember(known: dict[bytes, T], sent: bytes, meant: T) -> T:
    """Bounded: what was remembered is forgotten, all of it, when there is too much."""
    if len(known) >= _KNOWN:
        known.clear()
    known[sent] = meant
    return meant
