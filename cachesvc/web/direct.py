"""Direct: usual requests that memory does not answer, by the endpoints of the plain route but past uvicorn's request cycle.

The rule that must not break: at most one such request of a connection is in progress, and what comes behind it waits until it
is answered. Its endpoint makes the answer, on either way, so that both answer alike.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

from starlette.responses import Response
from starlette.types import Message, Receive, Scope
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from cachesvc.observability.metrics import place_of
from cachesvc.web.call import IDENTITY, REQUEST_ID, Call
from cachesvc.web.door import FROZEN, part_of, problem
from cachesvc.web.ids import new_id
from cachesvc.web.phrases import STATUS_LINES
from cachesvc.web.protocol import LimitedProtocol
from cachesvc.web.routes import ENTRY, READING, Endpoint, answered
from cachesvc.web.service import Service
from cachesvc.web.usual import Request, Usual

_CONTROL: Final = re.compile(b"[\x00-\x08\x0a-\x1f\x7f]")


class Told(NamedTuple):
    """An answer as it is sent."""

    status_code: int
    data: bytes


Answering = Callable[[Call], Awaitable[Response | Told]]


class DirectProtocol(LimitedProtocol):
    """A connection whose usual requests go to their endpoints at once."""

    service: Service
    usual: Usual
    endpoints: Mapping[str, Mapping[str, Endpoint]]  # by route and method
    _in_progress = False
    _held = b""  # what came behind the request in progress
    _given: object = None  # by uvicorn: the headers of every answer, and below as bytes
    _rendered = b""

    def data_received(self, data: bytes) -> None:
        if self._in_progress:
            self._held += data
            self.flow.pause_reading()
        else:
            super().data_received(data)

    def shutdown(self) -> None:
        if self._in_progress:
            self.last = True
        else:
            super().shutdown()

    def begin(self, request: Request, data: bytes) -> bool:
        """Have a request answered, which is all of `data`, and can be paid for; False where it is for the plain route."""
        endpoint = self.endpoint(request)
        if endpoint is None or self.flow.write_paused:
            return False
        self.heard()
        if self.admission is not None and not self.admission.admits(writing=request.method not in READING):
            self.answer_overloaded(bodiless=request.method == "HEAD")
            return True
        self.pay(request)
        self._in_progress = True
        task = self.loop.create_task(self._answer(request, data[len(data) - request.length :], endpoint))
        self.tasks.add(task)  # as uvicorn's own: it waits for them when it ends
        task.add_done_callback(self.tasks.discard)
        return True

    def endpoint(self, request: Request) -> Answering | None:
        """What answers a request; None where that is for the plain route."""
        return self.endpoints[request.route].get("GET" if request.method == "HEAD" else request.method)

    def affords(self, request: Request) -> bool:
        """Whether the client's rate allows it now. If not, the plain route says so, or waits until it does."""
        rates, user = self.service.rates, request.head.identity.subject
        return rates is None or rates.affords(part_of(request.route), user=user, address=self._address)

    def pay(self, request: Request) -> None:
        """Pay for what the client affords."""
        rates, user = self.service.rates, request.head.identity.subject
        if rates is not None:
            rates.take(part_of(request.route), user=user, address=self._address)

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def log(self, request: Request, status: int) -> None:
        """Tell of an answer, as uvicorn does."""
        scope: Scope = {"client": self.client, "path": unquote(request.path.decode()), "query_string": request.query}
        path = get_path_with_query_string(scope)  # type: ignore[arg-type]
        self.access_logger.info('%s - "%s %s HTTP/%s" %d', get_client_addr(scope), request.method, path, "1.1", status)  # type: ignore[arg-type]

    def dated(self) -> bytes:
        """The headers that uvicorn gives to every answer; it makes new ones every second."""
        given = self.server_state.default_headers
        if self._given is not given:
            self._given = given
            self._rendered = b"".join(b"%b: %b\r\n" % header for header in given)
        return self._rendered

    def _busy(self) -> bool:
        return self._in_progress or super()._busy()

    async def _answer(self, request: Request, body: bytes, endpoint: Answering) -> None:
        clock, number = self.service.clock, new_id()
        began = clock.monotonic()
        scope: Scope = {
            "raw_path": request.path,
            "query_string": request.query,
            REQUEST_ID: number,
            IDENTITY: request.head.identity,
        }
        try:
            call = Call(self.service, scope, _whole(body), _unused, request.head.headers)
            response = await answered(call, endpoint)
            told = response if isinstance(response, Told) else self._told(response, request, number)
        except asyncio.CancelledError:  # the node ends, and has waited long enough
            self.transport.close()
            raise
        except Exception as error:  # noqa: BLE001 - as at the door
            told = self._told(problem(error, number, request.route).response(number), request, number)
        ended = clock.monotonic()
        reading = request.method in READING and request.route == ENTRY
        if reading and ended >= self.service.cache.leash.until and told.status_code < 500:
            told = self._told(FROZEN.response(number), request, number)
        self.service.metrics.note(place_of(request.route, request.method, told.status_code), ended - began)
        self._in_progress = False
        if not self.transport.is_closing():
            if self.access_log:
                self.log(request, told.status_code)
            self._send(told.data)

    def _told(self, response: Response, request: Request, number: str) -> Told:
        headers = response.raw_headers
        if _CONTROL.search(b"".join([value for _, value in headers])):
            raise ValueError("a header has control characters")
        lines = [STATUS_LINES[response.status_code], self.dated()]
        lines += [b"%b: %b\r\n" % header for header in headers]
        if not any(name == b"x-request-id" for name, _ in headers):
            lines.append(b"x-request-id: %b\r\n" % number.encode())
        lines.append(b"connection: close\r\n\r\n" if self.last else b"\r\n")
        if request.method != "HEAD":
            lines.append(bytes(response.body))
        return Told(response.status_code, b"".join(lines))

    def _send(self, data: bytes) -> None:
        self.transport.write(data)
        if self.last:
            self._close()
            return
        self.heard()
        held, self._held = self._held, b""
        if held:
            self.flow.resume_reading()
            self.data_received(held)
        if self._owed is not None:
            self._end(self._owed)


def _whole(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _unused(_: Message) -> None:
    raise AssertionError("these endpoints return what they answer")
