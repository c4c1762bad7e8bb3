"""Listings: keys by pattern, and entries by indexed fields, page by page in byte order of the keys.

A cursor is the last key of its page, so a page is right whatever was written since, and no state is kept for it. It goes on
only with what it began with: with another pattern, or other fields, it is refused.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import orjson
import xxhash
from starlette.responses import Response

from cachesvc.errors import InvalidInput
from cachesvc.model.entry import JSON, Entry
from cachesvc.model.keys import Key, parse_key
from cachesvc.model.pattern import parse_pattern
from cachesvc.ports import Listed
from cachesvc.protocol.values import value_members
from cachesvc.web.call import Call, Query, parse_query, single, whole_number

MAX_LIMIT: Final = 1_000
DEFAULT_LIMIT: Final = 100
RESERVED: Final = ("limit", "cursor")  # of a query; any other parameter is a field
MAX_FIELDS: Final = 16
_ENTRIES_AT_ONCE: Final = 64
_CHECKSUM: Final = 8  # bytes, of what is listed, before the key in a cursor

Shown = TypeVar("Shown", Entry, Listed)


async def get_keys(call: Call) -> Response:
    query = call.query("pattern", "limit", "cursor")
    glob = single(query, "pattern")
    glob = "*" if glob is None else glob
    pattern = parse_pattern(glob)
    call.require_all("read", glob)
    authority = call.service.cache.authority
    now = call.service.clock.now()
    keys, cursor = await _page(
        query,
        _checksum("keys", glob),
        lambda after, limit: authority.list_entries(pattern, after=after, limit=limit),
        lambda listed: (_listed(listed.entry, listed.size, now), 0),
        room=0,
    )
    return Response(orjson.dumps({"keys": keys, "cursor": cursor}), media_type=JSON)


async def get_query(call: Call) -> Response:
    query = parse_query(call.scope["query_string"])
    fields = {name: values for name, values in query.items() if name not in RESERVED}
    call.require_all("read", "*")
    if not fields:
        raise InvalidInput("query", "names no field: give at least one, like ?status=open")
    if len(fields) > MAX_FIELDS:
        raise InvalidInput("query", f"names {len(fields)} fields; allowed are up to {MAX_FIELDS}")
    authority = call.service.cache.authority
    now = call.service.clock.now()
    entries, cursor = await _page(
        query,
        _checksum("query", sorted((name, sorted(values)) for name, values in fields.items())),
        lambda after, limit: authority.query(fields, after=after, limit=limit),
        lambda entry: (_listed(entry, len(entry.value), now) | value_members(entry), len(entry.value)),
        room=call.service.limits.max_batch_size,
    )
    return Response(orjson.dumps({"entries": entries, "cursor": cursor}), media_type=JSON)


async def _page(
    query: Query,
    listed: bytes,
    more: Callable[[Key | None, int], Awaitable[Sequence[Shown]]],
    show: Callable[[Shown], tuple[dict[str, object], int]],
    *,
    room: int,
) -> tuple[list[dict[str, object]], str | None]:
    """Up to `limit` entries as shown, or as many as there is room for (at least one), and the cursor of the next page.

    `listed` is the checksum of what is listed, by which a cursor of something else is known.
    """
    limit = whole_number(query, "limit", default=DEFAULT_LIMIT, least=1, most=MAX_LIMIT)
    cursor = single(query, "cursor")
    after = _after(cursor, listed) if cursor is not None else None
    shown: list[dict[str, object]] = []
    while True:
        asked = min(limit - len(shown) + 1, _ENTRIES_AT_ONCE)
        entries = await more(after, asked)
        for entry in entries:
            members, taken = show(entry)
            room -= taken
            if len(shown) == limit or (shown and taken and room < 0):
                return shown, _cursor(after, listed)
            shown.append(members)
            after = entry.key
        if len(entries) < asked:
            return shown, None


def _listed(entry: Entry, nbytes: int, now: float) -> dict[str, object]:
    return {
        "key": entry.key,
        "version": entry.version,
        "ttl": round(max(0.0, entry.expires_at - now), 3) if entry.expires_at is not None else None,
        "size": nbytes,
        "tags": entry.tags,
    }


def _checksum(route: str, listed: object) -> bytes:
    return xxhash.xxh3_64_digest(orjson.dumps([route, listed]))


def _cursor(after: Key | None, listed: bytes) -> str | None:
    return urlsafe_b64encode(listed + after.encode()).decode().rstrip("=") if after is not None else None


def _after(cursor: str, listed: bytes) -> Key:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        told = urlsafe_b64decode(padded)
        key = parse_key(told[_CHECKSUM:])
    except (ValueError, binascii.Error, InvalidInput):
        raise InvalidInput("cursor", "is not one that a page before this gave") from None
    if told[:_CHECKSUM] != listed:
        raise InvalidInput("cursor", "is of another listing: the pattern, or the fields, must be those of the page before")
    return key
