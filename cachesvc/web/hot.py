"""Hot: reads of what memory holds, answered where their bytes arrive, without a parser, a task or the application.

The rule that must not break: what is answered here is, byte for byte, what the plain route would answer, at a moment when
nothing before it on its connection is still to be answered. What memory has no answer to goes to its endpoint (`direct.py`),
and whatever is in any way unusual is left to the plain route.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final, Protocol

import uvicorn
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cachesvc.engine.leash import Leash
from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key
from cachesvc.observability.metrics import place_of
from cachesvc.realtime.identity import ANONYMOUS
from cachesvc.web.app import ENDPOINTS
from cachesvc.web.call import Call
from cachesvc.web.direct import Answering, DirectProtocol, Told
from cachesvc.web.entries import found
from cachesvc.web.ids import new_id
from cachesvc.web.protocol import LimitedProtocol
from cachesvc.web.routes import ENTRY
from cachesvc.web.service import Service
from cachesvc.web.trial import answers_at_once, keeps_limits
from cachesvc.web.usual import Request, Usual

_log = logging.getLogger(__name__)
_LOADER: Final = "loader"  # whose answers are no hits
_AT_ONCE: Final = 256 << 10  # bytes of answers that are handed over together; then the client must have taken some

_OK: Final = (
    b'HTTP/1.1 200 OK\r\n%betag: "%d"\r\nage: %d\r\ncache-status: cachesvc; hit;%b detail=%b\r\n'
    b"cache-control: no-cache\r\nx-content-type-options: nosniff\r\ncontent-security-policy: sandbox\r\n"
    b"content-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n\r\n%b"
)
_NOT_MODIFIED: Final = (
    b'HTTP/1.1 304 Not Modified\r\n%betag: "%d"\r\nage: %d\r\ncache-status: cachesvc; hit;%b detail=%b\r\n'
    b"cache-control: no-cache\r\nx-request-id: %b\r\n\r\n"
)
_PLACES: Final = {(method, status): place_of(ENTRY, method, status) for method in ("GET", "HEAD") for status in (200, 304)}


class Hits(Protocol):
    """What is needed of the cache."""

    @property
    def leash(self) -> Leash:
        """Until when it may be served."""
        ...

    def hit(self, key: Key) -> Entry | None:
        """The live entry that memory has, and may serve, now."""
        ...


class HotProtocol(DirectProtocol):
    """A connection whose usual reads of what memory holds are answered at once. `hot` gives the class for a service."""

    hits: Hits

    def data_received(self, data: bytes) -> None:
        if self.between_requests() and not self.flow.write_paused:
            done, missed = self._serve(data)
            if done:
                self.heard()  # its client is there, though uvicorn was told of no request
                if done == len(data):
                    return
            data = data[done:]
            if missed is not None and missed.size == len(data) and self.begin(missed, data):
                return
        super().data_received(data)

    def _serve(self, data: bytes) -> tuple[int, Request | None]:
        """Answer the requests that `data` begins with, as far as memory can; how many bytes they were, and the next."""
        clock, paying = self.service.clock, self.service.rates is not None
        began, now = clock.monotonic(), clock.now()
        answers: list[bytes] = []
        size = done = sent = 0
        missed = None
        usual = self.usual
        asked = usual.known.get(data) or usual.read(data, 0)  # what comes alone is often what came before
        while asked is not None:
            method, key, head, length = asked[:4]
            identity = head.identity
            if identity is not ANONYMOUS and not usual.stands(identity, now):
                break
            if paying and not self.affords(asked):
                break
            allowed = key is not None and (identity is ANONYMOUS or identity.may("read", key))
            entry = self.hits.hit(key) if allowed and key is not None else None
            if entry is None:
                missed = asked
                break
            ended = clock.monotonic()
            if ended >= self.hits.leash.until:  # this node was frozen: what it looked up before is not sent
                return sent, None
            if paying:
                self.pay(asked)
            status, told = self._hit(asked, entry, now, b"memory")
            answers.append(told)
            self.service.metrics.note(_PLACES[method, status], ended - began)
            if self.access_log:
                self.log(asked, status)
            done += length
            asked = usual.read(data, done) if done < len(data) else None
            size += len(told)
            if size > _AT_ONCE:
                self.transport.write(b"".join(answers))
                answers.clear()
                size, sent = 0, done
                if self.flow.write_paused:
                    break
        if answers:
            self.transport.write(answers[0] if len(answers) == 1 else b"".join(answers))
        return done, missed

    def endpoint(self, request: Request) -> Answering | None:
        return super().endpoint(request) if request.key is None else partial(self._read, request, request.key)

    async def _read(self, request: Request, key: Key, call: Call) -> Response | Told:
        """Read what memory does not hold. A hit is told as one of memory is, and all else as its endpoint would."""
        call.require("read", key)
        answer = await self.service.cache.read(key)
        entry = answer.entry
        if entry is None or entry.deleted or answer.mark or answer.tier == _LOADER or self.last:
            return found(call, answer)
        return Told(*self._hit(request, entry, answer.now, answer.tier.encode()))

    def _hit(self, request: Request, entry: Entry, now: float, tier: bytes) -> tuple[int, bytes]:
        """The status and the bytes of an answer."""
        head, number = request.head, new_id().encode()
        ttl = b" ttl=%d;" % ((entry.expires_at - now) // 1) if entry.expires_at is not None else b""
        age = max(0, int(now - entry.updated_at))
        if head.conditional and head.has(entry.version):
            return 304, _NOT_MODIFIED % (self.dated(), entry.version, age, ttl, tier, number)
        value, kind = entry.value, entry.content_type.encode("latin-1")
        body = value if request.method == "GET" else b""
        return 200, _OK % (self.dated(), entry.version, age, ttl, tier, kind, len(value), number, body)


async def hot(
    plain: type[LimitedProtocol], service: Service, *, at_once: bool = True, logged: bool = False
) -> type[HttpToolsProtocol]:
    """The protocol `plain` with its usual requests answered at once; on a uvicorn that is not as it was, what still works.

    Without `at_once` all take the plain route. `logged` says that requests are told to a log, with the addresses that they
    come from.
    """
    parts = {
        "hits": service.cache,
        "service": service,
        "usual": Usual(plain.limits, service.doorman, by_address=logged or service.rates is not None),
        "endpoints": ENDPOINTS,
    }
    made = type("HotProtocol", (HotProtocol, plain), parts)
    if not await keeps_limits(plain):  # which the other builds on, too
        _log.error("limits of requests and connections are not kept: uvicorn %s is not as it was", uvicorn.__version__)
        return HttpToolsProtocol
    if not at_once:
        return plain
    if not await answers_at_once(made):
        _log.warning("all requests take the plain route: uvicorn %s is not as it was", uvicorn.__version__)
        return plain
    return made
