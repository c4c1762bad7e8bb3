"""Conflicts: those that are kept, with the versions that lost."""

from __future__ import annotations

from typing import Final

import orjson
from starlette.responses import Response

from cachesvc.engine.conflicts import find, newest
from cachesvc.errors import InvalidInput
from cachesvc.model.conflict import Conflict, told, told_whole
from cachesvc.model.entry import JSON
from cachesvc.model.pattern import parse_pattern
from cachesvc.web.call import Call, single, whole_number

PREFIX: Final = len("/v1/conflicts/")
STATES: Final = ("open", "settled")
MAX_LISTED: Final = 1_000
MAX_CURSOR: Final = 200
_NO_STORE: Final = {"Cache-Control": "no-store"}


async def get_conflicts(call: Call) -> Response:
    """Those of keys that match, the newest first."""
    query = call.query("pattern", "state", "limit", "cursor")
    limit = whole_number(query, "limit", default=100, least=1, most=MAX_LISTED)
    pattern = parse_pattern(single(query, "pattern") or "*")
    call.require_all("read", pattern.text)
    state, cursor = single(query, "state"), single(query, "cursor")
    if state is not None and state not in STATES:
        raise InvalidInput("state", f"must be one of {', '.join(STATES)}")
    if cursor is not None and len(cursor) > MAX_CURSOR:
        raise InvalidInput("cursor", "is not one that was given")

    def wanted(conflict: Conflict) -> bool:
        return pattern.matches(conflict.key) and (state is None or conflict.open == (state == "open"))

    found = await newest(call.service.cache.authority, wanted, before=cursor or "", limit=limit + 1)
    body: dict[str, object] = {"conflicts": [told(one.conflict, due=one.due) for one in found[:limit]]}
    body["cursor"] = found[limit - 1].conflict.id if len(found) > limit else None
    return Response(orjson.dumps(body), 200, _NO_STORE, JSON)


async def get_conflict(call: Call) -> Response:
    """One, with its versions whole."""
    call.query()
    kept = await find(call.service.cache.authority, call.part(PREFIX))
    call.require("read", kept.conflict.key)
    return Response(orjson.dumps(told_whole(kept.conflict, due=kept.due)), 200, _NO_STORE, JSON)
