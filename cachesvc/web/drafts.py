"""Drafts: writes as requests ask for them, and answers as receipts give them, for single writes and batches alike.

The same wish has the same fingerprint, whichever route it comes by: an answer can be asked for again by any of them.
"""

from __future__ import annotations

from typing import Final

import orjson
import xxhash

from cachesvc.engine.answers import Written
from cachesvc.errors import InvalidInput
from cachesvc.model.change import Draft, Idempotency, Operation, Receipt
from cachesvc.model.entry import JSON
from cachesvc.model.keys import Key
from cachesvc.model.numbers import parse_number
from cachesvc.model.position import Version
from cachesvc.protocol.api import Update
from cachesvc.protocol.codes import Code
from cachesvc.protocol.exact import check_nesting
from cachesvc.web.call import names
from cachesvc.web.conditions import Expectation
from cachesvc.web.problems import Problem

_NO_EXPECTATION: Final = Expectation()


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


def identified(draft: Draft, expects: Expectation, *, subject: str, key: str) -> Draft:
    """The draft with its idempotency: whose it is, the key ("" for none) and what it stands for."""
    return draft._replace(idempotency=Idempotency(subject, key, fingerprint(draft, expects)))


def fingerprint(draft: Draft, expects: Expectation = _NO_EXPECTATION) -> str:
    """A checksum of all that is wished for: the same for the same wish."""
    condition: object = draft.expected
    if expects.given:
        among = sorted(expects.among) if expects.among is not None else None
        condition = expects.single if expects.single is not None else (among, sorted(expects.but_not))
    wish = (
        draft.operation,
        draft.key,
        draft.content_type,
        str(draft.amount),
        draft.ttl,
        draft.tags,
        draft.parents,
        condition,
        draft.base,
        str(draft.token) if draft.token is not None else None,
        draft.distribute,
    )
    if draft.invalidation is not None:
        wish = (*wish, list(draft.invalidation))  # type: ignore[assignment] # only written down
    digest = xxhash.xxh3_128(orjson.dumps(wish))
    digest.update(draft.value)
    return digest.hexdigest()


def status_of(receipt: Receipt) -> int:
    """The status that a write is answered with."""
    if receipt.operation is Operation.SET:
        return 200 if receipt.found else 201
    if receipt.operation is Operation.DELETE:
        return 204 if receipt.found else 404
    return 200


def told(draft: Draft, receipt: Receipt, *, value: bool) -> dict[str, object]:
    """What a write did, as JSON; with its `value` where that is asked for."""
    body: dict[str, object] = {"key": draft.key, "version": receipt.version, "operation": receipt.operation.value}
    if value and receipt.operation is not Operation.DELETE:
        result = receipt.value if receipt.operation is Operation.INCREMENT else draft.value
        body["value"] = orjson.Fragment(result or b"null")
    if receipt.conflict:
        body["conflictId"] = receipt.conflict
    return body


def nothing_deleted(written: Written) -> Problem:
    """The deletion of what was not there: recorded all the same."""
    version = written.receipt.version
    return Problem(
        404,
        Code.NOT_FOUND,
        "there was no entry; the deletion is recorded",
        "key",
        request_id=written.request_id,
        members={"version": version},
        headers={"ETag": f'"{version}"'},
    )
