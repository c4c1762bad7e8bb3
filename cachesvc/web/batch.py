"""Batch: many operations in one request, each answered as it would have been alone.

Operations on the same key take effect in their order; those on different keys share round trips. The idempotency key is
the request's: its writes are each found again by their place, and another request with the key does nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

import orjson
import xxhash
from starlette.responses import Response

from cachesvc.engine.answers import Answer, Written
from cachesvc.errors import CacheError, Forbidden, InvalidInput, LimitExceeded, OutcomeUnknown, Refusal, Refused
from cachesvc.model.change import Draft, Idempotency, Operation, actor_of
from cachesvc.model.entry import JSON
from cachesvc.model.keys import Key, parse_key
from cachesvc.protocol.api import Get, KeyedUpdate, parse
from cachesvc.protocol.codes import Code
from cachesvc.protocol.drafts import draft_of, fingerprint, told
from cachesvc.protocol.exact import parts, read_object
from cachesvc.protocol.values import value_members
from cachesvc.web.call import Call
from cachesvc.web.conditions import idempotency_key
from cachesvc.web.drafts import nothing_deleted, status_of
from cachesvc.web.entries import require_json
from cachesvc.web.problems import Problem, problem_of

_PARTS: Final = parts("value", within=("operations",))
_READS_AT_ONCE: Final = 64  # so that what is held while an answer is made stays bounded


@dataclass(frozen=True, slots=True)
class Step:
    """One valid operation: a read of a key, or a write."""

    place: int
    key: Key
    draft: Draft | None  # None: a read


Result = dict[str, object]


async def post_batch(call: Call) -> Response:
    call.query()
    require_json(call)
    # without a key of the client's the id of the request is one: sent as Idempotency-Key it finds the results
    asked = idempotency_key(call.headers) or call.request_id
    limits = call.service.limits
    members = read_object(await call.body(limits.max_batch_size), _PARTS.up_to(limits.max_batch_operations))
    operations = _operations(members, most=limits.max_batch_operations)
    results: list[Result] = [{} for _ in operations]
    steps: list[Step] = []
    for place, operation in enumerate(operations):
        path = f"operations[{place}]"
        try:
            step = _step(operation, place, path, max_value_size=limits.max_value_size)
            call.require("read" if step.draft is None else "write", step.key)
            steps.append(step)
        except (InvalidInput, Forbidden) as wrong:
            results[place] = _failed(operation, problem_of(wrong))
    steps = _identified(steps, results, subject=call.subject, key=asked)
    room = limits.max_batch_size
    replayed = False
    for reads, writes in _rounds(steps):
        room = await _read(call, reads, results, room)
        replayed |= await _write(call, writes, results, asked)
    headers = {"X-Request-Id": asked} | ({"Idempotency-Replayed": "true"} if replayed else {})
    return Response(orjson.dumps({"results": results}), 200, headers, JSON)


def _operations(members: dict[str, object], *, most: int) -> Sequence[object]:
    for name in members:
        if name != "operations":
            raise InvalidInput(name, "is not known here")
    operations = members.get("operations")
    if not isinstance(operations, list):
        raise InvalidInput("operations", "must be an array of operations")
    if len(operations) > most:
        raise LimitExceeded("operations", f"has {len(operations)} items", most)
    return operations


def _step(operation: object, place: int, path: str, *, max_value_size: int) -> Step:
    if not isinstance(operation, dict):
        raise InvalidInput(path, "is not an object")
    if operation.get("operation") == "get":
        return Step(place, parse_key(parse(Get, operation, path=path).key, field=f"{path}.key"), None)
    if operation.get("operation") not in (None, "set", "delete", "increment"):
        raise InvalidInput(f"{path}.operation", "must be 'get', 'set', 'delete' or 'increment'")
    update = parse(KeyedUpdate, operation, path=path)
    key = parse_key(update.key, field=f"{path}.key")
    return Step(place, key, draft_of(update, key, max_value_size=max_value_size, path=f"{path}."))


def _identified(steps: Sequence[Step], failed: Sequence[Result], *, subject: str, key: str) -> list[Step]:
    """The steps, their writes with the idempotency of the whole request: all of its operations, in order."""
    wishes: list[object] = ["batch", *failed]
    for step in steps:
        wishes[step.place + 1] = fingerprint(step.draft) if step.draft is not None else ["get", step.key]
    whole = xxhash.xxh3_128_hexdigest(orjson.dumps(wishes))
    places = count()
    identified: list[Step] = []
    for step in steps:
        draft = step.draft
        if draft is not None:
            draft = draft._replace(idempotency=Idempotency(subject, key, whole, next(places)), actor=actor_of(subject))
        identified.append(replace(step, draft=draft))
    return identified


def _rounds(steps: Sequence[Step]) -> Iterator[tuple[list[Step], list[Step]]]:
    """Reads, then writes, round by round: a read goes into the round after the last write of its key before it."""
    rounds: list[tuple[list[Step], list[Step]]] = []
    earliest: dict[Key, int] = {}  # the round from which on a read of the key sees what was written to it
    latest: dict[Key, int] = {}  # the last round in which the key is read or written
    for step in steps:
        number = earliest.get(step.key, 0) if step.draft is None else latest.get(step.key, 0)
        if step.draft is not None:
            earliest[step.key] = number + 1
        latest[step.key] = number
        while len(rounds) <= number:
            rounds.append(([], []))
        rounds[number][step.draft is not None].append(step)
    return iter(rounds)


async def _read(call: Call, steps: Sequence[Step], results: list[Result], room: int) -> int:
    """Read, and fill in the results; returns how many bytes of values there is still room for."""
    for start in range(0, len(steps), _READS_AT_ONCE):
        some = steps[start : start + _READS_AT_ONCE]
        answers = await call.service.cache.read_many([step.key for step in some])
        for step, answer in zip(some, answers, strict=True):
            result, taken = _got(step.key, answer, room)
            results[step.place] = result
            room -= taken
    return room


def _got(key: Key, answer: Answer | CacheError, room: int) -> tuple[Result, int]:
    result: Result = {"status": 200, "operation": "get", "key": key}
    if isinstance(answer, CacheError):
        problem = problem_of(answer)
    elif answer.entry is None or answer.entry.deleted:
        token = {"fillToken": str(answer.token)}
        problem = Problem(404, Code.NOT_FOUND, "there is no entry of this key", "key", members=token)
    elif len(answer.entry.value) > room:
        problem = Problem(413, Code.TOO_LARGE, "the answer has no room left for this value: get it by itself", "key")
    else:
        entry = answer.entry
        return result | {"version": entry.version} | value_members(entry), len(entry.value)
    return result | {"status": problem.status, "problem": problem.body()}, 0


async def _write(call: Call, steps: Sequence[Step], results: list[Result], asked: str) -> bool:
    """Write, and fill in the results; returns whether some were given before. Raises `Refused` for another request's key."""
    drafts = [step.draft for step in steps if step.draft is not None]
    if not drafts:
        return False
    call.writing = asked
    outcomes = await call.service.cache.write_many(drafts)
    for step, draft, outcome in zip(steps, drafts, outcomes, strict=True):
        if isinstance(outcome, Refused) and outcome.code is Refusal.KEY_REUSED:
            raise outcome
        results[step.place] = _wrote(draft, outcome, asked)
    return any(isinstance(outcome, Written | Refused) and outcome.replayed for outcome in outcomes)


def _wrote(draft: Draft, outcome: Written | CacheError, asked: str) -> Result:
    if isinstance(outcome, CacheError):
        # a single write has no id of its own: the key of the whole request finds what became of it
        problem = replace(problem_of(outcome), request_id=asked if isinstance(outcome, OutcomeUnknown) else None)
        head: Result = {"status": problem.status, "operation": draft.operation.value, "key": draft.key}
        return head | {"problem": problem.body()}
    receipt = outcome.receipt
    result: Result = {"status": status_of(receipt)}
    result |= told(draft, receipt, value=draft.operation is Operation.INCREMENT)
    if result["status"] == 404:
        result["problem"] = replace(nothing_deleted(outcome), request_id=None).body()
    return result


def _failed(operation: object, problem: Problem) -> Result:
    """The result of an operation that says too little to be carried out."""
    result: Result = {"status": problem.status, "problem": problem.body()}
    if isinstance(operation, dict):
        for name in ("operation", "key"):
            text = operation.get(name)
            if isinstance(text, str) and len(text) <= 512 and text.isprintable():
                result[name] = text
    return result
