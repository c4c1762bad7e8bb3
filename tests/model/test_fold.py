"""The fold, rule by rule."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from decimal import Decimal

import pytest

from cachesvc.errors import Refusal, Refused
from cachesvc.model.change import ABSENT, PRESENT, Draft, Idempotency, Kind, Operation, Receipt, invalidate, restore
from cachesvc.model.entry import JSON, Entry, content_hash, tombstone
from cachesvc.model.fold import fold
from cachesvc.model.fold_rivals import note_overtaken
from cachesvc.model.fold_state import ENDED_KEPT, Folded, Result, State, Terms, asked, touched
from cachesvc.model.invalidation import Invalidation, ended_mark_of, mark_of
from cachesvc.model.keys import Key
from cachesvc.model.numbers import add_exactly
from cachesvc.model.policy import absent
from cachesvc.model.position import Epoch, Position, Seq, Version

NOW = 1_000.0
AT = Position(Epoch(3), Seq(100))
A, B = Key("a"), Key("b")
TERMS = Terms(default_ttl=60.0, tombstone_ttl=600.0)


def row(key: Key = A, version: int = 50, value: bytes = b"1", **others: object) -> Entry:
    entry = Entry(key, Version(version), value, JSON, 900.0, 950.0, NOW + 30.0, content_hash(JSON, value))
    return entry._replace(**others)  # type: ignore[arg-type]


def folded(
    *drafts: Draft,
    rows: Sequence[Entry] = (),
    results: Mapping[tuple[str, str], Result] | None = None,
    complete_since: int = 0,
    terms: Terms = TERMS,
) -> Folded:
    state = State(AT, NOW, {entry.key: entry for entry in rows}, results or {}, Seq(complete_since))
    return fold(state, drafts, batch="b", terms=terms)


def written(key: Key = A, value: bytes = b"2", **others: object) -> Draft:
    return Draft(Operation.SET, key, value, **others)  # type: ignore[arg-type]


def added(amount: str = "1", key: Key = A, **others: object) -> Draft:
    return Draft(Operation.INCREMENT, key, amount=Decimal(amount), **others)  # type: ignore[arg-type]


def filled(sequence: int, *parents: str, epoch: int = AT.epoch, key: Key = A) -> Draft:
    return Draft(Operation.FILL, key, b"loaded", "text/plain", parents=parents, token=Position(Epoch(epoch), Seq(sequence)))


def deleted(key: Key = A, **others: object) -> Draft:
    return Draft(Operation.DELETE, key, **others)  # type: ignore[arg-type]


def expired(version: int, key: Key = A) -> Draft:
    return Draft(Operation.EXPIRE, key, expected=Version(version))


def refusal(outcome: Receipt | Refused) -> tuple[Refusal, str, int]:
    assert isinstance(outcome, Refused)
    assert str(outcome)
    return outcome.code, outcome.field, outcome.current


def receipt(outcome: Receipt | Refused) -> Receipt:
    assert isinstance(outcome, Receipt), str(outcome)
    return outcome


def test_nothing_folds_to_nothing() -> None:
    assert folded() == Folded()


def test_a_set_writes_a_row_and_a_change_of_the_next_sequence() -> None:
    draft = written(tags=("t",), parents=("p",), actor="ann", source="api", content_type="text/plain", distribute=False)
    done = folded(draft)
    assert done.outcomes == [Receipt(Operation.SET, Version(101))]
    entry = done.rows[A]
    assert entry == Entry(
        A,
        Version(101),
        b"2",
        "text/plain",
        NOW,
        NOW,
        NOW + 60.0,
        content_hash("text/plain", b"2"),
        False,
        ("t",),
        ("p",),
        "ann",
        "api",
    )
    (change,) = done.changes
    assert (change.sequence, change.kind, change.id, change.at, change.key) == (101, Kind.WRITE, "b-0", NOW, A)
    assert (change.entry, change.before, change.distribute, change.conflict) == (entry, None, False, "")


def test_a_set_over_a_live_row_keeps_when_it_was_created() -> None:
    old = row()
    done = folded(written(), rows=[old])
    assert receipt(done.outcomes[0]).found
    assert (done.rows[A].created_at, done.rows[A].updated_at) == (900.0, NOW)
    assert done.changes[0].before == old.content_hash


@pytest.mark.parametrize("old", [row(expires_at=NOW), row(deleted=True)], ids=["expired", "deleted"])
def test_a_set_over_a_dead_row_begins_anew(old: Entry) -> None:
    done = folded(written(), rows=[old])
    assert not receipt(done.outcomes[0]).found
    assert done.rows[A].created_at == NOW
    assert done.changes[0].before is None


@pytest.mark.parametrize(
    ("ttl", "default", "ends"), [(5.0, 60.0, NOW + 5.0), (None, 60.0, NOW + 60.0), (None, None, None), (5.0, None, NOW + 5.0)]
)
def test_a_ttl_begins_now(ttl: float | None, default: float | None, ends: float | None) -> None:
    assert folded(written(ttl=ttl), terms=Terms(default_ttl=default)).rows[A].expires_at == ends


def test_a_delete_leaves_a_tombstone() -> None:
    old = row()
    done = folded(deleted(actor="ann", source="api"), rows=[old])
    assert done.outcomes == [Receipt(Operation.DELETE, Version(101), found=True)]
    dead = done.rows[A]
    assert (dead.deleted, dead.version, dead.value, dead.expires_at) == (True, 101, b"", NOW + 600.0)
    assert (dead.updated_by, dead.source) == ("ann", "api")
    assert (done.changes[0].kind, done.changes[0].before, done.changes[0].entry) == (Kind.DELETE, old.content_hash, dead)


def test_a_delete_of_nothing_is_recorded_all_the_same() -> None:
    done = folded(deleted())
    assert done.outcomes == [Receipt(Operation.DELETE, Version(101), found=False)]
    assert done.rows[A].deleted
    assert len(done.changes) == 1


def test_an_increment_begins_at_zero() -> None:
    done = folded(added("2.5"))
    assert done.outcomes == [Receipt(Operation.INCREMENT, Version(101), value=b"2.5")]
    assert (done.rows[A].value, done.rows[A].content_type) == (b"2.5", JSON)
    assert done.rows[A].content_hash == content_hash(JSON, b"2.5")
    assert done.rows[A].expires_at == NOW + 60.0


def test_an_increment_keeps_expiry_tags_and_parents() -> None:
    done = folded(added(), rows=[row(tags=("t",), parents=("p",))])
    assert (done.rows[A].value, done.rows[A].expires_at) == (b"2", NOW + 30.0)
    assert (done.rows[A].tags, done.rows[A].parents, done.rows[A].created_at) == (("t",), ("p",), 900.0)


def test_an_increment_may_bring_its_own() -> None:
    done = folded(added(ttl=7.0, tags=("x",), parents=("y",)), rows=[row(tags=("t",), parents=("p",))])
    assert (done.rows[A].tags, done.rows[A].parents, done.rows[A].expires_at) == (("x",), ("y",), NOW + 7.0)


@pytest.mark.parametrize("old", [row(value=b"7", expires_at=NOW), row(value=b"7", deleted=True)], ids=["expired", "deleted"])
def test_an_increment_of_a_dead_row_begins_at_zero(old: Entry) -> None:
    assert folded(added(), rows=[old]).rows[A].value == b"1"


@pytest.mark.parametrize("old", [row(value=b'"1"'), row(value=b""), row(content_type="text/plain"), row(value=b"1e400")])
def test_an_increment_of_no_number_is_refused(old: Entry) -> None:
    done = folded(added(), rows=[old])
    assert refusal(done.outcomes[0]) == (Refusal.NOT_A_NUMBER, "key", 50)
    assert (done.rows, done.changes) == ({}, [])


def test_an_increment_past_what_can_be_kept_is_refused() -> None:
    done = folded(added("0.1"), rows=[row(value=b"9" * 100)])
    assert refusal(done.outcomes[0]) == (Refusal.OUT_OF_RANGE, "value", 50)
    assert done.rows == {}


@pytest.mark.parametrize(
    ("rows", "expected", "taken"),
    [
        ([row()], 50, True),
        ([row()], 49, False),
        ([row()], PRESENT, True),
        ([row()], ABSENT, False),
        ([], ABSENT, True),
        ([], PRESENT, False),
        ([], 50, False),
        ([row(expires_at=NOW)], 50, False),
        ([row(expires_at=NOW)], ABSENT, True),
        ([row(deleted=True)], PRESENT, False),
        ([row(deleted=True)], ABSENT, True),
        ([row(deleted=True)], 50, False),
    ],
)
@pytest.mark.parametrize("draft", [written(), added(), deleted()], ids=lambda draft: str(draft.operation))
def test_what_is_expected_is_compared_with_what_lives(draft: Draft, rows: list[Entry], expected: int, taken: bool) -> None:
    done = folded(Draft(draft.operation, A, draft.value, expected=Version(expected)), rows=rows)
    if taken:
        assert receipt(done.outcomes[0]).version == 101
    else:
        current = 50 if rows and rows[0].live(NOW) else 0
        assert refusal(done.outcomes[0]) == (Refusal.VERSION_CONFLICT, "key", current)
        assert (done.rows, done.changes) == ({}, [])


@pytest.mark.parametrize(
    ("rows", "base", "conflict"), [([row()], 50, ""), ([row()], 49, "b-0"), ([], 50, "b-0"), ([], 0, ""), ([row()], 0, "b-0")]
)
def test_a_write_from_another_base_is_taken_as_a_conflict(rows: list[Entry], base: int, conflict: str) -> None:
    done = folded(written(base=Version(base)), rows=rows)
    assert receipt(done.outcomes[0]).conflict == done.changes[0].conflict == conflict
    assert done.rows[A].value == b"2"


def test_a_fill_is_kept_where_nothing_changed() -> None:
    done = folded(filled(100, "p"), rows=[row(expires_at=NOW), row(Key("p"), 90)])
    assert done.outcomes == [Receipt(Operation.FILL, Version(101))]
    assert (done.changes[0].kind, done.rows[A].value, done.rows[A].parents) == (Kind.FILL, b"loaded", ("p",))


@pytest.mark.parametrize(
    ("draft", "rows"),
    [
        (filled(99), [row(version=100)]),
        (filled(99), [row(version=100, deleted=True)]),
        (filled(99), [row(version=100, expires_at=NOW)]),
        (filled(99, "p"), [row(Key("p"), 100)]),
        (filled(99, "x", "p"), [row(Key("p"), 100, deleted=True)]),
        (filled(100, epoch=2), []),
        (filled(100, epoch=4), []),
        (written(token=Position(AT.epoch, Seq(99))), [row(version=100)]),
    ],
)
def test_a_fill_is_refused_where_something_changed(draft: Draft, rows: list[Entry]) -> None:
    code, field, _ = refusal(folded(draft, rows=rows).outcomes[0])
    assert (code, field) == (Refusal.STALE_FILL, "Fill-Token")


def test_a_fill_older_than_what_can_be_checked_is_refused() -> None:
    assert refusal(folded(filled(89), complete_since=90).outcomes[0])[0] is Refusal.STALE_FILL
    assert receipt(folded(filled(90), complete_since=90).outcomes[0]).version == 101


@pytest.mark.parametrize("before", [written(), deleted(), added(), written(Key("p"))])
def test_a_fill_is_refused_for_what_came_before_it_in_the_batch(before: Draft) -> None:
    done = folded(before, filled(100, "p"))
    assert refusal(done.outcomes[1])[0] is Refusal.STALE_FILL


def test_the_fold_looks_at_parents_only_for_a_token() -> None:
    assert touched([filled(1, "p", "q"), written(B, parents=("r",))]) == {"a", "p", "q", "b", mark_of("p"), mark_of("q")}


def test_the_fold_looks_at_tags_only_for_a_token() -> None:
    assert touched([filled(1)._replace(tags=("t",)), written(B, tags=("u",))]) == {"a", "b", ended_mark_of("t")}


def test_what_is_past_its_life_expires() -> None:
    old = row(expires_at=NOW)
    done = folded(expired(50), rows=[old])
    assert done.outcomes == [Receipt(Operation.EXPIRE, Version(101), found=True)]
    (change,) = done.changes
    assert (change.kind, change.key, change.entry, change.before) == (Kind.EXPIRE, A, None, old.content_hash)
    assert not done.rows[A].live(NOW)
    assert done.rows[A].value == b""


@pytest.mark.parametrize(
    ("rows", "version"),
    [([row()], 50), ([row(expires_at=NOW)], 49), ([], 50), ([row(deleted=True, expires_at=NOW)], 50)],
    ids=["lives", "written since", "gone", "tombstone"],
)
def test_what_lives_or_was_written_since_does_not_expire(rows: list[Entry], version: int) -> None:
    done = folded(expired(version), rows=rows)
    assert refusal(done.outcomes[0])[0] is Refusal.VERSION_CONFLICT
    assert (done.rows, done.changes) == ({}, [])


def test_what_was_computed_before_an_expired_write_stays_refused() -> None:
    old = row(version=50, expires_at=NOW)
    done = folded(expired(50), filled(49), rows=[old])
    assert refusal(done.outcomes[1])[0] is Refusal.STALE_FILL
    later = folded(filled(49), rows=list(done.rows.values()))
    assert refusal(later.outcomes[0])[0] is Refusal.STALE_FILL


def test_what_was_computed_after_an_expired_write_is_welcome() -> None:
    done = folded(expired(50), filled(60), rows=[row(version=50, expires_at=NOW)])
    assert receipt(done.outcomes[1]).version == 102


def test_an_expiry_is_remembered_for_a_while_and_no_longer_than_a_deletion() -> None:
    old = row(expires_at=NOW)
    assert folded(expired(50), rows=[old]).rows[A].expires_at == NOW + 300.0
    assert folded(expired(50), rows=[old], terms=Terms(tombstone_ttl=7.0)).rows[A].expires_at == NOW + 7.0


def test_a_batch_goes_in_order() -> None:
    done = folded(
        written(value=b"5"),
        added("2"),
        written(expected=Version(101)),
        added("1", expected=Version(102)),
        deleted(),
        added("1"),
        written(B),
    )
    codes = [outcome.code if isinstance(outcome, Refused) else outcome.version for outcome in done.outcomes]
    assert codes == [101, 102, Refusal.VERSION_CONFLICT, 103, 104, 105, 106]
    assert [change.sequence for change in done.changes] == [101, 102, 103, 104, 105, 106]
    assert [change.id for change in done.changes] == ["b-0", "b-1", "b-3", "b-4", "b-5", "b-6"]
    assert receipt(done.outcomes[3]).value == b"8"
    assert (done.rows[A].value, done.rows[A].version) == (b"1", 105)


def idempotent(draft: Draft, key: str = "k", fingerprint: str = "f", subject: str = "ann") -> Draft:
    return Draft(draft.operation, draft.key, draft.value, idempotency=Idempotency(subject, key, fingerprint))


def test_the_same_request_twice_in_a_batch_is_done_once() -> None:
    done = folded(idempotent(added()), idempotent(added()))
    assert done.outcomes[0] == done.outcomes[1]
    assert (len(done.changes), done.rows[A].value, done.replayed) == (1, b"1", {1})


def test_the_same_request_in_another_batch_is_answered_as_before() -> None:
    first = folded(idempotent(added()))
    again = folded(idempotent(added()), rows=[row(value=b"9")], results=first.results)
    assert again.outcomes == first.outcomes
    assert (again.changes, again.rows, again.results, again.replayed) == ([], {}, {}, {0})


def test_a_refusal_is_remembered_too() -> None:
    first = folded(idempotent(added()), rows=[row(value=b'"x"')])
    again = folded(idempotent(added()), results=first.results)
    assert again.outcomes == first.outcomes
    assert again.changes == []


def test_the_key_of_another_request_is_refused() -> None:
    done = folded(idempotent(added()), idempotent(added(), fingerprint="other"))
    assert refusal(done.outcomes[1]) == (Refusal.KEY_REUSED, "Idempotency-Key", 0)
    assert len(done.changes) == 1
    assert folded(idempotent(added()), results=done.results).outcomes == done.outcomes[:1]


def test_another_subjects_key_is_another() -> None:
    assert len(folded(idempotent(added()), idempotent(added(), subject="bob")).changes) == 2


def test_an_empty_key_is_none() -> None:
    drafts = [idempotent(added(), key=""), idempotent(added(), key="")]
    done = folded(*drafts)
    assert (len(done.changes), done.results, done.replayed, asked(drafts)) == (2, {}, set(), set())


def test_the_answers_that_are_looked_at() -> None:
    assert asked([written(), idempotent(added()), idempotent(added(), "l")]) == {("ann", "k"), ("ann", "l")}


def of_request(place: int, fingerprint: str = "f") -> Draft:
    return Draft(Operation.INCREMENT, A, idempotency=Idempotency("ann", "k", fingerprint, place))


def test_the_writes_of_a_request_have_answers_of_their_own() -> None:
    drafts = [of_request(0), of_request(1)]
    done = folded(*drafts)
    assert (len(done.changes), set(done.results), asked(drafts)) == (2, asked(drafts), {("ann", "k"), ("ann", "k\x1f1")})
    again = folded(*drafts, of_request(2), rows=[row(value=b"2")], results=done.results)
    assert (again.outcomes[:2], again.replayed, len(again.changes)) == (done.outcomes, {0, 1}, 1)


def test_no_write_of_another_request_with_the_key_is_done() -> None:
    done = folded(of_request(0), of_request(1, "g"), of_request(2, "g"), of_request(0, "g"))
    assert [refusal(outcome)[0] for outcome in done.outcomes[1:]] == [Refusal.KEY_REUSED] * 3
    assert len(done.changes) == 1


def test_a_poison_draft_fails_alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def poisoned(a: Decimal, b: Decimal) -> Decimal | None:
        if b == 666:
            raise ZeroDivisionError
        return add_exactly(a, b)

    monkeypatch.setattr("cachesvc.model.fold.add_exactly", poisoned)
    with caplog.at_level(logging.CRITICAL, logger="cachesvc.model.fold"):
        done = folded(added("1"), added("666"), added("1"), added("666", key=B))
    assert [refusal(done.outcomes[i])[0] for i in (1, 3)] == [Refusal.INTERNAL, Refusal.INTERNAL]
    assert [change.sequence for change in done.changes] == [101, 102]
    assert (done.rows[A].value, set(done.rows)) == (b"2", {A})


def test_of_a_draft_that_breaks_half_way_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def poisoned(state: State, folded: Folded, row: Entry | None, left: Entry, terms: Terms) -> None:
        note_overtaken(state, folded, row, left, terms)
        if left.key == B:
            raise ZeroDivisionError

    monkeypatch.setattr("cachesvc.model.fold.note_overtaken", poisoned)
    drafts = [added(), idempotent(added(key=B)), invalidate(Invalidation("a*")), added(key=B), added(), idempotent(added())]
    with caplog.at_level(logging.CRITICAL, logger="cachesvc.model.fold"):
        done = folded(*drafts)
    assert [refusal(done.outcomes[i])[0] for i in (1, 3, 5)] == [Refusal.INTERNAL] * 3
    assert [change.sequence for change in done.changes] == [101, 102, 103]
    assert (done.rows[A].value, set(done.rows), done.replayed) == (b"1", {A}, {5})
    assert [one.sequence for one in done.patterns] == [102]


def test_the_arguments_are_left_as_they_were() -> None:
    rows, results = {A: row()}, {("ann", "k"): Result("f", Receipt(Operation.SET, Version(3)))}
    state = State(AT, NOW, rows, results)
    drafts = [written(), deleted(), idempotent(added()), idempotent(added(), "l")]
    first = fold(state, drafts, batch="b", terms=TERMS)
    assert (rows, list(results)) == ({A: row()}, [("ann", "k")])
    assert fold(state, drafts, batch="b", terms=TERMS) == first


def test_an_absence_is_a_fill_that_leaves_a_tombstone_of_its_own() -> None:
    def lacking(sequence: int, ttl: float = 1_000.0) -> Draft:
        token = Position(AT.epoch, Seq(sequence))
        return Draft(Operation.ABSENT, A, token=token, ttl=ttl, source="loader")

    done = folded(lacking(60), rows=[row(version=50)])
    assert receipt(done.outcomes[0]) == Receipt(Operation.ABSENT, Version(101), found=True)
    assert (done.changes[0].kind, done.changes[0].entry) == (Kind.FILL, done.rows[A])
    assert absent(done.rows[A])
    assert done.rows[A].expires_at == NOW + 1_000.0
    assert folded(lacking(100, ttl=1.0)).rows[A].expires_at == NOW + ENDED_KEPT  # longer than any load, as of an expiry
    assert refusal(folded(lacking(49), rows=[row(version=50)]).outcomes[0])[0] is Refusal.STALE_FILL
    assert not absent(folded(deleted()).rows[A])


def test_a_restore_brings_everything_back_at_a_new_version() -> None:
    lost = row(version=50, tags=("t",), parents=("p",), updated_by="ann", source="api", origin=None)
    done = folded(restore(lost))
    assert receipt(done.outcomes[0]) == Receipt(Operation.RESTORE, Version(101))
    assert done.rows[A] == done.changes[0].entry == lost._replace(version=Version(101))
    assert done.changes[0].kind is Kind.WRITE
    older = folded(restore(lost), rows=[row(version=49, updated_at=949.0)])
    assert receipt(older.outcomes[0]).found


@pytest.mark.parametrize(
    ("drafts", "rows", "code"),
    [
        ([], [row(version=50, updated_at=949.0)], Refusal.VERSION_CONFLICT),
        ([], [row(version=51, updated_at=949.0, expires_at=NOW - 1)], Refusal.VERSION_CONFLICT),
        (
            [],
            [row(version=49, updated_at=951.0)],
            Refusal.VERSION_CONFLICT,
        ),  # a snapshot of another store, whose versions are higher
        ([], [row(version=49, updated_at=950.0)], Refusal.VERSION_CONFLICT),  # restored before
        ([], [tombstone(A, Version(49), now=951.0, keep=600.0)], Refusal.STALE_FILL),
        ([], [tombstone(A, Version(50), now=949.0, keep=60.0)], Refusal.STALE_FILL),
        ([written()], [], Refusal.VERSION_CONFLICT),
        ([deleted()], [row(version=50)], Refusal.STALE_FILL),
        ([invalidate(Invalidation("a*"))], [], Refusal.STALE_FILL),
        ([invalidate(Invalidation("a*", soft=True))], [], Refusal.STALE_FILL),
        ([invalidate(Invalidation(keys=(A,)))], [row(version=50)], Refusal.STALE_FILL),
    ],
)
def test_nothing_comes_back_that_changed_since(drafts: list[Draft], rows: list[Entry], code: Refusal) -> None:
    done = folded(*drafts, restore(row(version=50)), rows=rows)
    assert refusal(done.outcomes[-1])[0] is code
    assert len(done.changes) == len(drafts)


def test_what_is_past_its_life_is_not_restored() -> None:
    assert refusal(folded(restore(row(expires_at=NOW))).outcomes[0])[1] == "key"
