"""Warming: `POST /v1/warm` begins a job, and `GET /v1/hot` is what a peer asks for."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from cachesvc.model.entry import JSON
from cachesvc.model.warming import pack_warming
from cachesvc.protocol.api import parse
from cachesvc.protocol.exact import parts, read_object
from cachesvc.protocol.operations import HotKey, HotKeys, Warm
from cachesvc.protocol.warming import warming_of
from cachesvc.realtime import needs
from cachesvc.web.call import Call, whole_number
from cachesvc.web.entries import require_json
from cachesvc.web.jobs import answer_begun

MAX_HOT: Final = 100_000
_PARTS: Final = parts()


async def post_warm(call: Call) -> Response:
    """202 and a new job, or 200 and the one that does the same already."""
    call.query()
    require_json(call)
    body = parse(Warm, read_object(await call.body(call.service.limits.max_batch_size), _PARTS))
    warming = warming_of(body, call.service.limits.warming, call.service.cache.modules_loaded)
    needs.require(call.identity, needs.warmed(warming))
    begun = await call.service.jobs.begin("warm", warming.title, pack_warming(warming), what=warming.what)
    return answer_begun(begun)


async def get_hot(call: Call) -> Response:
    call.require_all("node", "*")
    limit = whole_number(call.query("limit"), "limit", default=1_000, least=1, most=MAX_HOT)
    held = call.service.cache.memory.hot(limit)
    body = HotKeys(keys=[HotKey(key=key, version=version) for key, version in held]).model_dump_json(by_alias=True)
    return Response(body, 200, {"Cache-Control": "no-store"}, JSON)
