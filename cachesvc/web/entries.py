"""Entries: GET, PUT, DELETE and POST of `/v1/cache/{key}`.

A value is the bytes that were sent, both ways: a hit serialises nothing.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Final

import orjson
from starlette.responses import Response

from cachesvc.engine.answers import ANY, Answer, Mark, Want, Written
from cachesvc.errors import InvalidInput, Refusal, Refused
from cachesvc.model.change import ABSENT, Draft, Operation
from cachesvc.model.entry import JSON
from cachesvc.model.position import Version
from cachesvc.protocol.api import Update, check_ttl, parse
from cachesvc.protocol.codes import Code
from cachesvc.protocol.drafts import draft_of, names, told
from cachesvc.protocol.exact import check_json, parts, read_object
from cachesvc.protocol.values import content_type, is_json
from cachesvc.web.call import Call, flag, single
from cachesvc.web.conditions import (
    NEVER,
    Expectation,
    expectation,
    idempotency_key,
    oldest_wanted,
    required,
    unchanged,
    wanted,
)
from cachesvc.web.drafts import identified, nothing_deleted, status_of
from cachesvc.web.problems import Problem, ProblemRaised

_PARTS: Final = parts("value")
PREFIX: Final = len("/v1/cache/")
_SECONDS: Final = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,3})?")
_NOT_JSON: Final = Problem(415, Code.BAD_MESSAGE, f"Content-Type: must be {JSON}", "Content-Type", headers={"Accept": JSON})


async def get_entry(call: Call) -> Response:
    call.query()
    key = call.key(PREFIX)
    call.require("read", key)
    want = wanted(call.headers)
    oldest = oldest_wanted(call.headers)
    demands = required(call.headers)
    answer = await call.service.cache.read(key, want)
    entry = answer.entry
    if entry is not None and answer.tier != "loader" and answer.now - entry.updated_at > oldest:
        # what the authority has is the truth, however old it is
        answer = await call.service.cache.read(key, replace(want, fresh=True))
        entry = answer.entry
    current = entry.version if entry is not None and not entry.deleted else ABSENT
    if not demands.met_by(current):
        raise demands.unmet(current)
    return found(call, answer, want)


def found(call: Call, answer: Answer, want: Want = ANY) -> Response:
    """What a read came to, as it is told."""
    entry = answer.entry
    if entry is None or entry.deleted:
        return _missed(answer, want).response(call.request_id)
    headers = {
        "ETag": f'"{entry.version}"',
        "Age": str(max(0, int(answer.now - entry.updated_at))),
        "Cache-Status": cache_status(answer),
        # whoever stores an answer on the way asks again: freshness is promised here and nowhere downstream
        "Cache-Control": "no-cache",
    }
    if unchanged(call.headers, entry.version):
        return Response(None, 304, headers)
    # a stored value is data: a browser that opens it neither guesses at it nor runs it
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Content-Security-Policy"] = "sandbox"
    headers["Content-Type"] = entry.content_type
    return Response(entry.value, 200, headers)


async def put_entry(call: Call) -> Response:
    key = call.key(PREFIX)
    call.require("write", key)
    if "content-range" in call.headers:
        raise InvalidInput("Content-Range", "is not taken: a value is written whole", malformed=True)
    query = call.query("ttl", "tags", "depends_on", "distribute")
    ttl = single(query, "ttl")
    draft = Draft(
        Operation.SET,
        key,
        content_type=content_type(call.headers.get("content-type", JSON)),
        ttl=_seconds(ttl) if ttl is not None else None,
        tags=names(query.get("tags", []), field="tags"),
        parents=names(query.get("depends_on", []), field="depends_on"),
        distribute=flag(query, "distribute", default=True),
    )
    expects = expectation(call.headers)
    asked = idempotency_key(call.headers)
    value = await call.body(call.service.limits.max_value_size)
    if is_json(draft.content_type):
        check_json(value)
    draft, written = await write(call, draft._replace(value=value), expects, asked)
    return _done(draft, written, value=False)


async def delete_entry(call: Call) -> Response:
    key = call.key(PREFIX)
    call.require("write", key)
    distribute = flag(call.query("distribute"), "distribute", default=True)
    draft = Draft(Operation.DELETE, key, distribute=distribute)
    draft, written = await write(call, draft, expectation(call.headers), idempotency_key(call.headers))
    if written.receipt.found:
        return Response(None, 204, _write_headers(written))
    return _done(draft, written, value=False)


async def post_entry(call: Call) -> Response:
    key = call.key(PREFIX)
    call.require("write", key)
    call.query()
    expects = expectation(call.headers)
    asked = idempotency_key(call.headers)
    require_json(call)
    limits = call.service.limits
    body = await call.body(limits.max_update_size)
    draft = draft_of(parse(Update, read_object(body, _PARTS)), key, max_value_size=limits.max_value_size)
    if expects.given and draft.expected is not None:
        raise InvalidInput("expectedVersion", "is given twice: in a header as well")
    if expects.given and draft.base is not None:
        raise InvalidInput("baseVersion", "refuses and accepts at once together with a condition in a header")
    if expects.token is not None and draft.token is not None:
        raise InvalidInput("fillToken", "is given twice: in a header as well")
    draft, written = await write(call, draft, expects, asked)
    return _done(draft, written, value=True)


async def write(call: Call, draft: Draft, expects: Expectation, asked: str) -> tuple[Draft, Written]:
    """Carry out a draft under what its request demands."""
    draft = draft._replace(token=expects.token or draft.token)
    draft = identified(draft, expects, subject=call.subject, key=asked)
    if expects.single is not None:
        draft = draft._replace(expected=expects.single)
    if not expects.given or expects.single is not None:
        return await _append(call, draft, asked)
    while True:
        # the log compares with one version: name the one that is there, if it will do
        entry = (await call.service.cache.read(draft.key, Want(fresh=True, only_cached=True))).entry
        current = entry.version if entry is not None else ABSENT
        expected = current if expects.met_by(current) else NEVER
        try:
            # also what cannot be met goes to the log: it may be a retry, whose answer is kept there
            return await _append(call, draft._replace(expected=expected), asked)
        except Refused as refused:
            now = Version(refused.current)
            if refused.code is not Refusal.VERSION_CONFLICT or (asked and expects.met_by(now)):  # which is kept under the key
                raise
            if not expects.met_by(now):
                raise expects.unmet(now, replayed=refused.replayed) from None
            call.writing = None  # another was faster, and left a version that will do as well: once more


async def _append(call: Call, draft: Draft, asked: str) -> tuple[Draft, Written]:
    call.writing = asked
    written = await call.service.cache.write(draft)
    call.writing = None
    return draft, written


def cache_status(answer: Answer) -> str:
    """How the answer came about (RFC 9211)."""
    if answer.entry is None:
        return "cachesvc; hit; detail=negative" if answer.mark is Mark.NEGATIVE else "cachesvc; fwd=uri-miss"
    if answer.tier == "loader":
        return f"cachesvc; fwd=uri-miss;{' stored;' if answer.stored else ''} detail=loader"
    ttl = f" ttl={math.floor(answer.ttl)};" if answer.ttl is not None else ""
    # it went on to the origin, which could not be asked, or not soon enough: of hit and fwd only one may be said
    way = "fwd=stale" if answer.mark in (Mark.SLOW, Mark.FAILED) else "hit"
    return f"cachesvc; {way};{ttl} detail={answer.tier}"


def written_headers(written: Written) -> dict[str, str]:
    """What the answer to a write says so that it can be sent again."""
    headers = {"X-Request-Id": written.request_id}
    if written.replayed:
        headers["Idempotency-Replayed"] = "true"
    return headers


def require_json(call: Call) -> None:
    """A body that says it is not JSON is not read as such: no foreign page can send one without being asked for leave."""
    if call.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise ProblemRaised(_NOT_JSON)


def _missed(answer: Answer, want: Want) -> Problem:
    headers = {"Fill-Token": str(answer.token), "Cache-Status": cache_status(answer)}
    if want.only_cached and answer.mark is not Mark.NEGATIVE:
        detail = "nothing is stored, and only-if-cached asks not to load it"
        return Problem(504, Code.NOT_FOUND, detail, "key", headers=headers)
    return Problem(404, Code.NOT_FOUND, "there is no entry of this key", "key", headers=headers)


def _done(draft: Draft, written: Written, *, value: bool) -> Response:
    headers = _write_headers(written)
    receipt = written.receipt
    if receipt.operation is Operation.DELETE and not receipt.found:
        problem = nothing_deleted(written)
        return replace(problem, headers=headers).response(written.request_id)
    status = 200 if receipt.operation is Operation.DELETE else status_of(receipt)
    return Response(orjson.dumps(told(draft, receipt, value=value)), status, headers, JSON)


def _write_headers(written: Written) -> dict[str, str]:
    return {"ETag": f'"{written.receipt.version}"', **written_headers(written)}


def _seconds(text: str) -> float:
    return check_ttl(float(text) if _SECONDS.fullmatch(text) else text)
