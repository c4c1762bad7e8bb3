"""The web application: routes over a service. Nothing in it is global, and nothing runs in it between requests."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from cachesvc.web.asyncapi import document as asyncapi_document
from cachesvc.web.batch import post_batch
from cachesvc.web.changes import Changes
from cachesvc.web.conflicts import get_conflict, get_conflicts
from cachesvc.web.docs import page
from cachesvc.web.door import Door, http_error
from cachesvc.web.entries import delete_entry, get_entry, post_entry, put_entry
from cachesvc.web.explanation import get_explanation
from cachesvc.web.invalidation import post_invalidate
from cachesvc.web.jobs import JobEvents, delete_job, get_job, get_jobs
from cachesvc.web.listing import get_keys, get_query
from cachesvc.web.live import Live, LiveRoute
from cachesvc.web.openapi import document
from cachesvc.web.operations import router
from cachesvc.web.revocations import post_revocations
from cachesvc.web.routes import DataRoute, Endpoint
from cachesvc.web.service import Service
from cachesvc.web.snapshot import Snapshots
from cachesvc.web.sync import get_sync, post_sync
from cachesvc.web.warming import get_hot, post_warm


def create_app(service: Service, live: Live | None = None) -> FastAPI:
    """The application of one node, and its sockets."""
    live = live or Live(service)
    app = FastAPI(
        title="cachesvc",
        version=service.version or "0",
        description="A multi-level cache: memory, Redis and database behind one interface, on one change log.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: http_error},
    )
    app.router.routes[:0] = [DataRoute(path, endpoints, service) for path, endpoints in data_endpoints(service).items()]
    app.router.routes.insert(0, LiveRoute(live))
    app.include_router(router(service, live))
    app.openapi = partial(document, app)  # type: ignore[method-assign]  # how FastAPI has it extended

    @app.api_route("/asyncapi.json", methods=["GET", "HEAD"], include_in_schema=False)
    async def asyncapi() -> dict[str, Any]:
        return asyncapi_document(app.version)

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False, response_class=HTMLResponse)
    async def docs() -> str:
        schema: dict[str, Any] = app.openapi()
        return page(schema)

    app.add_middleware(Door, service=service)
    return app


def data_endpoints(service: Service) -> dict[str, dict[str, Endpoint]]:
    """The routes of the data: path, method, endpoint. The most used comes first."""
    snapshots = Snapshots(service)
    return {
        "/v1/cache/{key}": {"GET": get_entry, "PUT": put_entry, "DELETE": delete_entry, "POST": post_entry},
        "/v1/batch": {"POST": post_batch},
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
