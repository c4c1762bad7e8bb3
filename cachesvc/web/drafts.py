"""Drafts: writes as requests ask for them, and answers as receipts give them, for single writes and batches alike.

The same wish has the same fingerprint, whichever route it comes by: an answer can be asked for again by any of them.
"""

from __future__ import annotations

from cachesvc.engine.answers import Written
from cachesvc.model.change import Draft, Idempotency, Operation, Receipt, actor_of
from cachesvc.protocol.codes import Code
from cachesvc.protocol.drafts import fingerprint
from cachesvc.web.conditions import Expectation
from cachesvc.web.problems import Problem


def identified(draft: Draft, expects: Expectation, *, subject: str, key: str) -> Draft:
    """The draft signed, and with its idempotency: whose it is, the key ("" for none) and what it stands for."""
    condition: object = draft.expected
    if expects.given:
        among = sorted(expects.among) if expects.among is not None else None
        condition = expects.single if expects.single is not None else (among, sorted(expects.but_not))
    return draft._replace(idempotency=Idempotency(subject, key, fingerprint(draft, condition)), actor=actor_of(subject))


def status_of(receipt: Receipt) -> int:
    """The status that a write is answered with."""
    if receipt.operation is Operation.SET:
        return 200 if receipt.found else 201
    if receipt.operation is Operation.DELETE:
        return 204 if receipt.found else 404
    return 200


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
