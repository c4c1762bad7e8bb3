"""Revocations: tokens that are not to be believed any more, though they have not ended.

The rule that must not break: what is answered is in the log. Each node believes such tokens no more once it has applied it.
"""

from __future__ import annotations

from typing import Final

import orjson
from starlette.responses import Response

from cachesvc.errors import Forbidden, InvalidInput, Overloaded
from cachesvc.model.change import Idempotency, revoke
from cachesvc.model.entry import JSON
from cachesvc.model.revocation import Revocation
from cachesvc.protocol.api import parse
from cachesvc.protocol.drafts import fingerprint
from cachesvc.protocol.exact import parts, read_object
from cachesvc.protocol.revoking import Revoke
from cachesvc.web.applied import reached, waits
from cachesvc.web.call import Call
from cachesvc.web.conditions import idempotency_key
from cachesvc.web.entries import require_json, written_headers

_PARTS: Final = parts()


async def post_revocations(call: Call) -> Response:
    wait = waits(call)
    if not call.identity.unrestricted:
        raise Forbidden("admin", "/v1/revocations")
    require_json(call)
    service = call.service
    asked = idempotency_key(call.headers)
    body = parse(Revoke, read_object(await call.body(service.limits.max_update_size), _PARTS))
    one = revocation_of(body, service.clock.now(), service.limits.revoked_for)
    if len(service.revocations) >= service.limits.max_revocations:
        raise Overloaded(f"{len(service.revocations)} revocations are in force, which is the limit", retry_after=60.0)
    same = Idempotency(call.subject, asked, fingerprint(revoke(Revocation(0.0, *body.named))))
    call.writing = asked
    written = await service.cache.write(revoke(one)._replace(idempotency=same))
    call.writing = None
    told: dict[str, object] = {"sequence": written.receipt.version, "operation": "revoke", "expiresAt": one.until}
    told |= {"jti": one.token} if one.token else {"sub": one.subject, "before": one.before}
    if wait:
        told |= await reached(call, written)
    return Response(orjson.dumps(told), 200, written_headers(written), JSON)


def revocation_of(body: Revoke, now: float, lasting: float) -> Revocation:
    """What a body asks for. Raises `InvalidInput`."""
    if (body.jti is None) == (body.sub is None):
        raise InvalidInput("jti", "give either jti, for one token, or sub, for those of a subject")
    if body.jti is not None and body.before is not None:
        raise InvalidInput("before", "is of a subject's tokens: with jti there is one")
    until = body.expires_at if body.expires_at is not None else now + lasting
    if until <= now:
        raise InvalidInput("expiresAt", "is over: such a token is believed no more in any case")
    if body.jti is not None:
        return Revocation(until, body.jti)
    before = body.before if body.before is not None else now
    if before > now:
        raise InvalidInput("before", "is in the future: no such token was issued yet")
    return Revocation(until, "", body.sub or "", before)
