"""Door: what every request passes: it gets an id, is counted, and whatever goes wrong within becomes a problem."""

from __future__ import annotations

import logging
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cachesvc.errors import CacheError, Forbidden, Unauthenticated, Unavailable
from cachesvc.protocol.codes import Code
from cachesvc.realtime.identity import Identity
from cachesvc.web.call import IDENTITY, KEPT, REQUEST_ID
from cachesvc.web.ids import new_id
from cachesvc.web.problems import Problem, ProblemRaised, problem_of
from cachesvc.web.routes import ENTRY, READING, TEMPLATE
from cachesvc.web.service import Service

FROZEN: Final = problem_of(Unavailable("this node was frozen while it answered, and does not know what was written meanwhile"))
_log = logging.getLogger(__name__)
OPEN: Final = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json", "/asyncapi.json"})  # whoever asks
_ADMINISTERED: Final = ("/v1/stats", "/v1/nodes", "/v1/sync", "/v1/jobs", "/v1/revocations", "/metrics")
_A_JOB: Final = "/v1/jobs/"


class Door:
    """A plain ASGI middleware, the outermost that is ours."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._leash = service.cache.leash
        self._app = app
        self._metrics = service.metrics
        self._clock = service.clock
        self._doorman = service.doorman
        self._rates = service.rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = self._clock.monotonic()
        request_id = scope[REQUEST_ID] = new_id()
        started = False
        # the client sends no body until it is asked for, unless it does not know that
        awaited = scope.get("http_version") != "1.0" and any(name == b"expect" for name, _ in scope["headers"])

        async def ask() -> Message:
            nonlocal awaited
            awaited = False
            return await receive()

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                seconds = self._clock.monotonic() - began
                if message["status"] < 500 and self._frozen(scope):
                    raise ProblemRaised(FROZEN)
                started = True
                headers = message.setdefault("headers", [])
                if not any(name == b"x-request-id" for name, _ in headers):
                    headers.append((b"x-request-id", request_id.encode()))
                if awaited:  # whether it sends one all the same cannot be known: what comes next has two readings
                    headers.append((b"connection", b"close"))
                if KEPT in scope:
                    headers.append((b"connection", b"keep-alive" if _bounded(message, scope["method"]) else b"close"))
                self._metrics.answered(_template(scope), scope["method"], message["status"], seconds)
            await send(message)

        try:
            if scope["path"] not in OPEN:
                scope[IDENTITY] = await self._let_in(scope)
            await self._app(scope, ask, answer)
        except ClientDisconnect:
            return
        except Exception as error:
            refusal = problem(error, request_id, _template(scope))
            if started:
                raise
            if refusal.status < 500 and self._frozen(scope):
                refusal = FROZEN
            await refusal.response(request_id)(scope, receive, answer)

    def _frozen(self, scope: Scope) -> bool:
        """Whether this node was frozen while it looked up what it now tells of an entry."""
        return self._clock.monotonic() >= self._leash.until and scope["method"] in READING and _template(scope) == ENTRY

    async def _let_in(self, scope: Scope) -> Identity:
        """Who asks, and may ask for more. Raises `TooManyRequests` beside what `_identified` raises."""
        if self._rates is None:
            return self._identified(scope)
        kind, client = part_of(scope["path"]), scope.get("client")
        await self._rates.taken(kind, address=client[0] if client else "")
        identity = self._identified(scope)
        await self._rates.taken(kind, user=identity.subject)
        return identity

    def _identified(self, scope: Scope) -> Identity:
        """Who asks. Raises `Unauthenticated`, and `Forbidden` for what only administrators may see."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) > 1:
            raise Unauthenticated("more than one Authorization is given")
        scheme, _, token = (given[0] if given else b"").decode("latin-1").partition(" ")
        identity = self._doorman.greet(token.strip() if scheme.lower() == "bearer" else None)
        if identity is None:
            raise Unauthenticated("a bearer token is needed")
        told_by_id = scope["path"].startswith(_A_JOB) and scope["method"] in READING  # which asks itself whether it may
        if not identity.unrestricted and scope["path"].startswith(_ADMINISTERED) and not told_by_id:
            raise Forbidden("admin", scope["path"])
        return identity


def _bounded(start: Message, method: str) -> bool:
    """Whether an answer tells its end, without chunks."""
    return method == "HEAD" or start["status"] in (204, 304) or any(name == b"content-length" for name, _ in start["headers"])


def problem(error: Exception, request_id: str, route: str) -> Problem:
    """The problem that an error is to the client. One that nobody foresaw is told to the log, too."""
    if not isinstance(error, (CacheError, ProblemRaised)):
        _log.error("a request failed", exc_info=error, extra={"request_id": request_id, "route": route})
    return problem_of(error)


def part_of(path: str) -> str:
    """What a request is counted as: the first two segments of its path."""
    return "/".join(path.split("/", 3)[:3])


async def http_error(request: Request, error: Exception) -> Response:
    """What the router refuses: no such route, no such method."""
    assert isinstance(error, HTTPException)
    code = Code.NOT_FOUND if error.status_code == 404 else Code.BAD_MESSAGE
    detail = {
        404: "there is nothing at this path",
        405: "this path does not answer to that method",
        426: "this path is a WebSocket's",
    }
    told = Problem(error.status_code, code, detail.get(error.status_code, error.detail), headers=dict(error.headers or {}))
    return told.response(str(request.scope[REQUEST_ID]))


def _template(scope: Scope) -> str:
    """The route as metrics name it: one of a few, whatever path was asked for."""
    template = scope.get(TEMPLATE) or getattr(scope.get("route"), "path_format", None)
    return template if isinstance(template, str) else "other"
