"""Invalidate: by key, pattern, tag, and all that depends on them; one draft of the log, whatever it comes to.

The rule that must not break: what is answered is in force. How much a pattern ended is told when that is known at once, and
by its job otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from starlette.responses import Response

from cachesvc.engine.invalidate import Invalidated, invalidate
from cachesvc.engine.preview import preview
from cachesvc.errors import InvalidInput
from cachesvc.model.change import Idempotency, Operation
from cachesvc.model.change import invalidate as draft_of
from cachesvc.model.entry import JSON
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import parse_key
from cachesvc.model.pattern import parse_pattern
from cachesvc.protocol.api import Invalidate, parse
from cachesvc.protocol.codes import Code
from cachesvc.protocol.exact import read_object
from cachesvc.web.call import Call, names, single
from cachesvc.web.conditions import idempotency_key
from cachesvc.web.drafts import fingerprint
from cachesvc.web.entries import require_json
from cachesvc.web.problems import Problem, ProblemRaised


async def post_invalidate(call: Call) -> Response:
    wait = single(call.query("wait"), "wait")
    if wait not in (None, "all"):
        raise InvalidInput("wait", "must be all")
    asked = idempotency_key(call.headers)
    require_json(call)
    limits = call.service.limits
    body = parse(Invalidate, read_object(await call.body(limits.max_batch_size), raw=""))
    named = _named(body, most=limits.max_invalidate_keys)
    if body.dry_run:
        return await _dry_run(call, named)
    draft = draft_of(named)
    draft = draft._replace(distribute=body.distribute)
    draft = draft._replace(idempotency=Idempotency(call.subject, asked, fingerprint(draft)))
    call.writing = asked
    done = await invalidate(call.service.cache, draft)
    call.writing = None
    told = _told(done)
    if wait is not None:
        missing = await call.service.node.missing(done.written.receipt.version, within=limits.request_timeout / 2)
        told |= {"applied": not missing, "missing": missing}
    headers = {"X-Request-Id": done.written.request_id}
    if done.written.replayed:
        headers["Idempotency-Replayed"] = "true"
    return Response(orjson.dumps(told), 200, headers, JSON)


async def _dry_run(call: Call, named: Invalidation) -> Response:
    cache = call.service.cache
    told = await preview(cache.authority, named, at=cache.applied, clock=call.service.clock, loaders=cache.modules_loaded)
    body = {
        "dryRun": True,
        "matched": told.matched,
        "cascaded": told.cascaded,
        "bytes": told.nbytes,
        "modules": told.modules,
        "sample": told.sample,
        "cascade": told.tree,
        "loads": told.loads,
    }
    return Response(orjson.dumps(body), 200, media_type=JSON)


def _named(body: Invalidate, *, most: int) -> Invalidation:
    """What the body names, checked. Raises `InvalidInput`, naming the member."""
    if not body.keys and not body.tags and body.pattern is None:
        raise InvalidInput("keys", "nothing is named: give keys, a pattern or tags")
    if len(body.keys) > most:
        detail = f"keys: has {len(body.keys)} items; allowed are up to {most}"
        raise ProblemRaised(Problem(422, Code.LIMIT_EXCEEDED, detail, "keys", members={"limit": most}))
    keys: Sequence[str] = dict.fromkeys(body.keys)  # type: ignore[assignment] # each once, in order
    return Invalidation(
        parse_pattern(body.pattern).text if body.pattern is not None else "",
        tuple(parse_key(key, field=f"keys[{place}]") for place, key in enumerate(keys)),
        names(body.tags, field="tags"),
        body.cascade,
    )


def _told(done: Invalidated) -> dict[str, object]:
    receipt = done.written.receipt
    return {
        "sequence": receipt.version,
        "operation": Operation.INVALIDATE.value,
        "matched": done.matched,
        "cascaded": receipt.cascaded,
        "job": done.job,
    }
