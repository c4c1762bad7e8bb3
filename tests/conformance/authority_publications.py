"""The contract of what the log carries for subscribers: messages that are no entry, and what a change replaced."""

from __future__ import annotations

from cachesvc.model.change import Idempotency, Kind, Operation, Publication, publish
from cachesvc.model.fold import MAX_REMEMBERED
from cachesvc.model.fold_state import Terms
from cachesvc.ports import Authority
from tests.conformance.authority_store import Store, add, append, delete, put, receipts

SAID = Publication("task:42", b'{"typing": 1e400}', "ann")


class Publications:
    """`append` of publications; `Terms.remembers`."""

    async def test_a_publication_is_a_record_and_no_entry(self, authority: Authority, second: Authority) -> None:
        start = await authority.head()
        appended = await append(authority, publish(SAID), put("task:42"))
        [receipt, _] = receipts(appended)
        assert (receipt.operation, receipt.version) == (Operation.PUBLISH, start.sequence + 1)
        [change, _] = await second.read(start, 10)
        assert (change.kind, change.key, change.entry, change.publication) == (Kind.PUBLISH, None, None, SAID)
        assert change.touches == ()

    async def test_a_publication_is_not_repeated(self, authority: Authority) -> None:
        draft = publish(SAID)._replace(idempotency=Idempotency("ann", "once", "f"))
        [first] = receipts(await append(authority, draft))
        again = await append(authority, draft)
        assert (receipts(again), again.changes) == ([first], [])

    async def test_a_change_tells_what_it_replaced(self, store: Store) -> None:
        remembers = {"dashboard": "", "email": "status"}
        async with store.opened(terms=Terms(default_ttl=600.0, remembers=remembers)) as authority:
            start = await authority.head()
            await append(authority, put("dashboard:a:b", b"1.50"), put("email:1", b'{"status":"unread"}'), put("task:1", b"1"))
            await append(authority, add("dashboard:a:b"), put("email:1", b'{"status":"read"}'), put("task:1", b"2"))
            await append(authority, put("dashboard:a:b", b'"%s"' % (b"x" * MAX_REMEMBERED)), put("email:1", b"[1]"))
            await append(authority, delete("dashboard:a:b"), put("email:1", b"{}"), put("email:1", b"1"))
            told = [(change.key, change.previous) for change in await authority.read(start, 100)]
            assert told == [
                *(("dashboard:a:b", None), ("email:1", None), ("task:1", None)),
                *(("dashboard:a:b", b"1.50"), ("email:1", b'"unread"'), ("task:1", None)),
                *(("dashboard:a:b", b"2.50"), ("email:1", b'"read"')),
                *(("dashboard:a:b", None), ("email:1", None), ("email:1", None)),
            ]
