"""The contract of an authority's writes: what a batch of drafts becomes, and that its answers are remembered.

That the fold is the same everywhere is tested against the fold itself, over a dict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachesvc.errors import Refusal, Refused
from cachesvc.model.change import (
    ABSENT,
    MAX_RECORDED_VALUE,
    PRESENT,
    Change,
    Draft,
    Idempotency,
    Kind,
    Operation,
    request_id,
)
from cachesvc.model.entry import JSON, Entry
from cachesvc.model.fold import fold
from cachesvc.model.fold_state import State
from cachesvc.model.keys import Key
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.position import Epoch, Position, Seq, Version
from cachesvc.ports import Authority
from tests.conformance.authority_store import (
    EVERYTHING,
    KEYS,
    SHORT,
    TERMS,
    Store,
    add,
    append,
    delete,
    entry_at,
    fill,
    passed,
    put,
    receipts,
    refusal,
    values,
)

Wish = tuple[Operation, int, bytes, str, str]

WISHES = st.tuples(
    st.sampled_from([Operation.SET, Operation.DELETE, Operation.INCREMENT, Operation.FILL]),
    st.integers(0, 2),
    st.sampled_from([b"1", b"2.50", b'"text"', b""]),
    st.sampled_from(["", "", "", "absent", "present", "current", "in batch", "token", "old token", "base"]),
    st.sampled_from(["", "", "x1", "x2", "y1", "x1+", "y1+", "y2+"]),
)
_spaces = count()


class Writes:
    """`append`, as whoever reads afterwards sees it."""

    async def test_every_field_comes_back(self, authority: Authority) -> None:
        draft = put("k", b'{"a": 1}', ttl=100.0, tags=("t1", "🦊"), parents=("p",), actor="ann", source="api")
        appended = await append(authority, draft)
        change = appended.changes[0]
        assert change.entry is not None
        assert await entry_at(authority, "k") == change.entry
        assert list(await authority.read(appended.before, 10)) == [change]
        entry = change.entry
        assert (entry.value, entry.content_type, entry.tags, entry.parents) == (b'{"a": 1}', JSON, ("t1", "🦊"), ("p",))
        assert (entry.updated_by, entry.source, int(entry.version)) == ("ann", "api", change.sequence)
        assert entry.expires_at == pytest.approx(entry.updated_at + 100.0)

    async def test_the_records_say_what_was_before_and_whether_to_distribute(self, authority: Authority) -> None:
        first = await append(authority, put("k", b"1"))
        version = receipts(first)[0].version
        conflict = await append(authority, put("k", b"2", base=Version(version - 1), distribute=False), delete("k"))
        records = [record for record in await authority.read(first.before, 10) if record.publication is None]
        assert [record.kind for record in records] == [Kind.WRITE, Kind.WRITE, Kind.DELETE]
        assert records[0].before is None
        assert records[0].entry is not None
        assert records[1].before == records[0].entry.content_hash
        assert (records[1].distribute, records[1].conflict) == (False, request_id(conflict.batch, 0))
        assert [record.id for record in records] == [
            request_id(first.batch, 0),
            *(request_id(conflict.batch, i) for i in (0, 1)),
        ]

    @pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
    async def test_any_key(self, authority: Authority, key: str) -> None:
        appended = await append(authority, put(key, b"v", content_type="text/plain"))
        assert await values(authority, key) == [b"v"]
        assert [entry.key for entry in await authority.list_entries(EVERYTHING, after=None, limit=10)] == [key]
        assert [change.key for change in await authority.read(appended.before, 10)] == [key]
        await append(authority, delete(key))
        assert await values(authority, key) == [None]
        assert await authority.list_entries(EVERYTHING, after=None, limit=10) == []

    @pytest.mark.parametrize("size", [0, 1, MAX_RECORDED_VALUE, MAX_RECORDED_VALUE + 1, 1 << 20])
    async def test_any_size(self, authority: Authority, size: int) -> None:
        value = bytes(i % 251 for i in range(256)) * (size // 256) + b"\0" * (size % 256)
        appended = await append(authority, put("k", value, content_type="application/octet-stream"))
        assert await values(authority, "k") == [value]
        (record,) = await authority.read(appended.before, 10)
        assert record.entry is not None
        assert record.value_held == (size <= MAX_RECORDED_VALUE)
        assert record.entry.value == (value if record.value_held else b"")
        assert record.entry.content_hash == (appended.changes[0].entry or record.entry).content_hash

    async def test_many_keys_are_read_at_once(self, authority: Authority) -> None:
        keys = [Key(f"k{i}") for i in range(700)]
        await append(authority, *(put(key, key.encode(), content_type="text/plain") for key in keys))
        found = await authority.get([*keys, Key("absent")], horizon=await authority.head())
        assert {key: entry.value for key, entry in found.items()} == {key: key.encode() for key in keys}

    async def test_sequences_are_dense_and_are_the_versions(self, authority: Authority) -> None:
        start = await authority.head()
        appended = await append(authority, put("a"), add("n"), put("a", b"2"), delete("b"))
        assert appended.before == start
        expected = [start.sequence + i for i in range(1, 5)]
        assert [change.sequence for change in appended.changes] == expected
        assert [receipt.version for receipt in receipts(appended)] == expected
        assert await authority.head() == Position(start.epoch, Seq(start.sequence + 4))
        again = await append(authority, put("a"))
        assert again.before == await authority.head() or again.changes[0].sequence == start.sequence + 5

    async def test_an_empty_append_moves_nothing(self, authority: Authority) -> None:
        start = await authority.head()
        appended = await append(authority)
        assert (appended.before, list(appended.changes), list(appended.outcomes)) == (start, [], [])
        assert await authority.head() == start

    async def test_the_versions_outlive_the_handle(self, store: Store) -> None:
        if not store.shared:
            pytest.skip("it lives and ends with its handle")
        async with store.opened() as authority:
            appended = await append(authority, put("k", b"7"))
        async with store.opened() as authority:
            assert await values(authority, "k") == [b"7"]
            assert (await append(authority, put("k"))).before.sequence == appended.changes[-1].sequence

    async def test_operations_mixed_on_one_key_in_one_batch(self, authority: Authority) -> None:
        start = await authority.head()
        v = start.sequence
        appended = await append(
            authority,
            add("n", "1.10"),
            add("n", "2"),
            add("n", "1", expected=Version(v + 1)),  # refused in its place: it is at v + 2
            put("n", b"5", expected=Version(v + 2)),
            delete("n"),
            put("n", b"7", expected=PRESENT),  # refused
            put("n", b"8", expected=ABSENT),
            fill("n", start, b"9"),  # refused: it changed since
            add("n"),
            put("n", b'"text"'),
            add("n"),  # refused
            put("other", b"3"),
        )
        codes = [outcome.code if isinstance(outcome, Refused) else outcome.value for outcome in appended.outcomes]
        conflict, stale = Refusal.VERSION_CONFLICT, Refusal.STALE_FILL
        expected = [b"1.10", b"3.10", conflict, None, None, conflict, None, stale, b"9", None, Refusal.NOT_A_NUMBER, None]
        assert codes == expected
        assert [change.sequence for change in appended.changes] == list(range(v + 1, v + 9))
        assert await values(authority, "n", "other") == [b'"text"', b"3"]
        assert list(await authority.read(start, 100)) == list(appended.changes)

    async def test_a_refusal_writes_nothing(self, authority: Authority) -> None:
        await append(authority, put("k", b"1"))
        head = await authority.head()
        appended = await append(authority, put("k", b"2", expected=ABSENT), add("k", "9" * 101))
        assert [refusal(appended, 0), refusal(appended, 1)] == [Refusal.VERSION_CONFLICT, Refusal.OUT_OF_RANGE]
        assert await authority.head() == head
        assert await values(authority, "k") == [b"1"]

    async def test_compare_and_set_across_batches(self, authority: Authority, second: Authority) -> None:
        version = receipts(await append(authority, put("k", b"1")))[0].version
        assert receipts(await append(second, put("k", b"2", expected=version)))[0].version > version
        lost = await append(authority, put("k", b"3", expected=version))
        assert refusal(lost) is Refusal.VERSION_CONFLICT
        assert isinstance(lost.outcomes[0], Refused)
        assert lost.outcomes[0].current == version + 1
        assert await values(authority, "k") == [b"2"]

    async def test_increments_are_exact_under_concurrency(self, authority: Authority, second: Authority) -> None:
        start = await authority.head()

        async def write(to: Authority, name: str) -> None:
            for _ in range(20):
                receipts(await append(to, add("n", "0.1"), put(name), add("n", "12345678901234567890")))

        await asyncio.gather(write(authority, "a"), write(second, "b"), write(authority, "c"))
        assert await values(authority, "n") == [b"740740734074074073406.0"]
        changes = await authority.read(start, 1_000)
        assert [change.sequence for change in changes] == [start.sequence + i for i in range(1, 181)]
        assert list(await second.read(start, 1_000)) == list(changes)

    async def test_a_fill_enters_only_if_nothing_changed_since_its_token(self, authority: Authority) -> None:
        token = await authority.head()
        receipts(await append(authority, fill("k", token, b"1", parents=("p",))))
        assert refusal(await append(authority, fill("k", token, b"2"))) is Refusal.STALE_FILL
        receipts(await append(authority, put("p")))
        assert refusal(await append(authority, fill("child", token, parents=("p",)))) is Refusal.STALE_FILL
        receipts(await append(authority, delete("gone")))
        assert refusal(await append(authority, fill("gone", token))) is Refusal.STALE_FILL
        other = Position(Epoch(token.epoch + 1), token.sequence)
        assert refusal(await append(authority, fill("new", other))) is Refusal.STALE_FILL
        assert (await append(authority, fill("new", await authority.head()))).changes[0].kind is Kind.FILL

    async def test_the_same_key_gets_the_same_answer(self, authority: Authority, second: Authority) -> None:
        asked = Idempotency("ann", "key-1", "f")
        first = await append(authority, add("n", idempotency=asked), add("n", idempotency=asked), add("n"))
        again = await append(second, add("n"), add("n", idempotency=asked))
        assert [outcome.value for outcome in receipts(first)] == [b"1", b"1", b"2"]
        assert [outcome.value for outcome in receipts(again)] == [b"3", b"1"]
        assert (first.replayed, again.replayed) == (frozenset({1}), frozenset({1}))
        assert again.outcomes[1] == first.outcomes[0]
        assert len(again.changes) == 1

    async def test_a_refusal_is_an_answer_too(self, authority: Authority) -> None:
        asked = Idempotency("ann", "key-1", "f")
        refused = await append(authority, put("k", expected=PRESENT, idempotency=asked))
        await append(authority, put("k"))
        again = await append(authority, put("k", expected=PRESENT, idempotency=asked))
        assert str(again.outcomes[0]) == str(refused.outcomes[0])
        assert (refusal(again), again.replayed) == (Refusal.VERSION_CONFLICT, frozenset({0}))

    async def test_a_key_with_another_request_is_refused(self, authority: Authority) -> None:
        first = Idempotency("ann", "key-1", "f")
        within = await append(authority, put("k", idempotency=first), put("k", idempotency=first._replace(fingerprint="g")))
        assert refusal(within, 1) is Refusal.KEY_REUSED
        across = await append(authority, put("k", idempotency=first._replace(fingerprint="g")))
        assert refusal(across) is Refusal.KEY_REUSED
        receipts(await append(authority, put("k", idempotency=first._replace(subject="bob", fingerprint="g"))))

    async def test_the_writes_of_one_request_share_a_key(self, authority: Authority, second: Authority) -> None:
        asked = [Idempotency("ann", "key-1", "f", place) for place in range(3)]
        first = await append(authority, *(add("n", idempotency=each) for each in asked))
        again = await append(second, *(add("n", idempotency=each) for each in asked))
        assert [outcome.value for outcome in receipts(first)] == [b"1", b"2", b"3"]
        assert (again.outcomes, again.replayed) == (first.outcomes, frozenset({0, 1, 2}))
        # what did not get as far the first time goes on where that ended
        more = await append(second, add("n", idempotency=asked[2]), add("n", idempotency=asked[0]._replace(place=3)))
        assert [outcome.value for outcome in receipts(more)] == [b"3", b"4"]
        assert await values(authority, "n") == [b"4"]

    async def test_another_request_with_the_same_key_is_refused_as_a_whole(
        self, authority: Authority, second: Authority
    ) -> None:
        """Changed, longer, or of one write only: and the reverse."""
        for key, before, after in (("key-1", 2, 3), ("key-2", 1, 2), ("key-3", 2, 1)):
            asked = [Idempotency("ann", key, "f", place) for place in range(before)]
            receipts(await append(authority, *(add("n", idempotency=each) for each in asked)))
            other = [Idempotency("ann", key, "g", place) for place in range(after)]
            refused = await append(second, *(add("m", idempotency=each) for each in other))
            assert {refusal(refused, place) for place in range(after)} == {Refusal.KEY_REUSED}
            receipts(await append(second, add("n", idempotency=asked[0]._replace(subject="bob", fingerprint="g", place=1))))
        within = [add("m", idempotency=Idempotency("ann", "key-4", fingerprint, 1)) for fingerprint in "fg"]
        assert refusal(await append(authority, add("n"), *within), 2) is Refusal.KEY_REUSED
        assert await values(authority, "n", "m") == [b"9", b"1"]

    async def test_the_request_id_finds_the_answer(self, authority: Authority, second: Authority) -> None:
        nameless = Idempotency("ann", "", "f")
        first = await append(authority, add("n", idempotency=nameless), add("n", idempotency=nameless))
        assert [outcome.value for outcome in receipts(first)] == [b"1", b"2"]
        again = nameless._replace(key=request_id(first.batch, 1))
        found = await append(second, add("n", idempotency=again))
        assert (list(found.outcomes), list(found.changes), found.replayed) == ([first.outcomes[1]], [], frozenset({0}))
        other = await append(authority, add("n", idempotency=again._replace(fingerprint="g")))
        assert refusal(other) is Refusal.KEY_REUSED
        # of another subject, and of a place that was not: keys like any other, never seen before
        for unknown in (again._replace(subject="bob"), again._replace(key=request_id(first.batch, 7))):
            assert (await append(authority, add("n", idempotency=unknown))).replayed == frozenset()
        assert await values(authority, "n") == [b"4"]

    async def test_the_request_id_finds_a_refusal(self, authority: Authority) -> None:
        nameless = Idempotency("ann", "", "f")
        first = await append(authority, put("k", expected=PRESENT, idempotency=nameless))
        found = await append(authority, put("k", idempotency=nameless._replace(key=request_id(first.batch, 0))))
        assert refusal(found) is Refusal.VERSION_CONFLICT
        assert found.replayed == frozenset({0})

    async def test_answers_are_swept_after_their_time(self, store: Store) -> None:
        async with store.opened(idempotency_ttl=SHORT) as authority:
            asked = Idempotency("ann", "key-1", "f")
            await append(authority, add("n", idempotency=asked))
            await passed(authority, await authority.time() + 2 * SHORT)
            await authority.sweep(limit=100)
            again = await append(authority, add("n", idempotency=asked))
            assert (receipts(again)[0].value, again.replayed) == (b"2", frozenset())

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(batches=st.lists(st.lists(WISHES, max_size=8), max_size=5))
    async def test_as_the_fold_over_a_dict(self, authority: Authority, batches: Sequence[Sequence[Wish]]) -> None:
        space = f"m{next(_spaces)}:"
        start = await authority.head()
        rows: dict[Key, Entry] = {}
        answers: dict[tuple[str, str], Any] = {}
        log: list[Change] = []
        for wishes in batches:
            head = await authority.head()
            drafts = [_draft(space, wish, rows, head) for wish in wishes]
            appended = await append(authority, *drafts)
            now = appended.changes[0].at if appended.changes else 0.0
            state = State(head, now, rows, answers)
            folded = fold(state, drafts, batch=appended.batch, terms=TERMS)
            assert [repr(outcome) for outcome in appended.outcomes] == [repr(outcome) for outcome in folded.outcomes]
            assert list(appended.changes) == folded.changes
            assert appended.replayed == folded.replayed
            rows |= folded.rows
            answers |= folded.results
            log += folded.changes
        live = {key: entry for key, entry in rows.items() if not entry.deleted}
        found = await authority.get(list(rows), horizon=start)
        assert {key: entry for key, entry in found.items() if not entry.deleted} == live
        listed = await authority.list_entries(parse_pattern(f"{space}*"), after=None, limit=100)
        assert [(one.key, one.entry.version) for one in listed] == [
            (key, live[key].version) for key in sorted(live, key=str.encode)
        ]
        assert list(await authority.read(start, 1_000)) == log


def _draft(space: str, wish: Wish, rows: dict[Key, Entry], head: Position) -> Draft:
    """A draft of what hypothesis chose: what a version is, only the moment tells."""
    operation, place, value, condition, asked = wish
    key = Key(f"{space}{place}")
    row = rows.get(key)
    expected = {
        "absent": ABSENT,
        "present": PRESENT,
        "current": row.version if row is not None else Version(7),
        "in batch": Version(head.sequence + 1),
    }.get(condition)
    tokens = {"token": head, "old token": Position(head.epoch, Seq(row.version - 1 if row is not None else head.sequence))}
    return Draft(
        operation,
        key,
        value,
        amount=Decimal("0.5"),
        expected=expected,
        token=tokens.get(condition),
        parents=(f"{space}0",) if condition == "token" else (),
        base=Version(3) if condition == "base" else None,
        idempotency=Idempotency("ann", f"{space}{asked[0]}", asked[:2], place=len(asked) - 2) if asked else None,
    )
