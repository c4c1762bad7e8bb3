"""Sync: have what this node's tiers hold compared with the authority, and tell what came of it, on every node.

The rule that must not break: what is answered is what was done. An audit that takes longer than a request may is told as
running, never as done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel
from starlette.responses import Response

from cachesvc.cluster.audit import Order
from cachesvc.errors import InvalidInput
from cachesvc.model.entry import JSON
from cachesvc.protocol.api import Sync, parse
from cachesvc.protocol.exact import parts, read_object
from cachesvc.protocol.operations import SyncAnswer, SyncOverview
from cachesvc.web.call import Call
from cachesvc.web.entries import require_json

MAX_BODY: Final = 1 << 10
_PARTS: Final = parts()


async def post_sync(call: Call) -> Response:
    call.query()
    raw = await call.body(MAX_BODY)
    if raw:
        require_json(call)
    asked = parse(Sync, read_object(raw, _PARTS)) if raw else Sync()
    node = call.service.node
    if asked.sites is not None:
        return await _with_sites(call, asked.sites)
    able = node.audited
    tiers = list(dict.fromkeys(asked.tiers)) if asked.tiers is not None else list(able)
    for place, tier in enumerate(tiers):
        if tier not in able:
            raise InvalidInput(
                f"tiers[{place}]", f"is no level above the authority here; those are: {', '.join(able) or 'none'}"
            )
    joined = node.auditing is not None
    order = node.audit(tiers, asked.sample)
    try:
        async with asyncio.timeout(call.service.limits.request_timeout / 2):
            await order.done.wait()
    except TimeoutError:
        pass  # it goes on
    answer = _told(call, order, joined=joined)
    return _json(answer, 200 if order.done.is_set() else 202)


async def get_sync(call: Call) -> Response:
    call.query()
    node = call.service.node
    nodes = await node.audits()
    running = node.auditing
    return _json(
        SyncOverview.model_validate(
            {"running": _told(call, running, joined=False) if running is not None else None, "nodes": nodes}
        )
    )


async def _with_sites(call: Call, wanted: Sequence[str]) -> Response:
    """Compare with other sites from this node, within the time of a request; what takes longer goes on and is told later."""
    own = call.service.sites
    known = own.peers if own is not None else []
    for place, name in enumerate(wanted):
        if name not in known:
            raise InvalidInput(
                f"sites[{place}]", f"is no other site that this one follows; those are: {', '.join(known) or 'none'}"
            )
    if own is None:
        raise InvalidInput("sites", "there are none that this one follows")
    reports, done = await own.ask(wanted or known, within=call.service.limits.request_timeout / 2)
    body: dict[str, object] = {"node": call.service.node.id, "joined": False, "sample": None, "tiers": {}}
    answer = SyncAnswer.model_validate(
        body | {"state": "done" if done else "running", "sites": {name: report.told() for name, report in reports.items()}}
    )
    return _json(answer, 200 if done else 202)


def _told(call: Call, order: Order, *, joined: bool) -> SyncAnswer:
    return SyncAnswer.model_validate(
        {
            "node": call.service.node.id,
            "state": "done" if order.done.is_set() else "running",
            "joined": joined,
            "sample": order.sample,
            "tiers": {name: report.told() for name, report in order.reports.items()},
        }
    )


def _json(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json(by_alias=True), status, {"Cache-Control": "no-store"}, JSON)
