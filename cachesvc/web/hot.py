"""Hot: reads of what memory holds, answered where their bytes arrive, without a parser, a task or the application.

The rule that must not break: what is answered here is, byte for byte, what the plain route would answer, at a moment when
nothing before it on its connection is still to be answered. Whatever is in any way unusual is left to the plain route.
"""

from __future__ import annotations

import logging
import re
from itertools import count
from typing import Final, NamedTuple, Protocol, TypeVar
from uuid import uuid4

import uvicorn

from cachesvc.engine.leash import Leash
from cachesvc.errors import CacheError, TooManyRequests
from cachesvc.model.entry import Entry
from cachesvc.model.keys import MAX_KEY_BYTES, Key, parse_key
from cachesvc.model.position import Version
from cachesvc.observability.metrics import Metrics, place_of
from cachesvc.ports import Clock
from cachesvc.realtime.identity import ANONYMOUS, Doorman, Identity
from cachesvc.realtime.rates import Rates
from cachesvc.web.call import decoded
from cachesvc.web.conditions import unchanged
from cachesvc.web.heads import HOST
from cachesvc.web.hot_trial import works
from cachesvc.web.protocol import LimitedProtocol
from cachesvc.web.service import Service

T = TypeVar("T")
_log = logging.getLogger(__name__)
ROUTE: Final = "/v1/cache/{key}"
COUNTED_AS: Final = "/v1/cache"
_LINE: Final = re.compile(  # neither a query nor a fragment
    rb"(GET|HEAD) /v1/cache/([A-Za-z0-9%:._~!$&'()*+,;=@/-]{1,1536}) HTTP/1\.1\r\n"
)
_HEADERS: Final = re.compile(rb"(?:[A-Za-z-]+: ?[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?\r\n)+")
_END: Final = b"\r\n\r\n"
# Headers that say nothing to this service. All others change what is answered, or may one day.
_SAY_NOTHING: Final = frozenset(
    b"accept accept-charset accept-encoding accept-language content-type dnt origin priority referer sec-ch-ua sec-ch-ua-mobile"
    b" sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user traceparent tracestate user-agent"
    b" x-forwarded-for x-forwarded-host x-forwarded-proto x-real-ip x-request-id".split()
)
_FORWARDED: Final = frozenset((b"x-forwarded-for", b"x-forwarded-proto"))  # of whom it is, where uvicorn believes who says so
_KNOWN: Final = 2_000  # requests, and blocks of headers, that are remembered as they were sent
_LONGEST_KNOWN: Final = 1 << 10  # bytes of one
_AT_ONCE: Final = 256 << 10  # bytes of answers that are handed over together; then the client must have taken some

_OK: Final = (
    b'HTTP/1.1 200 OK\r\n%betag: "%d"\r\nage: %d\r\ncache-status: cachesvc; hit;%b detail=memory\r\n'
    b"cache-control: no-cache\r\nx-content-type-options: nosniff\r\ncontent-security-policy: sandbox\r\n"
    b"content-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n\r\n%b"
)
_NOT_MODIFIED: Final = (
    b'HTTP/1.1 304 Not Modified\r\n%betag: "%d"\r\nage: %d\r\ncache-status: cachesvc; hit;%b detail=memory\r\n'
    b"cache-control: no-cache\r\nx-request-id: %b\r\n\r\n"
)
_PLACES: Final = {(method, status): place_of(ROUTE, method, status) for method in ("GET", "HEAD") for status in (200, 304)}
_PATH: Final = "/v1/cache/"
_OURS: Final = uuid4().hex[:16].encode()  # the ids of this process' answers begin so
_numbers: Final = count(1)


class Head(NamedTuple):
    """What the headers of a usual request say: which versions its sender has already, None where it does not tell."""

    if_none_match: str | None
    identity: Identity = ANONYMOUS

    def has(self, version: Version) -> bool:
        return self.if_none_match is not None and unchanged({"if-none-match": self.if_none_match}, version)


class Asked(NamedTuple):
    """A usual request, and how many bytes it has."""

    key: Key
    method: str
    head: Head
    size: int


class Hits(Protocol):
    """What is needed of the cache."""

    @property
    def leash(self) -> Leash:
        """Until when it may be served."""
        ...

    def hit(self, key: Key) -> Entry | None:
        """The live entry that memory has, and may serve, now."""
        ...


