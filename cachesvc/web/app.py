"""The web application: routes over a service. Nothing in it is global, and nothing runs in it between requests.

The rule that must not break: what is asked of the data goes through the door to its route, and through nothing else. FastAPI
has the operations and the documents.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from cachesvc.protocol.codes import Code
from cachesvc.web.batch import post_batch
from cachesvc.web.changes import Changes
from cachesvc.web.conflicts import get_conflict, get_conflicts
from cachesvc.web.door import Door, http_error
from cachesvc.web.entries import delete_entry, get_entry, post_entry, put_entry
from cachesvc.web.explanation import get_explanation
from cachesvc.web.invalidation import post_invalidate
from cachesvc.web.jobs import JobEvents, delete_job, get_job, get_jobs
from cachesvc.web.listing import get_keys, get_query
from cachesvc.web.live import Live, LiveRoute, refuse
from cachesvc.web.problems import Problem
from cachesvc.web.revocations import post_revocations
from cachesvc.web.routes import BATCH, ENTRY, DataRoute, Endpoint
from cachesvc.web.service import Service
from cachesvc.web.snapshot import Snapshots
from cachesvc.web.sync import get_sync, post_sync
from cachesvc.web.warming import get_hot, post_warm

DESCRIBED: Final = frozenset(
    {"/v1/stats", "/v1/nodes", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/asyncapi.json"}
)

# Of entries. They answer with a response, so that they can be asked by more than one way (`direct.py`).
ENDPOINTS: Final[Mapping[str, Mapping[str, Endpoint]]] = {
    ENTRY: {"GET": get_entry, "PUT": put_entry, "DELETE": delete_entry, "POST": post_entry},
    BATCH: {"POST": post_batch},
}


class App:
    """All of it. What FastAPI describes, the operations and the documents, is made when the first of it is asked for."""

    def __init__(self, service: Service, live: Live) -> None:
        self._service = service
        self._live = live
        data = [DataRoute(path, endpoints, service) for path, endpoints in data_endpoints(service).items()]
        self._routes: Sequence[BaseRoute] = [*data, LiveRoute(live)]
        self._data = Door(self._routed, service=service)
        self._described: ASGIApp | None = None
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in DESCRIBED:
            app = self._described or await self._describe()
        else:
            app = self._data
        await app(scope, receive, send)

    async def _routed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Behind the door: to the route, past all that a framework would put before it."""
        try:
            for route in self._routes:
                match, more = route.matches(scope)
                if match is Match.FULL:
                    scope.update(more)
                    await route.handle(scope, receive, send)
                    return
            if scope["type"] == "websocket":
                await receive()  # websocket.connect
                await refuse(send, Problem(404, Code.NOT_FOUND, "there is no WebSocket at this path"))
                return
            raise HTTPException(404)
        except HTTPException as error:
            response = await http_error(Request(scope), error)
            await response(scope, receive, send)

    async def _describe(self) -> ASGIApp:
        async with self._turn:
            if self._described is None:
                self._described = await asyncio.to_thread(self._make_described)
            return self._described

    def _make_described(self) -> ASGIApp:
        from cachesvc.web.described import described  # noqa: PLC0415 - takes half a second, and a start waits for nothing in it

        return described(self._service, self._live)


def create_app(service: Service, live: Live | None = None) -> App:
    """The application of one node, and its sockets."""
    return App(service, live or Live(service))


def data_endpoints(service: Service) -> dict[str, Mapping[str, Endpoint]]:
    """The routes of the data: path, method, endpoint. The most used comes first."""
    snapshots = Snapshots(service)
    return {
        **ENDPOINTS,
        "/v1/invalidate": {"POST": post_invalidate},
        "/v1/warm": {"POST": post_warm},
        "/v1/hot": {"GET": get_hot},
        "/v1/keys": {"GET": get_keys},
        "/v1/query": {"GET": get_query},
        "/v1/explain/{key}": {"GET": get_explanation},
        "/v1/snapshot": {"GET": snapshots.get},
        "/v1/restore": {"POST": snapshots.post},
        "/v1/jobs": {"GET": get_jobs},
        "/v1/jobs/{id}/events": {"GET": JobEvents(service).get},
        "/v1/jobs/{id}": {"GET": get_job, "DELETE": delete_job},
        "/v1/conflicts": {"GET": get_conflicts},
        "/v1/conflicts/{id}": {"GET": get_conflict},
        "/v1/sync": {"POST": post_sync, "GET": get_sync},
        "/v1/revocations": {"POST": post_revocations},
        "/v1/changes": {"GET": Changes(service).get},
    }
