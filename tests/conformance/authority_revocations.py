"""The contract of revocations: records of the log that are kept beside it for as long as their tokens may live."""

from __future__ import annotations

from cachesvc.model.change import Idempotency, Kind, Operation, revoke
from cachesvc.model.revocation import GRACE, Revocation
from cachesvc.ports import Authority, Retention
from tests.conformance.authority_store import append, put, receipts


class Revocations:
    """`append` of revocations; `standing`, `trim` and `sweep` of them."""

    async def test_a_revocation_is_a_record_and_no_entry(self, authority: Authority, second: Authority) -> None:
        start = await authority.head()
        one = Revocation(await authority.time() + 60.0, "", "ann", 7.25)
        appended = await append(authority, revoke(one), put("task:42"))
        [receipt, _] = receipts(appended)
        assert (receipt.operation, receipt.version) == (Operation.REVOKE, start.sequence + 1)
        [change, _] = await second.read(start, 10)
        assert (change.kind, change.key, change.entry, change.revocation) == (Kind.REVOKE, None, None, one)
        assert (change.touches, change.distribute) == ((), False)

    async def test_it_is_not_repeated(self, authority: Authority) -> None:
        draft = revoke(Revocation(await authority.time() + 60.0, "t"))
        draft = draft._replace(idempotency=Idempotency("ann", "once", "f"))
        [first] = receipts(await append(authority, draft))
        again = await append(authority, draft)
        assert (receipts(again), again.changes) == ([first], [])

    async def test_it_stands_when_its_record_is_trimmed(self, authority: Authority, second: Authority) -> None:
        now = await authority.time()
        some = [Revocation(now + 60.0, "t-1"), Revocation(now + 90.0, "", "ann", now), Revocation(now + 90.0, "", "ann", 1.0)]
        await append(authority, *map(revoke, some))
        await append(authority, *(put(f"k:{number}") for number in range(20)))
        while await authority.trim(Retention(count=1)):
            continue
        await authority.sweep(limit=100)
        assert sorted((await second.standing()).revocations) == sorted(some)

    async def test_of_two_of_a_token_the_longer_stands(self, authority: Authority, second: Authority) -> None:
        now = await authority.time()
        for until in (now + 60.0, now + 600.0, now + 30.0):
            await append(authority, revoke(Revocation(until, "t-1")))
        assert list((await second.standing()).revocations) == [Revocation(now + 600.0, "t-1")]

    async def test_it_is_forgotten_when_its_tokens_have_ended(self, authority: Authority, second: Authority) -> None:
        now = await authority.time()
        await append(authority, revoke(Revocation(now - GRACE - 1.0, "past")), revoke(Revocation(now - GRACE + 60.0, "kept")))
        await authority.sweep(limit=100)
        assert [one.token for one in (await second.standing()).revocations] == ["kept"]
