"""Protocol: HTTP/1.1 on one connection, as uvicorn speaks it, within limits and with problems for answers.

At any time a connection waits for the application, or for its client with a deadline; what one keeps of a head is bounded.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from cachesvc.protocol.codes import Code
from cachesvc.web.problems import Problem, ProblemRaised


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """What the head of a request may be: bytes of its target and of its headers, their number, seconds until its end."""

    request_line: int = 8 << 10
    header_bytes: int = 32 << 10
    headers: int = 100
    timeout: float = 10.0


class LimitedProtocol(HttpToolsProtocol):
    """A connection. Made by uvicorn; `limited` gives the class for other limits."""

    limits = HeadLimits()

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = False  # a request has begun whose headers have not ended
        self._in_body = False  # the latest request is not received to its end
        self._steps = 0  # of the parser: with bytes that make none, it may be gathering without end
        self._gathered = 0
        self._refusal: Problem | None = None
        self._earlier: list[RequestResponseCycle] = []  # pipelined: those that the latest waits for

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_client()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        for cycle in self._earlier:  # uvicorn tells the latest only; the others would go on to write, and fail
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        steps = self._steps
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._gathered = self._gathered + len(data) if self._steps == steps else 0
        if self._in_head and len(self.url) > self.limits.request_line:
            self._refuse(self._long_target())
        elif self._gathered > self.limits.request_line + self.limits.header_bytes:
            self._refuse(self._large_headers())
        elif self._deadline is None and not self._busy():
            self._wait_for_client()

    # what the parser calls

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._steps += 1

    def on_headers_complete(self) -> None:
        self._refusal = self._too_much()
        if self._refusal is not None:
            raise ProblemRaised(self._refusal)  # stops the parser, which forgets why
        if self._busy():
            self._earlier.append(self.cycle)
        elif self._earlier:
            self._earlier.clear()
        super().on_headers_complete()
        self.headers = self.headers.copy()  # trailers will be added to these, not to the request's
        self._in_head, self._in_body = False, True
        self._steps += 1
        self._head_arrived()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._steps += 1

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_body = False
        self._steps += 1

    # refusing

    def _too_much(self) -> Problem | None:
        size = hosts = 0
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            hosts += name == b"host"
        if len(self.url) > self.limits.request_line:
            return self._long_target()
        if size > self.limits.header_bytes or len(self.headers) > self.limits.headers:
            return self._large_headers()
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            return Problem(400, Code.BAD_MESSAGE, "must be given, once", "Host")
        return None

    def _long_target(self) -> Problem:
        return Problem(414, Code.TOO_LARGE, f"the target is longer than the limit of {self.limits.request_line} bytes")

    def _large_headers(self) -> Problem:
        allowed = f"{self.limits.headers} headers of together {self.limits.header_bytes} bytes"
        return Problem(431, Code.TOO_LARGE, f"the headers are over the limit: {allowed}")

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or Problem(400, Code.BAD_MESSAGE, "this is not a request of HTTP/1.1"))

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem and close; where an earlier request is still to be answered, its answer is the last."""
        if self._busy():
            if not self._in_body or self.pipeline:
                self.cycle.keep_alive = False
                self.flow.pause_reading()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not (self._in_body and self.cycle.response_started):
            self.transport.write(problem.raw())
        self.transport.close()

    # waiting

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]  # at first None

    def _wait_for_client(self) -> None:
        if self.transport.get_protocol() is self:  # not when it became a WebSocket
            self._deadline = self.loop.call_later(self.limits.timeout, self._late)

    def _head_arrived(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self._in_head and not self.transport.is_closing():
            self._refuse(Problem(408, Code.BAD_MESSAGE, f"the headers did not end within {self.limits.timeout:g} s"))
        self.transport.close()


def limited(limits: HeadLimits) -> type[LimitedProtocol]:
    """The protocol with these limits, as uvicorn takes it: a class."""
    return type("LimitedProtocol", (LimitedProtocol,), {"limits": limits})
