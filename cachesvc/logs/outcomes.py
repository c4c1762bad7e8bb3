"""Outcomes, written down: the answer kept under an idempotency key, and the record of all outcomes of a batch.

An outcome is given only to the subject whose draft it was; to another it does not exist. Fixed on disk: add, never rename.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from cachesvc.errors import Refusal, Refused
from cachesvc.model.change import Draft, Operation, Receipt
from cachesvc.model.fold_state import Result
from cachesvc.model.position import Version

_REQUEST_ID = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]{0,5})")


def batch_of(key: str) -> tuple[str, int] | None:
    """The batch and the place that an idempotency key names, if it is a `request_id`."""
    found = _REQUEST_ID.fullmatch(key)
    return (found[1], int(found[2])) if found else None


def batches_of(asked: Iterable[tuple[str, str]]) -> set[str]:
    """The batches whose records may answer the idempotency keys that are asked for."""
    return {named[0] for _, key in asked if (named := batch_of(key)) is not None}


def pack_result(result: Result) -> bytes:
    """An answer as JSON bytes."""
    return orjson.dumps([result.fingerprint, _packed(result.outcome)])


def unpack_result(record: bytes) -> Result:
    fingerprint, outcome = orjson.loads(record)
    return Result(fingerprint, _unpacked(outcome))


def pack_batch(drafts: Sequence[Draft], outcomes: Sequence[Receipt | Refused]) -> bytes:
    """All outcomes of a batch as JSON bytes, each with the subject and the fingerprint of its draft."""
    return orjson.dumps(
        [
            [*(draft.idempotency[::2] if draft.idempotency is not None else ("", "")), _packed(outcome)]
            for draft, outcome in zip(drafts, outcomes, strict=True)
        ]
    )


def unpack_batch(record: bytes) -> list[Receipt | Refused]:
    """The outcomes alone, in order: what a batch whose commit was in doubt is answered with."""
    return [_unpacked(outcome) for _, _, outcome in orjson.loads(record)]


def results_of_batches(asked: Iterable[tuple[str, str]], records: Mapping[str, bytes]) -> dict[tuple[str, str], Result]:
    """The answers to those idempotency keys that name a place in one of these batches' records."""
    results: dict[tuple[str, str], Result] = {}
    read = {batch: orjson.loads(record) for batch, record in records.items()}
    for subject, key in asked:
        named = batch_of(key)
        places = read.get(named[0], ()) if named is not None else ()
        if named is not None and named[1] < len(places):
            whose, fingerprint, outcome = places[named[1]]
            if whose == subject:
                results[subject, key] = Result(fingerprint, _unpacked(outcome))
    return results


def _packed(outcome: Receipt | Refused) -> list[object]:
    if isinstance(outcome, Refused):
        return ["!", outcome.code, outcome.field, outcome.reason, outcome.current]
    value = outcome.value.decode() if outcome.value is not None else None  # of an increment: a number's text
    receipt = [outcome.operation, outcome.version, outcome.found, value, outcome.conflict]
    return [*receipt, outcome.matched, outcome.cascaded] if outcome.operation is Operation.INVALIDATE else receipt


def _unpacked(packed: Sequence[Any]) -> Receipt | Refused:
    if packed[0] == "!":
        return Refused(Refusal(packed[1]), packed[2], packed[3], current=packed[4])
    operation, version, found, value, conflict = packed[:5]
    text = value.encode() if value is not None else None
    return Receipt(Operation(operation), Version(version), found, text, conflict, *packed[5:7])
