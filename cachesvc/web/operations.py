"""Operations: what a node tells of itself, and whether it is alive and ready.

Probes of its health and of its metrics may carry whatever parameters they like; elsewhere unknown ones are refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from cachesvc.model.entry import JSON
from cachesvc.observability.metrics import CONTENT_TYPE
from cachesvc.protocol.operations import Health, Nodes, Readiness, Stats
from cachesvc.web.call import parse_query
from cachesvc.web.live import Live
from cachesvc.web.service import Service


def router(service: Service, live: Live) -> APIRouter:
    """The operations as routes."""
    routes = APIRouter(tags=["Operations"], default_response_class=Response)

    async def all_stats() -> Mapping[str, object]:
        streams = {name: {"open": stream.open, "refused": stream.refused} for name, stream in service.streams.items()}
        admission = service.admission.stats() if service.admission is not None else {}
        rates = service.rates.stats() if service.rates is not None else {}
        return {
            **await service.node.stats(),
            "rates": rates,
            "realtime": live.stats(),
            "web": {**admission, "streams": streams},
        }

    @routes.get(
        "/v1/stats",
        summary="Hits, misses, entries, bytes, evictions, latencies and breakers, by tier",
        responses={200: {"model": Stats}},
    )
    async def stats(request: Request) -> Response:
        parse_query(request.scope["query_string"], ())
        return _json(await all_stats())

    @routes.get(
        "/v1/nodes",
        summary="The nodes, with what they have applied and how far they lag",
        responses={200: {"model": Nodes}},
    )
    async def nodes(request: Request) -> Response:
        parse_query(request.scope["query_string"], ())
        return _json({"nodes": await service.node.nodes()})

    @routes.get("/healthz", summary="Whether the process answers", responses={200: {"model": Health}})
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @routes.get(
        "/readyz",
        summary="Whether it can serve: by tier ok, or why not; 503 when clock, log or authority cannot be relied on",
        responses={200: {"model": Readiness}, 503: {"model": Readiness, "description": "Not ready, or closing"}},
    )
    async def readyz() -> Response:
        ready, tiers = await service.node.readiness()
        ready = ready and not service.closing.is_set()
        body = {"status": "ready" if ready else "not ready", "tiers": tiers}
        return _json(body) if ready else _json(body, 503, {"Retry-After": "1"})

    @routes.get(
        "/metrics",
        summary="Metrics in Prometheus' text format",
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def prometheus() -> Response:
        return Response(service.metrics.render(await all_stats(), service.node.delays), media_type=CONTENT_TYPE)

    for route in [route for route in routes.routes if isinstance(route, APIRoute)]:  # FastAPI lets GET answer to GET only
        routes.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)
    return routes


def _json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body, default=str), status, {"Cache-Control": "no-store", **(headers or {})}, JSON)
