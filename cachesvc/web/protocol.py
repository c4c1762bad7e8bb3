"""Protocol: HTTP/1.1 on one connection, as uvicorn speaks it, within limits and with problems for answers.

At any time a connection waits for the application, or for its client with a deadline; what one keeps of a head is bounded.
What a node does not take up is refused here, before any work is done for it; who asks how it fares is always answered.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cachesvc.protocol.codes import Code
from cachesvc.web.admission import Admission
from cachesvc.web.call import KEPT, SAID_ALL
from cachesvc.web.handshakes import asked
from cachesvc.web.heads import fault, length_of
from cachesvc.web.ids import new_id
from cachesvc.web.phrases import STATUS_LINES
from cachesvc.web.pieces import Pieces
from cachesvc.web.problems import Problem, ProblemRaised

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """What the head of a request may be: bytes of its target and of its headers, their number, seconds until its end."""

    request_line: int = 8 << 10
    header_bytes: int = 32 << 10
    headers: int = 100
    timeout: float = 10.0
    pipelined: int = 100  # requests of a connection that wait for the one before
    stall: float = 30.0  # seconds in which a client takes nothing of its answer


_SHED: Final = (b"/v1/cache/", b"/v1/batch", b"/v1/keys", b"/v1/query", b"/v1/ws/")  # not who asks how it fares
_READING: Final = frozenset((b"GET", b"HEAD"))
_PLAIN: Final = re.compile(  # no body, nothing said about the connection, no second request behind it
    rb"GET /v1/cache/[^\s]+ HTTP/1\.1\r\n"
    rb"(?:(?![Cc][Oo][Nn]|[Tt][Rr]|[Uu][Pp]|[Ee][Xx][Pp])[^\s:][^\r\n:]*:[^\r\n]*\r\n)+\r\n"
)
_CROWDED: Final = "more is asked for than this node can carry"
_TOO_MANY: Final = "too many connections are open"
_NO_ID: Final = b"0" * 32  # stands where each answer has its own
_SPARE: Final = 64  # connections over the limit that may still ask how the node fares


class LimitedProtocol(HttpToolsProtocol):
    """A connection. Made by uvicorn; `limited` gives the class for other limits."""

    limits = HeadLimits()
    admission: Admission | None = None
    last = False  # the next answer is the last of the connection, or the one that is made

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = False  # a request has begun whose headers have not ended
        self._began = 0.0  # when its first byte came, or was waited for
        self._upgrade = False  # the latest request asks to speak otherwise, once those before it are answered
        self._in_body = False  # the latest request is not received to its end
        self._pieces = Pieces()
        self._refusal: Problem | None = None
        self._owed: bytes | None = None  # the last words, which wait for the answers before them
        self._said_all = asyncio.Event()  # the client says no more, but may still listen
        self._earlier: list[RequestResponseCycle] = []  # pipelined: those that the latest waits for
        self._surplus = False  # one connection too many
        self._shedding = False  # the request that is being received was refused already
        self._passed = False  # the request that is read now was let in already
        self._lively = False  # the client was heard since a deadline was set: it is there
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_client()
        if self.admission is not None:
            over = len(self.connections) - self.admission.limits.max_connections
            self.admission.connections = len(self.connections)
            self.admission.tasks = self.tasks
            if over > 0:
                self._surplus = True
                self.admission.turned_away += 1
                if over > _SPARE:
                    transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        for cycle in self._earlier:  # uvicorn tells the latest only; the others would go on to write, and fail
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)
        if self.admission is not None:
            self.admission.connections = len(self.connections)

    def data_received(self, data: bytes) -> None:
        if self.admission is not None and self.admission.shedding and self._plain(data):
            self._passed = self.admission.admits(writing=False)
            if not self._passed:
                self.heard()
                self.answer_overloaded()
                return
        self._feed(data)
        if self.transport.is_closing():
            return
        if self._in_head and len(self.url) > self.limits.request_line:
            self._refuse(self._long_target())
        elif len(self._pieces.head) > self.limits.request_line + self.limits.header_bytes or self._much_around():
            self._refuse(self._large_headers())
        elif self._deadline is None and not self._busy():
            self._wait_for_client()

    def eof_received(self) -> bool:  # type: ignore[override]  # that it is kept open may be said
        """The client says no more. What it asked for in full is answered before the connection is closed."""
        self._said_all.set()
        self._end(b"")
        return not self.transport.is_closing()

    def _feed(self, data: bytes) -> None:
        """As uvicorn does, but in pieces, and what comes before a request for another protocol is answered first.

        What comes behind one that is not spoken here is read, too.
        """
        self._unset_keepalive_if_required()
        at = 0
        while at < len(data) and not self.transport.is_closing():
            piece = self._pieces.cut(data, at)
            at += len(piece)
            try:
                self.parser.feed_data(piece)
            except HttpParserUpgrade:
                if not self._should_upgrade():
                    continue
                self._speak_otherwise()
                return
            except HttpParserError:
                self._refuse(self._refusal or Problem(400, Code.BAD_MESSAGE, "this is not a request of HTTP/1.1"))
                return

    # what the parser calls

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[SAID_ALL] = self._said_all  # type: ignore[typeddict-unknown-key]
        self._in_head = True
        self._began = self.loop.time()

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        if problem := self._too_much() or fault(self._pieces.head, version, self.headers):
            self._stop(problem)
        if older := version == "1.0":
            self.expect_100_continue = False  # which it does not know (RFC 9110, 10.1.1)
        if kept := older and self.parser.should_keep_alive() and not self.parser.should_upgrade():
            self.scope[KEPT] = True  # type: ignore[typeddict-unknown-key]
        self._pieces.head_ended(length_of(self.headers))
        if self.admission is not None and not self._busy() and not self._admitted(self.admission):
            self._in_head, self._in_body, self._shedding = False, True, True
            self._head_arrived()
            return
        if self._busy():
            self._earlier.append(self.cycle)
        elif self._earlier:
            self._earlier.clear()
        super().on_headers_complete()
        if kept:
            self.cycle.keep_alive = True
        self.headers = self.headers.copy()  # trailers will be added to these, not to the request's
        self._in_head, self._in_body = False, True
        self._head_arrived()

    def on_body(self, body: bytes) -> None:
        if not self._shedding:
            super().on_body(body)
        self._pieces.body_came(len(body))

    def on_message_complete(self) -> None:
        if self._pieces.chunked and (self._much_around() or self._many_headers()):  # with its trailers
            self._stop(self._large_headers())
        self._pieces.ended()
        if not self._shedding:
            super().on_message_complete()
        self._in_body = self._shedding = False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._close()
            return
        if self._busy():
            if self._upgrade:
                self.flow.pause_reading()
        elif self._owed is not None:
            self._end(self._owed)
        elif self._upgrade:
            self._speak_otherwise()
        elif self._in_head and self._deadline is None:  # its end is waited for no longer than that of any other
            self._began = self.loop.time()
            self._unset_keepalive_if_required()
            self._wait_for_client()

    def _speak_otherwise(self) -> None:
        """Become a WebSocket, once all that was asked before is answered and taken."""
        self._upgrade = self._busy() or self.flow.write_paused
        self._unset_keepalive_if_required()
        if self._upgrade:
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()
            self.handle_websocket_upgrade()

    def _should_upgrade(self) -> bool:
        spoken = self._should_upgrade_to_ws()
        return spoken and asked(self.parser.get_method(), self.parser.get_http_version(), self.headers)

    # refusing

    def _too_much(self) -> Problem | None:
        if len(self.url) > self.limits.request_line:
            return self._long_target()
        if self._many_headers():
            return self._large_headers()
        if len(self.pipeline) >= self.limits.pipelined:
            return Problem(400, Code.LIMIT_EXCEEDED, f"over {self.limits.pipelined} requests wait for the one before")
        return None

    def _many_headers(self) -> bool:
        size = sum(len(name) + len(value) + 4 for name, value in self.headers)
        return size > self.limits.header_bytes or len(self.headers) > self.limits.headers

    def _much_around(self) -> bool:
        """Whether what came with a body, in extensions of chunks and trailers, is more than headers may be."""
        return self._pieces.around > self.limits.header_bytes

    def _stop(self, problem: Problem) -> NoReturn:
        """Stop the parser, which forgets why."""
        self._refusal = problem
        raise ProblemRaised(problem)

    def _long_target(self) -> Problem:
        return Problem(414, Code.TOO_LARGE, f"the target is longer than the limit of {self.limits.request_line} bytes")

    def _large_headers(self) -> Problem:
        allowed = f"{self.limits.headers} headers of together {self.limits.header_bytes} bytes"
        return Problem(431, Code.TOO_LARGE, f"the headers are over the limit: {allowed}")

    def _refuse(self, problem: Problem) -> None:
        self._end(problem.raw())

    def _end(self, last: bytes) -> None:
        """Close with these words, once all that was asked before is answered."""
        if self.transport.is_closing():
            return
        if self._busy():
            if self._in_body and self.pipeline:  # it waits itself, and will not be asked for
                self.pipeline.popleft()
                self.cycle = self._earlier.pop()
                self._in_body = False
            if not self._in_body:
                self._owed = self._owed or last
                self.flow.pause_reading()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not self._shedding and not (self._in_body and self.cycle.response_started):
            self.transport.write(last)
        self._close()

    def _plain(self, data: bytes) -> bool:
        """Whether this is one whole read of an entry and nothing else, as nearly all are: it can be refused unparsed."""
        short = len(data) <= self.limits.request_line
        return self.between_requests() and short and _PLAIN.fullmatch(data) is not None

    def between_requests(self) -> bool:
        """Whether what arrives now begins a request, nothing before it is still to be answered, and more may come after it."""
        return not (self._pieces.head or self._in_body or self._surplus or self.last or self._busy())

    def heard(self) -> None:
        """The client asked for something that uvicorn was not told of."""
        self._lively = True

    def _admitted(self, admission: Admission) -> bool:
        """Whether the request is taken up; one that is not has been answered."""
        if self._passed or not self.url.startswith(_SHED):
            self._passed = False
            return True
        method = self.parser.get_method()
        if not self._surplus and admission.admits(writing=method not in _READING):
            return True
        # a body that is not sent yet, or an end of the connection, is not waited for
        kept = self.parser.should_keep_alive() and not self.parser.should_upgrade() and self.parser.get_http_version() == "1.1"
        last = self._surplus or self.expect_100_continue or not kept
        self.answer_overloaded(_TOO_MANY if self._surplus else _CROWDED, last=last, bodiless=method == b"HEAD")
        if self.transport.is_closing():
            raise ProblemRaised(_overloaded(_CROWDED))  # stops the parser
        return False

    def answer_overloaded(self, detail: str = _CROWDED, *, last: bool = False, bodiless: bool = False) -> None:
        if self.flow.write_paused:  # who asks on without reading would have its refusals kept
            self.transport.abort()
            return
        self.transport.write(_overloaded_bytes(detail, last, bodiless).replace(_NO_ID, new_id().encode()))
        if last:
            self._close()

    # waiting

    def _close(self) -> None:
        """When all is sent, which the client decides, for some time."""
        self.transport.close()
        if self._stall is None and self.transport.get_write_buffer_size():
            self._watch_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        if self._upgrade and not self.transport.is_closing():
            self._speak_otherwise()

    def timeout_keep_alive_handler(self) -> None:
        if self._lively or self._busy():
            self._lively = False
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
            return
        self._close()

    def _watch_writing(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self.limits.stall, self._stalled, left)

    def _stalled(self, left: int) -> None:
        """Whether the client took anything since so much was left."""
        self._stall = None
        if 0 < left <= self.transport.get_write_buffer_size():
            if self.admission is not None:
                self.admission.stalled += 1
            self.transport.abort()
        elif self.transport.get_write_buffer_size():
            self._watch_writing()

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]  # at first None

    def _wait_for_client(self, seconds: float | None = None) -> None:
        if self.transport.get_protocol() is self and not self._upgrade:  # not when it is, or will be, a WebSocket
            self._deadline = self.loop.call_later(self.limits.timeout if seconds is None else seconds, self._late)

    def _head_arrived(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        left = self._began + self.limits.timeout - self.loop.time() if self._in_head else 0.0
        if left > 0.0:  # the deadline was set before its first byte came
            self._wait_for_client(left)
            return
        if (self._lively or self._busy()) and not self._in_head:
            self._lively = False
            self._wait_for_client()
            return
        if self._in_head and not self.transport.is_closing():
            self._refuse(Problem(408, Code.BAD_MESSAGE, f"the headers did not end within {self.limits.timeout:g} s"))
        self._close()


def limited(limits: HeadLimits, admission: Admission | None = None) -> type[LimitedProtocol]:
    """The protocol with these limits, as uvicorn takes it: a class. Without an `admission` all is taken up."""
    getattr(httptools_impl, "STATUS_LINE", {}).update(STATUS_LINES)  # what uvicorn answers is called as all else is
    return type("LimitedProtocol", (LimitedProtocol,), {"limits": limits, "admission": admission})


def _overloaded(detail: str) -> Problem:
    return Problem(503, Code.UNAVAILABLE, detail, retry_after=1.0)


@lru_cache(16)
def _overloaded_bytes(detail: str, last: bool, bodiless: bool) -> bytes:
    """Made once: to refuse is to cost little."""
    return _overloaded(detail).raw(_NO_ID.decode(), last=last, bodiless=bodiless)