class HotProtocol(LimitedProtocol):
    """A connection whose usual reads of what memory holds are answered at once. `hot` gives the class for a service."""

    hits: Hits
    clock: Clock
    metrics: Metrics
    doorman: Doorman
    rates: Rates | None
    heads: dict[bytes, Head | None]
    known: dict[bytes, Asked]
    _given: object = None  # by uvicorn: the headers of every answer, and below as bytes
    _rendered = b""

    def data_received(self, data: bytes) -> None:
        if self.between_requests() and not (self.access_log or self.flow.write_paused):
            done = self._serve(data)
            if done:
                self.heard()  # its client is there, though uvicorn was told of no request
                if done == len(data):
                    return
                data = data[done:]
        super().data_received(data)

    def _serve(self, data: bytes) -> int:
        """Answer the requests that `data` begins with, as many as can be; how many bytes they were."""
        began, now = self.clock.monotonic(), self.clock.now()
        answers: list[bytes] = []
        size = done = sent = 0
        asked = self.known.get(data) or self._asked(data, 0)  # what comes alone is often what came before
        while asked is not None:
            key, method, head, length = asked
            if head.identity is not ANONYMOUS and not self._may_read(head.identity, key, now):
                break
            entry = self.hits.hit(key)
            if entry is None:
                break
            if self.rates is not None and not self._paid(self.rates, head.identity):
                break
            ended = self.clock.monotonic()
            if ended >= self.hits.leash.until:  # this node was frozen: what it looked up before is not sent
                return sent
            done += length
            asked = self._asked(data, done) if done < len(data) else None
            status = 200 if head.if_none_match is None or not head.has(entry.version) else 304
            answers.append(self._answer(entry, now, status, bodiless=method == "HEAD"))
            self.metrics.note(_PLACES[method, status], ended - began)
            size += len(answers[-1])
            if size > _AT_ONCE:
                self.transport.write(b"".join(answers))
                answers.clear()
                size, sent = 0, done
                if self.flow.write_paused:
                    break
        if answers:
            self.transport.write(answers[0] if len(answers) == 1 else b"".join(answers))
        return done

    def _asked(self, data: bytes, at: int) -> Asked | None:
        """The usual request that is there; None where it is not for here."""
        found = _LINE.match(data, at)
        end = data.find(_END, found.end()) if found is not None else -1
        if found is None or end < 0:
            return None
        head = self._head(data[found.end() : end + 2])
        key = self._key(found[2]) if head is not None else None
        if head is None or key is None:
            return None
        asked = Asked(key, found[1].decode(), head, end + len(_END) - at)
        if asked.size == len(data) <= _LONGEST_KNOWN:
            _remember(self.known, data, asked)
        return asked

    def _head(self, headers: bytes) -> Head | None:
        """What a block of headers says; None where it is not for here. Clients send the same block again and again."""
        try:
            return self.heads[headers]
        except KeyError:
            if len(headers) > _LONGEST_KNOWN:
                return None
            return _remember(self.heads, headers, self._read(headers))

    def _read(self, headers: bytes) -> Head | None:
        if not _HEADERS.fullmatch(headers):
            return None
        said: dict[bytes, bytes] = {}
        lines = headers.split(b"\r\n")[:-1]
        for line in lines:
            name, _, value = line.partition(b":")
            said[name.lower()] = value.strip(b" \t")
        many = len(lines) > self.limits.headers or len(headers) > self.limits.header_bytes
        host = said.pop(b"host", None)
        if many or len(said) + 1 < len(lines) or host is None or not HOST.fullmatch(host):
            return None
        closes = said.pop(b"connection", b"keep-alive").lower() != b"keep-alive"
        counted_elsewhere = self.rates is not None and not _FORWARDED.isdisjoint(said)
        if closes or counted_elsewhere:
            return None
        match = said.pop(b"if-none-match", None)
        scheme, _, token = said.pop(b"authorization", b"").decode("ascii").partition(" ")
        try:
            identity = self.doorman.greet(token.strip() if scheme.lower() == "bearer" else None)
            if identity is None:
                return None
            head = Head(match.decode("ascii") if match is not None else None, identity)
            head.has(Version(0))
        except CacheError:
            return None
        return head if said.keys() <= _SAY_NOTHING else None

    def _may_read(self, identity: Identity, key: Key, now: float) -> bool:
        """Whether whom a remembered head stands for may still, and this key. If not, the plain route says so."""
        if not (identity.unrestricted or identity.may("read", key)):
            return False
        if identity.live(now) and self.doorman.knows(identity):
            return True
        self.heads.clear()
        self.known.clear()
        return False

    def _paid(self, rates: Rates, identity: Identity) -> bool:
        """Whether the client's rate allows it. If not, the plain route says so."""
        try:
            rates.take(COUNTED_AS, user=identity.subject, address=self.client[0] if self.client else "")
        except TooManyRequests:
            return False
        return True

    def _key(self, target: bytes) -> Key | None:
        """The key of a target; None where the plain route is to say what is wrong with it."""
        if b"%" not in target:
            return Key(target.decode("ascii")) if len(target) <= MAX_KEY_BYTES else None
        if len(target) + len(_PATH) > self.limits.request_line:
            return None
        try:
            return parse_key(decoded(target, "key"))
        except CacheError:
            return None

    def _answer(self, entry: Entry, now: float, status: int, *, bodiless: bool) -> bytes:
        ttl = b" ttl=%d;" % ((entry.expires_at - now) // 1) if entry.expires_at is not None else b""
        age = max(0, int(now - entry.updated_at))
        number = b"%b%016x" % (_OURS, next(_numbers))
        if status == 304:
            return _NOT_MODIFIED % (self._dated(), entry.version, age, ttl, number)
        value, kind = entry.value, entry.content_type.encode("latin-1")
        return _OK % (self._dated(), entry.version, age, ttl, kind, len(value), number, b"" if bodiless else value)

    def _dated(self) -> bytes:
        """The headers that uvicorn gives to every answer; it makes new ones every second."""
        given = self.server_state.default_headers
        if self._given is not given:
            self._given = given
            self._rendered = b"".join(b"%b: %b\r\n" % header for header in given)
        return self._rendered


def _remember(known: dict[bytes, T], sent: bytes, meant: T) -> T:
    """Bounded: what was remembered is forgotten, all of it, when there is too much."""
    if len(known) >= _KNOWN:
        known.clear()
    known[sent] = meant
    return meant


def hot(plain: type[LimitedProtocol], service: Service) -> type[LimitedProtocol]:
    """The protocol `plain` with its reads of memory answered at once; `plain` itself where uvicorn is not as it was."""
    parts = {
        "hits": service.cache,
        "clock": service.clock,
        "metrics": service.metrics,
        "doorman": service.doorman,
        "rates": service.rates,
        "heads": {},
        "known": {},
    }
    made = type("HotProtocol", (HotProtocol, plain), parts)
    if not works(made):
        _log.warning("hits in memory take the plain route: uvicorn %s is not as it was", uvicorn.__version__)
        return plain
    return made
