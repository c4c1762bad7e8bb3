"""Clients of an interleaving: what they ask of a node, with what the answer must be.

The rule that must not break: what an answer is held against is taken down before the question is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cachesvc.engine.answers import ANY, Answer, Want, Written
from cachesvc.errors import CacheError, OutcomeUnknown, Refused, Unavailable
from cachesvc.model.change import Draft, Idempotency, Operation, invalidate
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.position import Position, Version
from tests.properties.node import Node
from tests.properties.site import KEYS
from tests.properties.truth import Meaning

TEXT = "text/plain"


async def read(node: Node, key: Key, want: Want = ANY) -> Answer | None:
    """Read, and hold the answer against the truth. None where the node said that it could not."""
    site = node.site
    floor = max(node.cache.applied.sequence, node.known.get(key, 0), want.min_version or 0)
    if want.fresh:
        floor = max(floor, site.database.position.sequence)
    try:
        answer = await node.cache.read(key, want)
    except Unavailable:
        return None
    seen = site.truth.check(node.name, key, floor, answer.entry, site.time.now(), stale=want.max_stale)
    node.known[key] = max(node.known.get(key, 0), seen)
    if site.trace is not None:
        found = f"@{answer.entry.version} {answer.entry.value!r}" if answer.entry is not None else "absent"
        site.note(f"{node.name} reads {key} {want} from {answer.tier}: {found}")
    return answer


def set_draft(node: Node, key: Key, *, ttl: float | None = None, expected: Version | None = None) -> Draft:
    """A write of a value that nobody else writes, with an idempotency key."""
    number = next(node.site.numbers)
    idempotency = Idempotency("someone", f"k{number}", "f")
    return Draft(Operation.SET, key, b"w%d" % number, TEXT, ttl=ttl, expected=expected, idempotency=idempotency)


async def write(node: Node, draft: Draft) -> Written | CacheError:
    """Write, and hold what is acknowledged against the log."""
    site = node.site
    try:
        written = await node.cache.write(draft)
    except Refused as refused:
        site.truth.refuse(draft.value)
        site.note(f"{node.name} refuses {draft.operation} {draft.key}: {refused}")
        return refused
    except (Unavailable, OutcomeUnknown) as exc:
        return exc
    version = written.receipt.version
    site.note(f"{node.name} acknowledges {draft.operation} {draft.key} {draft.value!r} @{version}")
    if draft.operation in (Operation.SET, Operation.FILL):
        site.truth.acknowledged(draft.key, version, draft.value)
    if not written.replayed:  # else another node may have written it
        for key in _touched(draft):
            node.known[key] = max(node.known.get(key, 0), version)
    return written


def _touched(draft: Draft) -> Sequence[Key]:
    named = draft.invalidation
    if named is None:
        return (draft.key,)
    pattern = parse_pattern(named.pattern) if named.pattern else None
    return [key for key in KEYS if key in named.keys or (pattern is not None and pattern.matches(key))]


def wipe(pattern: str = "", *keys: Key, cascade: bool = False, soft: bool = False) -> Draft:
    return invalidate(Invalidation(pattern, keys, cascade=cascade, soft=soft))


async def change_origin(node: Node, key: Key, draft: Draft) -> Written | CacheError:
    """What a loader would get of a key is another; who changed it invalidates it."""
    node.site.truth.origin[key] += 1
    return await write(node, draft)


async def fill(node: Node, other: Node, key: Key, parent: Key) -> Written | CacheError | None:
    """Miss a key, compute it from its parent, which is read at another node, and fill it in with the token of the miss."""
    missed = await read(node, key, Want(only_cached=True))
    if missed is None or missed.entry is not None:
        return None
    if other.alive and other is not node and other.up:
        task = other.start(read(other, parent, Want(min_version=Version(missed.token.sequence))))
        done = asyncio.Event()
        task.add_done_callback(lambda _: node.loop.call_soon(done.set))
        await done.wait()
        found = task.result() if not task.cancelled() else None
    else:
        found = await read(node, parent)
    if found is None or found.entry is None:
        return None
    return await fill_with(node, key, missed.token, parent, found.entry.version)


async def fill_with(node: Node, key: Key, token: Position, parent: Key | None, seen: int) -> Written | CacheError:
    """Fill a key with what was computed from that version of its parent, or from what the origin says now."""
    site = node.site
    value = b"f%d" % next(site.numbers)
    meaning = Meaning(key, parent=parent, seen=seen) if parent is not None else Meaning(key, origin=site.truth.origin[key])
    site.truth.meanings[value] = meaning
    return await write(node, Draft(Operation.FILL, key, value, TEXT, parents=(parent,) if parent else (), token=token))
