"""Replicas: three sites write one key and hear of each other in any order, late or twice; then all have the same."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import permutations
from typing import NamedTuple

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachesvc.model.agenda import Item
from cachesvc.model.change import Change, Draft, Operation, Receipt, invalidate, merge
from cachesvc.model.conflict import unpack_conflict
from cachesvc.model.entry import Entry
from cachesvc.model.fold import fold
from cachesvc.model.fold_state import State, Terms
from cachesvc.model.invalidation import Invalidation, Patterns
from cachesvc.model.keys import Key
from cachesvc.model.merging import Policy, Strategy
from cachesvc.model.position import Epoch, Position, Seq, Version
from cachesvc.model.replica import conflict_of, mark_of, merged, origin_of, portable, shared, vector_of
from cachesvc.model.vector import joined, knows, knows_all

KEY = Key("key")
SITES = ("berlin", "oslo", "porto")
LATEST = Policy()
MANY = int(os.environ.get("EXAMPLES", "60"))


@dataclass
class Site:
    """One site, reduced to its row of the key; `told` is every state of it that others may ever hear of."""

    name: str
    clock: float = 1_000.0
    head: int = 100
    told: list[Entry] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    policy: Policy = LATEST
    items: dict[str, Item] = field(default_factory=dict)
    kept: Entry | None = None  # what there was before the patterns
    patterns: Patterns = field(default_factory=Patterns)
    softened: int = 0  # how often this site has said so itself
    heard: dict[str, int] = field(default_factory=dict)  # of how many of each other it has heard

    def __post_init__(self) -> None:
        self.patterns = Patterns(site=self.name)

    def do(self, draft: Draft) -> Receipt:
        rows = {KEY: self.kept} if self.kept is not None else {}
        position = Position(Epoch(1), Seq(self.head))
        state = State(position, self.clock, rows, site=self.name, items=self.items, patterns=self.patterns)
        folded = fold(state, [draft], batch="b", terms=Terms(site=self.name, policies={"": self.policy}))
        self.head += len(folded.changes)
        self.changes += folded.changes
        self.items |= {name: item for name, item in folded.items.items() if item is not None}
        self.kept = folded.rows.get(KEY, self.kept)
        for one in folded.patterns:
            self.patterns.add(one)
        if self.shared is not None:
            self.told.append(portable(self.shared, self.name))
        outcome = folded.outcomes[0]
        assert isinstance(outcome, Receipt)
        return outcome

    def hear(self, came: Entry, peer: str) -> Receipt:
        return self.do(merge(came, peer=peer))

    def soften(self, *, origin: str = "") -> None:
        self.softened += not origin
        self.do(invalidate(Invalidation("k*", soft=True, origin=origin)))

    def soften_key(self) -> None:
        self.do(invalidate(Invalidation(keys=(KEY,), soft=True)))

    def sweep(self) -> None:
        """What the database does with what patterns hide, in its time."""
        self.kept = self.row

    def hear_invalidations(self, other: Site) -> None:
        for number in range(self.heard.get(other.name, 0), other.softened):
            self.soften(origin=f"{other.name}:{number}")
        self.heard[other.name] = other.softened

    @property
    def row(self) -> Entry | None:
        return self.patterns.hide(self.kept) if self.kept is not None else None

    @property
    def stale(self) -> bool:
        return self.row is not None and not self.row.deleted and not self.row.live(self.clock)

    @property
    def shared(self) -> Entry | None:
        """What others are to have."""
        return shared(self.row) if self.row is not None else None

    @property
    def open(self) -> set[str]:
        """The ids of the conflicts that wait for somebody."""
        return {found.id for item in self.items.values() if (found := unpack_conflict(item)).open}

    @property
    def state(self) -> bytes | None:
        return mark_of(self.shared, self.name) if self.shared is not None else None


class Step(NamedTuple):
    site: int
    what: str
    other: int
    which: int
    amount: int
    time: float


PATTERNED = "soft", "soft key", "sweep", "hear invalidations"
STEPS = st.builds(
    Step,
    st.integers(0, 2),
    st.sampled_from(["set", "set", "delete", "increment", "increment", "hear", "hear", "hear", "fill", "local", *PATTERNED]),
    st.integers(0, 2),
    st.integers(0, 50),
    st.integers(-5, 5),
    st.sampled_from([0.0, 0.0, 1.0, 5.0, -3.0]),
)
HISTORIES = st.lists(STEPS, max_size=25)
POLICIES = st.sampled_from(
    [
        LATEST,
        Policy(Strategy.MANUAL),
        Policy(Strategy.FIELD_LEVEL),
        Policy(Strategy.TIMESTAMP, time_field="at"),
        Policy(Strategy.PRIORITY, sources=("s1", "s2")),
    ]
)


def content(site: Site, step: Step) -> bytes:
    """What a site sets: numbers, mostly, to which others add; else objects, of which it changes one field."""
    if step.amount % 3:
        return b"%d" % (step.amount * 1_000)
    row = site.row if site.row is not None and not site.row.deleted else None
    found = orjson.loads(row.value) if row is not None else {}
    said: dict[str, object] = found if isinstance(found, dict) else {}
    said |= {f"f{step.which % 3}": step.amount, "source": f"s{step.which % 4}"}
    said["at"] = f"2023-11-14T22:13:{step.which:02d}Z"
    return orjson.dumps(said)


def played(history: list[Step], *, only: tuple[str, ...] = (), policy: Policy = LATEST) -> list[Site]:
    sites = [Site(name, policy=policy) for name in SITES]
    for step in history:
        site, other = sites[step.site], sites[step.other]
        site.clock = max(1_000.0, site.clock + step.time)
        if only and step.what not in only:
            continue
        match step.what:
            case "set":
                site.do(Draft(Operation.SET, KEY, content(site, step)))
            case "local":
                site.do(Draft(Operation.SET, KEY, b"7", distribute=False))
            case "fill":
                site.do(Draft(Operation.FILL, KEY, b"8"))
            case "delete":
                site.do(Draft(Operation.DELETE, KEY))
            case "increment":
                if site.row is None or site.row.deleted or not site.row.value.startswith(b"{"):
                    site.do(Draft(Operation.INCREMENT, KEY, amount=Decimal(step.amount)))
            case "soft" | "sweep" | "hear invalidations":
                played_patterns(site, other, step.what)
            case "hear" if other.told:
                site.hear(other.told[step.which % len(other.told)], other.name)
    return sites


def played_patterns(site: Site, other: Site, what: str) -> None:
    match what:
        case "soft":
            site.soften()
        case "soft key" if site.row is not None and site.row.live(site.clock):
            site.soften_key()
        case "sweep":
            site.sweep()
        case "hear invalidations" if site is not other:
            site.hear_invalidations(other)


def healed(sites: list[Site], order: list[int]) -> None:
    """Everyone hears of what everyone has, in some order, until nobody learns anything."""
    while True:
        heads = [site.head for site in sites]
        for place in order:
            site, other = sites[place // 3], sites[place % 3]
            if site is not other:
                site.hear_invalidations(other)
            if site is not other and other.shared is not None:
                site.hear(portable(other.shared, other.name), other.name)
        if heads == [site.head for site in sites]:
            return


@settings(max_examples=MANY, deadline=None)
@given(HISTORIES, st.permutations(range(9)), st.permutations(range(9)), POLICIES)
def test_sites_come_to_the_same_whatever_the_order(
    history: list[Step], one: list[int], another: list[int], policy: Policy
) -> None:
    only = ("set", "delete", "increment", "hear")
    first, second = played(history, only=only, policy=policy), played(history, only=only, policy=policy)
    healed(first, one)
    healed(second, another)
    for sites in (first, second):
        assert len({site.state for site in sites}) == 1
        assert len({(site.row.value, site.row.deleted, site.row.expires_at) for site in sites if site.row is not None}) <= 1
    assert {site.state for site in first} == {site.state for site in second}


@settings(max_examples=MANY, deadline=None)
@given(HISTORIES, st.permutations(range(9)))
def test_a_conflict_is_open_as_long_as_what_it_is_about_stands_beside_each_other(history: list[Step], order: list[int]) -> None:
    sites = played(history, only=("set", "delete", "increment", "local", "hear"), policy=Policy(Strategy.MANUAL))
    for site in sites:
        assert site.open == {conflict_of(site.row)} - {""}
    healed(sites, order)
    assert all(site.open == sites[0].open for site in sites)


@settings(max_examples=MANY, deadline=None)
@given(HISTORIES, st.permutations(range(9)))
def test_what_is_of_one_site_alone_does_not_keep_them_apart(history: list[Step], order: list[int]) -> None:
    sites = played(history)
    healed(sites, order)
    assert len({site.state for site in sites if site.state is not None}) <= 1


@settings(max_examples=MANY, deadline=None)
@given(HISTORIES, POLICIES)
def test_to_hear_of_others_is_commutative_associative_and_idempotent(history: list[Step], policy: Policy) -> None:
    sites = played(history, only=("set", "delete", "increment", "hear"), policy=policy)
    states = [site.told[-1] for site in sites if site.told]
    for order in permutations(states) if states else ():
        together: Entry | None = None
        for state in (*order, *order):
            together = join(together, state, policy)
        grouped = join(order[0], join(order[-1], order[len(order) // 2], policy), policy)
        assert together is not None
        assert said(together) == said(grouped)
        for state in states:
            assert said(join(together, state, policy)) == said(together)
            assert knows_all(together.vector, state.vector)


def join(known: Entry | None, came: Entry, policy: Policy) -> Entry:
    found = merged(known, came, "nowhere", Version(1), policy)
    return found.entry if found is not None else known or came


def said(entry: Entry) -> tuple[object, ...]:
    return (*entry._replace(version=Version(0), origin=None),)


@settings(max_examples=MANY, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-9, 9), st.booleans()), max_size=20), st.permutations(range(9)))
def test_counters_add_up_whatever_was_heard_when(steps: list[tuple[int, int, bool]], order: list[int]) -> None:
    sites = [Site(name) for name in SITES]
    for place, amount, hears in steps:
        site = sites[place]
        site.do(Draft(Operation.INCREMENT, KEY, amount=Decimal(amount)))
        other = sites[(place + 1) % 3]
        if hears:
            other.hear(portable(site.row, site.name), site.name) if site.row is not None else None
    healed(sites, order)
    total = sum(amount for _, amount, _ in steps)
    assert all(int(site.row.value) == total for site in sites if site.row is not None)


@settings(max_examples=MANY, deadline=None)
@given(HISTORIES, st.permutations(range(9)), st.permutations(range(9)), POLICIES)
def test_what_a_soft_pattern_leaves_is_the_write_that_it_was(
    history: list[Step], one: list[int], another: list[int], policy: Policy
) -> None:
    only = ("set", "delete", "increment", "hear", *PATTERNED)
    first, second = played(history, only=only, policy=policy), played(history, only=only, policy=policy)
    healed(first, one)
    healed(second, another)
    for sites in (first, second):
        assert len({site.state for site in sites if site.row is not None}) <= 1  # nobody takes what is past its life
        assert len({(site.row.value, site.row.deleted) for site in sites if site.row is not None}) <= 1
        for told in (told for site in sites for told in site.told):
            assert all(
                knows(told.vector, origin) for origin in (told.origin, *(rival.origin for rival in told.rivals)) if origin
            )
    states = {site.state for site in (*first, *second)}
    assert len(states - {None}) <= 1


@settings(max_examples=MANY, deadline=None)
@given(HISTORIES, st.permutations(range(9)))
def test_counters_add_up_whatever_a_soft_pattern_hides(history: list[Step], order: list[int]) -> None:
    sites = [Site(name) for name in SITES]
    total = 0
    for step in history:
        site, other = sites[step.site], sites[step.other]
        if step.what in ("set", "delete", "increment", "fill", "local") and not site.stale:  # that would count anew
            site.do(Draft(Operation.INCREMENT, KEY, amount=Decimal(step.amount)))
            total += step.amount
        elif step.what == "hear" and site is not other and other.shared is not None:
            site.hear(portable(other.shared, other.name), other.name)
        elif step.what in PATTERNED:
            played_patterns(site, other, step.what)
    healed(sites, order)
    assert all(int(site.row.value) == total for site in sites if site.row is not None)


def test_of_writes_that_did_not_know_of_each_other_the_later_counts_and_the_other_is_kept() -> None:
    berlin, oslo = Site("berlin", clock=1_000.0), Site("oslo", clock=1_001.0)
    berlin.do(Draft(Operation.SET, KEY, b'"b"'))
    oslo.do(Draft(Operation.SET, KEY, b'"o"'))
    of_berlin, of_oslo = berlin.told[-1], oslo.told[-1]
    told = [berlin.hear(of_oslo, "oslo"), oslo.hear(of_berlin, "berlin")]
    assert told[0].conflict == told[1].conflict != ""
    for site in (berlin, oslo):
        assert site.row is not None
        assert site.row.value == b'"o"'
        assert origin_of(site.row, site.name).site == "oslo"
        assert [rival.entry.value for rival in site.row.rivals] == [b'"b"', b'"o"']
    berlin.do(Draft(Operation.SET, KEY, b'"both known"'))
    oslo.hear(berlin.told[-1], "berlin")
    assert oslo.row is not None
    assert (oslo.row.value, oslo.row.rivals) == (b'"both known"', ())
    assert oslo.changes[-1].conflict == ""


def test_who_knows_of_a_conflict_and_writes_settles_it_everywhere_and_a_third_content_makes_it_another() -> None:
    berlin, oslo, porto = (Site(name, policy=Policy(Strategy.MANUAL)) for name in SITES)
    for number, site in enumerate((berlin, oslo, porto)):
        site.do(Draft(Operation.SET, KEY, b"%d" % number))
    first = berlin.hear(oslo.told[-1], "oslo").conflict
    assert berlin.open == {first}
    second = berlin.hear(porto.told[-1], "porto").conflict
    assert berlin.open == {second} != {first}
    assert oslo.hear(berlin.told[-1], "berlin").conflict == second
    assert oslo.open == {second}
    berlin.do(Draft(Operation.SET, KEY, b"0"))
    assert berlin.open == set()
    oslo.hear(berlin.told[-1], "berlin")
    assert oslo.open == set()
    settled = [unpack_conflict(berlin.items[f"conflict:{name}"]) for name in (first, second)]
    assert [one.strategy for one in settled] == [Strategy.LAST_WRITE_WINS, Strategy.MANUAL]
    assert settled[1].accepted == ("local",)


def test_a_site_that_hears_of_a_conflict_that_was_settled_elsewhere_is_told_of_it() -> None:
    berlin, oslo, porto = (Site(name) for name in SITES)
    berlin.do(Draft(Operation.SET, KEY, b"1"))
    oslo.do(Draft(Operation.SET, KEY, b"2"))
    settled = oslo.hear(berlin.told[-1], "berlin")
    assert porto.hear(oslo.told[-1], "oslo").conflict == settled.conflict != ""
    assert berlin.hear(porto.told[-1], "porto").conflict == settled.conflict
    assert [site.head for site in (berlin, oslo, porto)] == [104, 104, 103]  # each with what is told of the conflict


def test_what_is_known_leaves_no_record() -> None:
    berlin, oslo = Site("berlin"), Site("oslo")
    berlin.do(Draft(Operation.SET, KEY, b"1"))
    oslo.hear(berlin.told[-1], "berlin")
    head = oslo.head, berlin.head
    oslo.hear(berlin.told[-1], "berlin")
    berlin.hear(oslo.told[-1], "oslo")
    assert (oslo.head, berlin.head) == head


def test_an_increment_beside_a_set_is_added_to_it() -> None:
    berlin, oslo = Site("berlin"), Site("oslo", clock=1_050.0)
    berlin.do(Draft(Operation.SET, KEY, b"5"))
    oslo.hear(berlin.told[-1], "berlin")
    oslo.do(Draft(Operation.INCREMENT, KEY, amount=Decimal(2)))
    berlin.do(Draft(Operation.SET, KEY, b"100"))
    healed([berlin, oslo, Site("porto")], list(range(9)))
    assert berlin.row is not None
    assert oslo.row is not None
    assert berlin.row.value == oslo.row.value == b"102"


def test_a_write_is_later_than_all_that_it_knew_of_though_the_clock_says_otherwise() -> None:
    berlin, oslo = Site("berlin", clock=5_000.0), Site("oslo", clock=1_000.0)
    berlin.do(Draft(Operation.SET, KEY, b"1"))
    oslo.hear(berlin.told[-1], "berlin")
    oslo.do(Draft(Operation.SET, KEY, b"2"))
    berlin.hear(oslo.told[-1], "oslo")
    assert berlin.row is not None
    assert oslo.row is not None
    assert berlin.row.value == b"2"
    assert oslo.row.updated_at > 5_000.0


def test_of_a_loader_s_value_no_other_site_is_told() -> None:
    site = Site("berlin")
    site.do(Draft(Operation.FILL, KEY, b"1"))
    assert site.row is not None
    assert site.row.local
    assert not site.told
    site.do(Draft(Operation.SET, KEY, b"2"))
    assert vector_of(site.row, "berlin") == (("berlin", 102),)


def test_what_a_site_wrote_for_all_is_told_although_a_write_for_itself_came_after_it() -> None:
    berlin, oslo = Site("berlin"), Site("oslo")
    berlin.do(Draft(Operation.SET, KEY, b"1"))
    oslo.hear(berlin.told[-1], "berlin")
    berlin.do(Draft(Operation.DELETE, KEY))
    berlin.do(Draft(Operation.FILL, KEY, b"2"))  # before oslo has asked
    assert berlin.row is not None
    assert (berlin.row.local, berlin.row.value) == (True, b"2")
    healed([berlin, oslo, Site("porto")], list(range(9)))
    assert oslo.row is not None
    assert oslo.row.deleted
    assert berlin.row.value == b"2"
    assert berlin.state == oslo.state


@pytest.mark.parametrize("earlier", ["set", "delete", "increment"])
@pytest.mark.parametrize("known", [True, False])
def test_what_was_written_for_one_site_stands_there_until_something_later(earlier: str, known: bool) -> None:
    berlin, oslo, porto = Site("berlin", clock=1_001.0), Site("oslo"), Site("porto")
    if known:
        porto.do(Draft(Operation.SET, KEY, b"5"))
        for site in (berlin, oslo):
            site.hear(porto.told[-1], "porto")
    berlin.do(Draft(Operation.SET, KEY, b"7", distribute=False))
    match earlier:
        case "set":
            oslo.do(Draft(Operation.SET, KEY, b"6"))
        case "delete":
            oslo.do(Draft(Operation.DELETE, KEY))
        case _:
            oslo.do(Draft(Operation.INCREMENT, KEY, amount=Decimal(1)))
    healed([berlin, oslo, porto], list(range(9)))
    assert berlin.row is not None
    assert (berlin.row.value, berlin.row.local) == (b"7", True)
    assert berlin.state == oslo.state == porto.state
    oslo.clock = 1_002.0
    oslo.do(Draft(Operation.SET, KEY, b"8"))
    healed([berlin, oslo, porto], list(range(9)))
    assert berlin.row.value == b"8"
    assert berlin.state == oslo.state == porto.state


def test_what_is_told_behind_a_write_for_one_site_makes_its_conflicts_there_too() -> None:
    berlin, oslo, porto = (Site(name, policy=Policy(Strategy.MANUAL)) for name in SITES)
    for number, site in enumerate((oslo, porto)):
        site.do(Draft(Operation.SET, KEY, b"%d" % number))
    berlin.clock = 1_001.0
    berlin.do(Draft(Operation.SET, KEY, b"7", distribute=False))
    healed([berlin, oslo, porto], list(range(9)))
    assert berlin.row is not None
    assert berlin.row.value == b"7"
    assert len(berlin.open) == 1
    assert berlin.open == oslo.open == porto.open


@pytest.mark.parametrize("more", [0, 3])
@pytest.mark.parametrize("policy", [LATEST, Policy(Strategy.MANUAL)])
@pytest.mark.parametrize("order", [list(range(9)), list(reversed(range(9)))])
def test_of_what_was_written_under_a_name_that_was_given_before_both_are_kept(
    more: int, policy: Policy, order: list[int]
) -> None:
    berlin, oslo, porto = (Site(name, policy=policy) for name in SITES)
    berlin.do(Draft(Operation.SET, KEY, b'"v1"'))
    healed([berlin, oslo, porto], order)
    backup = berlin.kept, berlin.head
    for number in range(1 + more):
        berlin.do(Draft(Operation.SET, KEY, b'"lost %d"' % number))
    oslo.hear(portable(berlin.told[-1], "berlin"), "berlin")
    berlin.clock += 10.0
    berlin.kept, berlin.head = backup
    berlin.do(Draft(Operation.SET, KEY, b'"new"'))
    porto.hear(portable(berlin.told[-1], "berlin"), "berlin")
    porto.hear(portable(oslo.told[-1], "oslo"), "oslo")
    berlin.head = 1_000  # where a new epoch begins
    healed([berlin, oslo, porto], order)
    assert berlin.state == oslo.state == porto.state
    for site in (berlin, oslo, porto):
        assert site.row is not None
        assert site.row.value == b'"new"'
        assert {rival.entry.value for rival in site.row.rivals} == {b'"lost %d"' % more, b'"new"'}


def test_what_a_restored_site_had_lost_comes_back() -> None:
    berlin, oslo = Site("berlin"), Site("oslo")
    berlin.do(Draft(Operation.SET, KEY, b"1"))
    backup = berlin.kept, berlin.head
    berlin.do(Draft(Operation.SET, KEY, b"2"))
    oslo.hear(berlin.told[-1], "berlin")
    berlin.kept, berlin.head = backup
    healed([berlin, oslo, Site("porto")], list(range(9)))
    assert berlin.row is not None
    assert (berlin.row.value, berlin.row.rivals) == (b"2", ())


@pytest.mark.parametrize(("at", "stands"), [(1_001.0, True), (1_003.0, False)])
def test_an_invalidation_by_key_of_another_site_takes_what_is_not_later(at: float, stands: bool) -> None:
    oslo = Site("oslo", clock=1_002.0)
    oslo.do(Draft(Operation.SET, KEY, b"1"))
    oslo.clock = 1_004.0
    oslo.do(invalidate(Invalidation(keys=(KEY,), cascade=True, origin="berlin:7", at=at)))
    assert oslo.row is not None
    assert oslo.row.deleted is not stands
    assert oslo.row.updated_at == (1_002.0 if stands else at)
    invalidated = oslo.changes[-1].invalidation
    assert invalidated is not None
    assert invalidated.keys == (() if stands else (KEY,))  # its floor is not raised above what stands


def test_of_two_that_differ_without_a_write_the_writer_s_own_is_right() -> None:
    berlin, oslo = Site("berlin"), Site("oslo")
    berlin.do(Draft(Operation.SET, KEY, b"1"))
    oslo.hear(berlin.told[-1], "berlin")
    assert oslo.row is not None
    oslo.kept = oslo.row._replace(value=b"666", content_hash=b"x" * 16)
    berlin.hear(portable(oslo.row, "oslo"), "oslo")
    oslo.hear(berlin.told[-1], "berlin")
    assert oslo.state == berlin.state
    assert oslo.row.value == b"1"


@settings(max_examples=MANY, deadline=None)
@given(*[st.dictionaries(st.sampled_from(SITES), st.integers(1, 9)).map(lambda known: tuple(sorted(known.items())))] * 3)
def test_vectors_are_joined(
    one: tuple[tuple[str, int], ...], two: tuple[tuple[str, int], ...], three: tuple[tuple[str, int], ...]
) -> None:
    assert joined(one, two) == joined(two, one)
    assert joined(one, joined(two, three)) == joined(joined(one, two), three)
    assert knows_all(joined(one, two), one)
    assert joined(one, one) == one
