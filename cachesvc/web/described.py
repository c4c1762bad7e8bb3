"""What FastAPI answers and describes: the operations, and the documents about everything."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from cachesvc.web.asyncapi import document as asyncapi_document
from cachesvc.web.docs import page
from cachesvc.web.door import Door, http_error
from cachesvc.web.live import Live
from cachesvc.web.openapi import document
from cachesvc.web.operations import router
from cachesvc.web.service import Service


def described(service: Service, live: Live) -> FastAPI:
    """The operations of one node, and the documents."""
    app = FastAPI(
        title="cachesvc",
        version=service.version or "0",
        description="A multi-level cache: memory, Redis and database behind one interface, on one change log.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: http_error},
    )
    app.include_router(router(service, live))
    app.openapi = partial(document, app)  # type: ignore[method-assign]  # how FastAPI has it extended

    @app.api_route("/asyncapi.json", methods=["GET", "HEAD"], include_in_schema=False)
    async def asyncapi() -> dict[str, Any]:
        return asyncapi_document(app.version, live.hub.modules.added)

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False, response_class=HTMLResponse)
    async def docs() -> str:
        schema: dict[str, Any] = app.openapi()
        return page(schema)

    app.add_middleware(Door, service=service)
    return app
