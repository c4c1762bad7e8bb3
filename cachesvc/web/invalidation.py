"""Invalidate: by key, pattern, tag, and all that depends on them; one draft of the log, whatever it comes to.

The rule that must not break: what is answered is in force. How much a pattern ended is told when that is known at once, and
by its job otherwise.
"""

from __future__ import annotations

from typing import Final

import orjson
from starlette.responses import Response

from cachesvc.engine.invalidate import invalidate
from cachesvc.engine.preview import preview
from cachesvc.model.change import Idempotency, actor_of
from cachesvc.model.change import invalidate as draft_of
from cachesvc.model.entry import JSON
from cachesvc.model.invalidation import Invalidation
from cachesvc.protocol.api import Invalidate, parse
from cachesvc.protocol.drafts import fingerprint, invalidation_of
from cachesvc.protocol.exact import parts, read_object
from cachesvc.web.applied import reached, waits
from cachesvc.web.call import Call
from cachesvc.web.conditions import idempotency_key
from cachesvc.web.entries import require_json, written_headers

_PARTS: Final = parts()


async def post_invalidate(call: Call) -> Response:
    wait = waits(call)
    asked = idempotency_key(call.headers)
    require_json(call)
    limits = call.service.limits
    body = parse(Invalidate, read_object(await call.body(limits.max_batch_size), _PARTS))
    named = invalidation_of(body, most=limits.max_invalidate_keys)
    call.require("invalidate", *named.keys)
    if named.pattern:
        call.require_all("invalidate", named.pattern)
    if named.tags or named.cascade:  # which may reach anything
        call.require_all("invalidate", "*")
    if body.dry_run:
        return await _dry_run(call, named)
    draft = draft_of(named)
    draft = draft._replace(distribute=body.distribute, actor=actor_of(call.subject))
    draft = draft._replace(idempotency=Idempotency(call.subject, asked, fingerprint(draft)))
    call.writing = asked
    done = await invalidate(call.service.cache, draft)
    call.writing = None
    told = done.told()
    if wait:
        told |= await reached(call, done.written)
    return Response(orjson.dumps(told), 200, written_headers(done.written), JSON)


async def _dry_run(call: Call, named: Invalidation) -> Response:
    cache = call.service.cache
    seen = await preview(cache.authority, named, at=cache.applied, clock=call.service.clock, loaders=cache.modules_loaded)
    return Response(orjson.dumps(seen.told()), 200, media_type=JSON)
