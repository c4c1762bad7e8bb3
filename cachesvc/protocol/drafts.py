"""Drafts: writes as requests ask for them, and answers as receipts give them, whichever way they come.

The same wish has the same fingerprint, by any route: an answer can be asked for again by any of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import xxhash

from cachesvc.errors import InvalidInput, LimitExceeded
from cachesvc.model.change import Draft, Operation, Receipt
from cachesvc.model.entry import JSON
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key, parse_key, parse_name
from cachesvc.model.numbers import parse_number
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.position import Version, parse_position
from cachesvc.protocol.api import MAX_NAMES, Invalidate, Update
from cachesvc.protocol.exact import check_nesting


def draft_of(update: Update, key: Key, *, max_value_size: int, path: str = "") -> Draft:
    """The draft that an update asks for. Raises `InvalidInput` naming the member, below `path`."""
    if update.expected_version is not None and update.base_version is not None:
        raise InvalidInput(f"{path}baseVersion", "refuses and accepts at once together with expectedVersion: give one")
    draft = Draft(
        Operation(update.operation),
        key,
        ttl=update.ttl,
        tags=names(update.tags, field=f"{path}tags"),
        parents=names(update.depends_on, field=f"{path}dependsOn"),
        expected=Version(update.expected_version) if update.expected_version is not None else None,
        base=Version(update.base_version) if update.base_version is not None else None,
        token=parse_position(update.fill_token, field=f"{path}fillToken") if update.fill_token is not None else None,
        distribute=update.distribute,
    )
    field = f"{path}value"
    if draft.operation is Operation.SET:
        if update.value is None:
            raise InvalidInput(field, "is missing: a set needs one, null if that is meant")
        if len(update.value) > max_value_size:
            raise InvalidInput(field, f"is larger than the limit of {max_value_size} bytes", too_large=True)
        check_nesting(update.value, field=field)
        return draft._replace(value=bytes(update.value), content_type=JSON)
    if draft.operation is Operation.INCREMENT and update.value is not None:
        return draft._replace(amount=parse_number(update.value, field=field))
    return draft


def invalidation_of(body: Invalidate, *, most: int, path: str = "") -> Invalidation:
    """What the body names, checked. Raises `InvalidInput`, naming the member, and `LimitExceeded`."""
    if not body.keys and not body.tags and body.pattern is None:
        raise InvalidInput(f"{path}keys", "nothing is named: give keys, a pattern or tags")
    if len(body.keys) > most:
        raise LimitExceeded(f"{path}keys", f"has {len(body.keys)} items", most)
    keys: Sequence[str] = dict.fromkeys(body.keys)  # type: ignore[assignment] # each once, in order
    return Invalidation(
        parse_pattern(body.pattern, field=f"{path}pattern").text if body.pattern is not None else "",
        tuple(parse_key(key, field=f"{path}keys[{place}]") for place, key in enumerate(keys)),
        names(body.tags, field=f"{path}tags"),
        body.cascade,
        soft=body.soft,
    )


def names(values: list[str], *, field: str) -> tuple[str, ...]:
    """Tags or parents, checked; each once, in order."""
    if len(values) > MAX_NAMES:
        raise InvalidInput(field, f"has {len(values)} items; allowed are up to {MAX_NAMES}")
    return tuple(dict.fromkeys(parse_name(value, field=f"{field}[{i}]") for i, value in enumerate(values)))


def fingerprint(draft: Draft, condition: object = None) -> str:
    """A checksum of all that is wished for: the same for the same wish. `condition`: where it is more than one version."""
    wish = (
        draft.operation,
        draft.key,
        draft.content_type,
        str(draft.amount),
        draft.ttl,
        draft.tags,
        draft.parents,
        draft.expected if condition is None else condition,
        draft.base,
        str(draft.token) if draft.token is not None else None,
        draft.distribute,
    )
    if draft.invalidation is not None:
        wish = (*wish, list(draft.invalidation[:-1]))  # type: ignore[assignment] # only written down
    if draft.publication is not None:
        resource, message = draft.publication[:2]
        wish = (*wish, resource, message.decode())  # type: ignore[assignment] # only written down
    if draft.revocation is not None:
        wish = (*wish, list(draft.revocation))  # type: ignore[assignment] # only written down
    if draft.called is not None:
        wish = (*wish, list(draft.called))  # type: ignore[assignment] # only written down
    digest = xxhash.xxh3_128(orjson.dumps(wish))
    digest.update(draft.value)
    return digest.hexdigest()


def told(draft: Draft, receipt: Receipt, *, value: bool) -> dict[str, object]:
    """What a write did, as JSON; with its `value` where that is asked for."""
    body: dict[str, object] = {"key": draft.key, "version": receipt.version, "operation": receipt.operation.value}
    if value and receipt.operation is not Operation.DELETE:
        result = draft.value if receipt.value is None else receipt.value
        body["value"] = orjson.Fragment(result or b"null")
    if receipt.conflict:
        body["conflictId"] = receipt.conflict
    return body
