"""Which tokens revocations are of, and how long they are known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachesvc.model.revocation import GRACE, Revocation, Revocations, pack_revocation, unpack_revocation

times = st.floats(0, 4e9)
some = st.builds(Revocation, times, st.just(""), st.sampled_from(["ann", "bob"]), times) | st.builds(
    Revocation, times, st.sampled_from(["t-1", "t-2"]), st.just(""), st.just(0.0)
)


@given(some, some)
def test_it_reads_what_it_wrote_and_the_longer_is_the_greater(one: Revocation, other: Revocation) -> None:
    assert unpack_revocation(pack_revocation(one)) == one
    if one.until - other.until > 0.001:
        assert pack_revocation(one) > pack_revocation(other)


@given(st.lists(some, max_size=8), times, st.sampled_from(["", "t-1", "t-3"]), st.sampled_from(["ann", "carl"]))
def test_a_token_is_revoked_by_its_id_or_by_when_it_was_issued(
    known: list[Revocation], issued_at: float, token: str, subject: str
) -> None:
    by_id = any(one.token == token for one in known if one.token)
    by_subject = any(one.subject == subject and issued_at <= one.before for one in known if not one.token)
    revocations = Revocations(known, lambda: 0.0)
    assert revocations.cover(subject, token, issued_at) is (by_id or by_subject)
    assert len(revocations) <= len({one.name for one in known})


def test_who_listens_hears_of_each_and_what_is_past_is_forgotten() -> None:
    now = 1_000.0
    revocations = Revocations([Revocation(now + 10, "first"), Revocation(now + 10, "", "ann", now)], lambda: now)
    heard: list[int] = []
    revocations.told.append(lambda: heard.append(len(revocations)))
    now += 10 + GRACE
    revocations.add([Revocation(now + 10, "second")])
    assert (heard, revocations.cover("bob", "first", now)) == ([3], True)
    now += 61
    revocations.add([Revocation(now + 10, "third")])
    assert (heard, revocations.cover("bob", "first", now), revocations.cover("ann", "", 0.0)) == ([3, 2], False, False)
    revocations.add([])
    assert heard == [3, 2]
