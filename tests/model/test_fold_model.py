"""The fold as a whole: random drafts of all kinds on few keys, against a naive store that takes them one at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from cachesvc.errors import Refused
from cachesvc.model.change import Draft, Idempotency, Kind, Operation, Receipt, invalidate
from cachesvc.model.entry import JSON, Entry, content_hash
from cachesvc.model.fold import fold
from cachesvc.model.fold_state import Folded, Result, State, Terms, asked, touched
from cachesvc.model.invalidation import Invalidation, Patterns, mark_of
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Position, Seq, Version
from tests.model.naive_fold import Fields, NaiveStore, number_of

TERMS = Terms(default_ttl=20.0)
KEYS = st.sampled_from([Key("a"), Key("b"), Key("c")])
FEW = st.lists(KEYS, max_size=2).map(tuple)
BATCH = "batch"


class Wish(NamedTuple):
    """A draft whose versions are still places in the log, counted from its head: so that they often hit."""

    draft: Draft
    expected: int | None  # 0 and -1 are absent and present
    base: int | None
    token: tuple[int, int] | None  # epochs ahead, sequences back


def near(low: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.none() | st.integers(low, 4)


IDEMPOTENCY = (
    st.none()
    | st.none()
    | st.builds(
        Idempotency, st.just("ann"), st.sampled_from(["k", "l", ""]), st.sampled_from("fff g"), st.sampled_from([0, 0, 1, 2])
    )
)
SOME = st.sets(KEYS, max_size=2).map(sorted).map(tuple)
INVALIDATIONS = st.builds(
    invalidate,
    st.builds(
        Invalidation,
        st.sampled_from(["a", "*", "[ab]", ""]),
        SOME,
        st.sampled_from([()]),
        st.sampled_from([False]),
        st.sampled_from([0, 0, 1]),
        st.booleans(),
        st.just(""),
    ),
    idempotency=IDEMPOTENCY,
)
OTHERS = (
    Operation.INVALIDATE,
    Operation.RETIRE,
    Operation.RESTORE,
    Operation.MERGE,
    Operation.PUBLISH,
    Operation.REVOKE,
    Operation.RESOLVE,
    Operation.DUE,
)
DRAFTS = INVALIDATIONS | st.builds(
    Draft,
    st.sampled_from([one for one in Operation if one not in OTHERS]),
    KEYS,
    st.sampled_from([b"1", b"2.50", b'"text"', b"", b"9" * 100]),
    st.sampled_from([JSON, JSON, "text/plain"]),
    st.sampled_from([Decimal(1), Decimal("-0.25"), Decimal(10) ** 99, Decimal("1E-50"), Decimal("0.0")]),
    st.sampled_from([None, 3.0, 50.0]),
    st.sampled_from([(), (), ("a",), ("t", "b")]),
    FEW,
    idempotency=IDEMPOTENCY,
    distribute=st.booleans(),
    invalidation=st.none(),
    publication=st.none(),
    called=st.none(),
    original=st.none(),
    revocation=st.none(),
)
WISHES = st.builds(Wish, DRAFTS, near(-6), near(-6), st.none() | st.tuples(st.sampled_from([0, 0, 0, 0, 1]), st.integers(0, 6)))
BATCHES = st.lists(st.tuples(st.sampled_from([0.0, 2.0, 5.0, 30.0]), st.lists(WISHES, max_size=8)), max_size=6)


@dataclass
class Store:
    """An authority reduced to what it does with a fold."""

    position: Position
    rows: dict[Key, Entry]
    results: dict[tuple[str, str], Result]
    patterns: Patterns = field(default_factory=Patterns)

    def append(self, drafts: list[Draft], now: float) -> Folded:
        rows = {key: self.rows[key] for key in touched(drafts) if key in self.rows}
        results = {name: self.results[name] for name in asked(drafts) if name in self.results}
        state = State(self.position, now, rows, results, patterns=Patterns(self.patterns))
        folded = fold(state, drafts, batch=BATCH, terms=TERMS)
        for one in folded.patterns:
            self.patterns.add(one)
        self.rows |= folded.rows
        self.results |= folded.results
        self.position = Position(self.position.epoch, Seq(self.position.sequence + len(folded.changes)))
        return folded

    def copy(self) -> Store:
        return Store(self.position, dict(self.rows), dict(self.results), Patterns(self.patterns))


def resolved(wish: Wish, store: Store) -> Draft:
    """The draft as a client would send it that read a moment ago."""
    epoch, head = store.position
    draft, held = wish.draft, store.rows.get(wish.draft.key)
    if draft.invalidation is not None:
        known = store.patterns.find(draft.invalidation.pattern)
        retires = known.sequence if draft.invalidation.retires and known is not None else draft.invalidation.retires
        keys = () if retires else draft.invalidation.keys
        return invalidate(draft.invalidation._replace(retires=Seq(retires), keys=keys), idempotency=draft.idempotency)
    expected = wish.expected
    if expected is not None and expected > 0:
        expected = held.version if held is not None and expected > 1 else head + 2 - expected
    if draft.operation is Operation.EXPIRE:
        return Draft(Operation.EXPIRE, draft.key, expected=Version(expected or (held.version if held is not None else 1)))
    base = wish.base if wish.base is None or wish.base <= 0 else held.version if held is not None else head
    token = None
    if draft.operation in (Operation.FILL, Operation.ABSENT) or wish.token is not None:
        ahead, back = wish.token or (0, 0)
        token = Position(Epoch(epoch + ahead), Seq(max(0, head - back)))
    return draft._replace(
        expected=Version(max(-1, expected)) if expected is not None else None,
        base=Version(max(0, base)) if base is not None else None,
        token=token,
    )


def said(outcome: Receipt | Refused) -> Fields:
    """The fields of an outcome that the naive store gives too."""
    if isinstance(outcome, Refused):
        return {"refused": outcome.code, "current": outcome.current}
    fields: Fields = {"version": outcome.version, "found": outcome.found, "conflict": bool(outcome.conflict)}
    if outcome.value is not None:
        fields["number"] = Fraction(outcome.value.decode())
    return fields


@settings(max_examples=90, deadline=None)
@given(BATCHES)
def test_it_comes_to_what_the_naive_store_comes_to(batches: list[tuple[float, list[Wish]]]) -> None:
    now = 1_000.0
    store = Store(Position(Epoch(1), Seq(10)), {}, {})
    naive = NaiveStore(1, 10, TERMS.default_ttl)
    for wait, wishes in batches:
        now += wait
        drafts = [resolved(wish, store) for wish in wishes]
        before = store.position
        folded = store.append(drafts, now)

        assert [said(outcome) for outcome in folded.outcomes] == [naive.take(draft, now) for draft in drafts]
        assert store.position.sequence == naive.sequence
        check_changes(folded, drafts, before, now)
        check_rows(store, naive, now)


def check_changes(folded: Folded, drafts: list[Draft], before: Position, now: float) -> None:
    """The log has one record of each draft that was taken, in order; the rows are what their last changes say."""
    taken = [
        (place, outcome)
        for place, outcome in enumerate(folded.outcomes)
        if isinstance(outcome, Receipt) and place not in folded.replayed
    ]
    assert [change.sequence - before.sequence for change in folded.changes] == [*range(1, len(folded.changes) + 1)]
    conflicts = [change for change in folded.changes if change.publication is not None]
    assert [change.id for change in conflicts] == [one.conflict for _, one in taken if one.conflict for _ in range(2)]
    changes = [change for change in folded.changes if change.publication is None]
    last: dict[Key, Entry | None] = {}
    for change, (place, receipt) in zip(changes, taken, strict=True):
        draft = drafts[place]
        assert int(change.sequence) == receipt.version
        assert (change.id, change.at, change.key or "") == (f"{BATCH}-{place}", now, draft.key)
        assert change.conflict == receipt.conflict
        if draft.invalidation is not None:
            assert change.invalidation == draft.invalidation
            last |= dict.fromkeys(change.touches)
            continue
        if change.kind is not Kind.EXPIRE:
            assert change.entry is not None
            assert change.entry.version == receipt.version
            assert change.distribute is draft.distribute
            assert (change.before is not None) is receipt.found
        last[draft.key] = change.entry
    assert unmarked(folded.rows).keys() == last.keys()
    for key, entry in last.items():
        if entry is not None:
            assert folded.rows[key] == entry
        else:
            assert not folded.rows[key].live(now)


def unmarked(rows: dict[Key, Entry]) -> dict[Key, Entry]:
    """Without the marks of tags, which no key is."""
    return {key: row for key, row in rows.items() if not key.startswith(mark_of(""))}


def check_rows(store: Store, naive: NaiveStore, now: float) -> None:
    rows = unmarked(store.rows)
    assert rows.keys() == naive.rows.keys()
    for key, held in rows.items():
        row = store.patterns.hide(held)
        model = naive.rows.get(key)
        assert model is not None
        assert (row.key, row.version, row.deleted) == (key, model.version, model.deleted)
        assert row.live(now) is model.live(now)
        if row.deleted:
            assert row.value == b""
            continue
        assert (row.content_type, row.created_at) == (model.content_type, model.created_at)
        # the same soft pattern again takes the place of the one before: when exactly it ended is then told later
        assert row.expires_at == model.expires_at or not model.live(now)
        assert (row.tags, row.parents) == (model.tags, model.parents)
        assert row.content_hash == content_hash(row.content_type, row.value)
        if isinstance(model.content, Fraction):
            assert Fraction(row.value.decode()) == number_of(model)
        else:
            assert row.value == model.content


@settings(max_examples=60, deadline=None)
@given(BATCHES, st.lists(WISHES, min_size=2, max_size=10), st.data())
def test_one_batch_comes_to_what_two_come_to(
    before: list[tuple[float, list[Wish]]], wishes: list[Wish], data: st.DataObject
) -> None:
    now = 1_000.0
    store = Store(Position(Epoch(1), Seq(10)), {}, {})
    for wait, earlier in before:
        now += wait
        store.append([resolved(wish, store) for wish in earlier], now)
    drafts = [resolved(wish, store) for wish in wishes]
    where = data.draw(st.integers(0, len(drafts)))

    whole, parts = store.copy(), store.copy()
    one = whole.append(drafts, now)
    first, second = parts.append(drafts[:where], now), parts.append(drafts[where:], now)

    assert [said(outcome) for outcome in one.outcomes] == [said(o) for o in (*first.outcomes, *second.outcomes)]
    # ids name the batch and the place in it, so only they differ, and what is told of conflicts, which names them
    assert [change._replace(id="", conflict="", publication=None) for change in one.changes] == [
        change._replace(id="", conflict="", publication=None) for change in (*first.changes, *second.changes)
    ]
    assert (whole.position, whole.rows, whole.patterns) == (parts.position, parts.rows, parts.patterns)
    assert whole.results.keys() == parts.results.keys()
    assert one.replayed == first.replayed | {place + where for place in second.replayed}
