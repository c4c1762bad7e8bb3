"""Routes of the data: found by the raw path, answered without FastAPI's machinery, within a time limit.

The raw path decides, since a decoded one no longer tells `%2F` in a key's neighbour from a slash, nor invalid UTF-8 from none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from cachesvc.errors import OutcomeUnknown, Unavailable
from cachesvc.web.call import Call, raw_path, read_headers
from cachesvc.web.deadlines import Late
from cachesvc.web.service import Service

ENTRY: Final = "/v1/cache/{key}"
BATCH: Final = "/v1/batch"
READING: Final = frozenset(("GET", "HEAD"))
TEMPLATE: Final = "cachesvc.template"  # of the scope: the route as metrics name it
T = TypeVar("T")
Endpoint = Callable[[Call], Awaitable[Response]]


class DataRoute(BaseRoute):
    """A path, or (with `{key}`) all paths that begin and end so, and an endpoint for each method."""

    def __init__(self, template: str, endpoints: Mapping[str, Endpoint], service: Service) -> None:
        start, brace, rest = template.partition("{")
        self.path_format = template
        self._start = start.encode()
        self._end = rest.partition("}")[2].encode()
        self._open = bool(brace)
        self._endpoints = {**endpoints, "HEAD": endpoints["GET"]} if "GET" in endpoints else dict(endpoints)
        self._allow = ", ".join(sorted(self._endpoints))
        self._service = service

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        path = raw_path(scope)
        fits = path.startswith(self._start) and path.endswith(self._end) if self._open else path == self._start
        return (Match.FULL, {TEMPLATE: self.path_format}) if fits else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            raise HTTPException(405, headers={"Allow": self._allow})
        call = Call(self._service, scope, receive, send, read_headers(scope))
        response = await answered(call, endpoint)
        if scope["method"] == "HEAD":
            response.body = b""
        await response(scope, receive, send)


async def answered(call: Call, endpoint: Callable[[Call], Awaitable[T]]) -> T:
    """The endpoint's answer, within the time limit."""
    limit = call.service.limits.request_timeout
    try:
        return await call.service.deadlines.hold(endpoint(call), limit)
    except Late as exc:
        if call.writing is None:
            raise Unavailable(f"not answered within {limit:g} s") from exc
        # what was handed to the log may still be committed
        raise OutcomeUnknown(f"not answered within {limit:g} s", request_id=call.writing) from exc
