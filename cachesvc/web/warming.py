"""Warming: `POST /v1/warm` begins a job, and `GET /v1/hot` is what a peer asks for."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from cachesvc.errors import InvalidInput
from cachesvc.model.entry import JSON
from cachesvc.model.keys import Key, module_of, parse_key
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.warming import Warming, WarmSource, keys_of, pack_warming
from cachesvc.protocol.api import parse
from cachesvc.protocol.codes import Code
from cachesvc.protocol.exact import parts, read_object
from cachesvc.protocol.operations import HotKey, HotKeys, Warm
from cachesvc.web.call import Call, whole_number
from cachesvc.web.entries import require_json
from cachesvc.web.jobs import answer
from cachesvc.web.problems import Problem, ProblemRaised

MAX_HOT: Final = 100_000
_PARTS: Final = parts()


async def post_warm(call: Call) -> Response:
    """202 and a new job, or 200 and the one that does the same already."""
    call.query()
    require_json(call)
    body = parse(Warm, read_object(await call.body(call.service.limits.max_batch_size), _PARTS))
    warming = _warming(call, body)
    call.require("warm", *warming.keys)
    if not warming.keys:
        call.require_all("warm", warming.pattern or "*")
    begun = await call.service.jobs.begin("warm", warming.title, pack_warming(warming), what=warming.what)
    return answer(begun.job, 200 if begun.known else 202, {"Location": f"/v1/jobs/{begun.job.id}"})


async def get_hot(call: Call) -> Response:
    call.require_all("node", "*")
    limit = whole_number(call.query("limit"), "limit", default=1_000, least=1, most=MAX_HOT)
    held = call.service.cache.memory.hot(limit)
    body = HotKeys(keys=[HotKey(key=key, version=version) for key, version in held]).model_dump_json(by_alias=True)
    return Response(body, 200, {"Cache-Control": "no-store"}, JSON)


def _warming(call: Call, body: Warm) -> Warming:
    """What the body asks for, checked. Raises `InvalidInput`, naming the member."""
    limits = call.service.limits.warming
    named = [name for name in ("module", "pattern", "keys") if getattr(body, name) not in (None, [])]
    if len(named) > 1:
        raise InvalidInput(named[1], f"cannot be given together with {named[0]}")
    source = WarmSource(body.source) if body.source else WarmSource.LOADER if body.module else WarmSource.DATABASE
    if not named and source is not WarmSource.PEER:
        raise InvalidInput("keys", "nothing is named: give keys, a pattern, or a module with userId and dataTypes")
    if body.peer is not None and source is not WarmSource.PEER:
        raise InvalidInput("peer", "is for the source peer")
    if source is WarmSource.PEER and body.keys:
        raise InvalidInput("keys", "cannot be given with the source peer, which is asked for them")
    if source is WarmSource.LOADER and body.pattern is not None:
        raise InvalidInput("pattern", "says no keys to a loader: give keys, or a module with userId and dataTypes")
    pace = Warming(
        source,
        peer=body.peer or "",
        rate=_within("rate", body.rate, limits.max_rate, limits.rate),
        concurrency=int(_within("concurrency", body.concurrency, limits.max_concurrency, limits.concurrency)),
    )
    if body.pattern is not None:
        return pace._replace(pattern=parse_pattern(body.pattern).text)
    keys = _module_keys(call, body) if body.module else _keys(body, limits.max_keys)
    if source is WarmSource.LOADER:
        for place, key in enumerate(keys):
            if module_of(key) not in call.service.cache.modules_loaded:
                raise InvalidInput("module" if body.module else f"keys[{place}]", f"{module_of(key)} has no loader")
    return pace._replace(keys=keys)


def _module_keys(call: Call, body: Warm) -> tuple[Key, ...]:
    assert body.module is not None
    limits = call.service.limits.warming
    if body.user_id is None:
        raise InvalidInput("userId", "is missing")
    if not body.data_types:
        raise InvalidInput("dataTypes", "is missing")
    template = limits.templates.get(body.module)
    if template is None:
        raise InvalidInput("module", "has no loader")
    _bound("dataTypes", len(body.data_types), limits.max_keys)
    return keys_of(template, body.module, body.user_id, body.data_types)


def _keys(body: Warm, most: int) -> tuple[Key, ...]:
    _bound("keys", len(body.keys), most)
    return tuple(dict.fromkeys(parse_key(key, field=f"keys[{place}]") for place, key in enumerate(body.keys)))


def _bound(field: str, count: int, most: int) -> None:
    if count > most:
        detail = f"{field}: has {count} items; allowed are up to {most}"
        raise ProblemRaised(Problem(422, Code.LIMIT_EXCEEDED, detail, field, members={"limit": most}))


def _within(field: str, given: float | None, most: float, default: float) -> float:
    if given is None:
        return min(default, most)
    if given > most:
        raise InvalidInput(field, f"must be up to {most:g}")
    return given
