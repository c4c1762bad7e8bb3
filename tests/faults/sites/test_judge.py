"""The judge of runs over sites: a planted violation of each kind is found, and what correct sites may do is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import cast

import pytest

from cachesvc.model.change import Draft, Operation
from cachesvc.model.entry import Entry, content_hash
from cachesvc.model.keys import Key
from cachesvc.model.position import Seq, Version
from cachesvc.model.replica import portable
from tests.faults.history import Kind, Op, Outcome
from tests.faults.sites.judge import counted, judged
from tests.faults.sites.records import Records
from tests.model.test_replica import Site

KEY = Key("key")
SITE_OF = {0: "berlin", 1: "oslo"}


class Played:
    """Two sites, and what their clients were told; `records` is what their databases have."""

    def __init__(self) -> None:
        self.sites = [Site("berlin"), Site("oslo")]
        self.history: list[Op] = []

    def do(self, place: int, kind: Kind, value: str = "", expected: int = -1) -> int:
        site = self.sites[place]
        site.clock += 1.0
        operation = {Kind.SET: Operation.SET, Kind.DELETE: Operation.DELETE, Kind.INCREMENT: Operation.INCREMENT}[kind]
        amount = Decimal(value) if kind is Kind.INCREMENT else Decimal(0)
        version = site.do(Draft(operation, KEY, value.encode(), amount=amount)).version
        start = float(len(self.history))
        op = Op(place, int(start), kind, KEY, start, start, Outcome.OK, version=version, value=value, expected=expected)
        self.history.append(op)
        return version

    def hear(self, place: int) -> None:
        other = self.sites[1 - place]
        assert other.row is not None
        self.sites[place].hear(portable(other.row, other.name), other.name)

    @property
    def records(self) -> dict[str, Records]:
        found = {}
        for site in self.sites:
            log = {Version(change.sequence): change for change in site.changes}
            found[site.name] = Records(cast(Callable[[], object], None), log, {KEY: site.row} if site.row else {})  # type: ignore[arg-type]
        return found

    @property
    def wrong(self) -> list[str]:
        return judged(self.records, self.history, site_of=SITE_OF, keys=[KEY]).wrong


def conflict() -> Played:
    """Both wrote without knowing of each other, and have heard of each other since."""
    played = Played()
    played.do(0, Kind.SET, '"0:1"')
    played.hear(1)
    played.do(0, Kind.SET, '"0:2"')
    played.do(1, Kind.DELETE)
    played.do(1, Kind.SET, '"1:2"')
    played.hear(0)
    played.hear(1)
    return played


def sums() -> Played:
    played = Played()
    played.do(0, Kind.INCREMENT, "0.1")
    played.do(1, Kind.INCREMENT, "0.1")
    played.hear(0)
    played.do(0, Kind.INCREMENT, "0.1")
    played.hear(1)
    played.hear(0)
    return played


@pytest.mark.parametrize("played", [Played(), conflict(), sums()])
def test_what_correct_sites_do_is_not_wrong(played: Played) -> None:
    assert played.wrong == []
    increments = [op for op in played.history if op.kind is Kind.INCREMENT]
    assert list(counted(played.records, increments, [KEY] if increments else [])) == []


def test_what_became_of_each_write_is_told() -> None:
    played = conflict()
    verdict = judged(played.records, played.history, site_of=SITE_OF, keys=[KEY])
    assert (verdict.stands, verdict.replaced, verdict.loser) == (1, 2, 1)


def with_row(site: Site, **changed: object) -> None:
    assert site.row is not None
    site.kept = site.row._replace(**changed)  # type: ignore[arg-type]


def without_the_loser(played: Played) -> None:
    with_row(played.sites[0], rivals=())


def the_older_served(played: Played) -> None:
    with_row(played.sites[1], value=b'"0:2"', content_hash=content_hash("application/json", b'"0:2"'))


def not_in_the_log(played: Played) -> None:
    del played.sites[0].changes[1]


def back_again(played: Played) -> None:
    """What was replaced is kept as if it had not been."""
    row, first = played.sites[0].row, played.sites[0].changes[0].entry
    assert row is not None
    assert first is not None
    with_row(
        played.sites[0], rivals=(row.rivals[0]._replace(entry=first, origin=row.rivals[0].origin._replace(sequence=Seq(101))),)
    )


def lost(played: Played) -> None:
    played.sites[1].kept = None


def another_value(played: Played) -> None:
    played.history[1] = played.history[1]._replace(value='"0:9"')


def no_deletion(played: Played) -> None:
    played.history[1] = played.history[1]._replace(kind=Kind.DELETE)


def made_on_what_it_does_not_know(played: Played) -> None:
    """A write of berlin that was made on the outcome of the conflict, and says that it knew of nothing of oslo."""
    seen = next(change.sequence for change in reversed(played.sites[0].changes) if change.entry is not None)
    played.do(0, Kind.SET, '"0:3"', expected=seen)
    change = played.sites[0].changes[-1]
    assert change.entry is not None
    played.sites[0].changes[-1] = change._replace(entry=change.entry._replace(vector=()))


def from_the_future(played: Played) -> None:
    """oslo's write says that it knew of one of berlin which was made later."""
    changes = played.sites[1].changes
    place, change = [(place, change) for place, change in enumerate(changes) if change.entry and not change.entry.origin][-1]
    assert change.entry is not None
    known = (("berlin", 102), ("oslo", change.sequence))
    changes[place] = change._replace(entry=change.entry._replace(vector=known), at=change.at - 10.0)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_the_loser, "berlin has kept"),
        (the_older_served, "oslo serves"),
        (not_in_the_log, "is not in its log"),
        (back_again, "berlin has kept"),
        (lost, "oslo has nothing"),
        (another_value, "was acknowledged"),
        (no_deletion, "acknowledged as a deletion"),
        (made_on_what_it_does_not_know, "does not know what that knew of"),
        (from_the_future, "which is later"),
    ],
)
def test_what_is_wrong_is_found(spoil: Callable[[Played], None], says: str) -> None:
    played = conflict()
    spoil(played)
    assert any(says in text for text in played.wrong), played.wrong


def test_an_odd_answer_and_a_log_that_was_not_read_are_wrong() -> None:
    played = conflict()
    played.history[0] = played.history[0]._replace(outcome=Outcome.ODD, detail="418")
    assert any("418" in text for text in played.wrong)
    records = conflict().records
    records["oslo"].lost = "trimmed"
    assert judged(records, [], site_of=SITE_OF, keys=[]).wrong == ["oslo: trimmed"]


@pytest.mark.parametrize(
    ("value", "unknown", "right"), [(b"0.3", 0, True), (b"0.4", 0, False), (b"0.4", 1, True), (b"0.2", 1, False)]
)
def test_a_counter_is_what_was_acknowledged_and_perhaps_more(value: bytes, unknown: int, right: bool) -> None:
    played = sums()
    for site in played.sites:
        with_row(site, value=value)
    more: Iterable[Op] = [played.history[0]._replace(outcome=Outcome.UNKNOWN)] * unknown
    assert (not list(counted(played.records, [*played.history, *more], [KEY]))) == right


def test_a_sum_that_leaves_one_out_is_found() -> None:
    played = sums()
    row: Entry | None = played.sites[0].row
    assert row is not None
    with_row(played.sites[0], value=b"0.2")
    assert any("berlin serves" in text for text in played.wrong)
