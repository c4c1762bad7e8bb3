"""Fields: what sites wrote at once is merged field by field, and of each field the latest write counts, at every site."""

from __future__ import annotations

import os
from typing import NamedTuple

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachesvc.model.change import Draft, Operation
from cachesvc.model.conflict import Conflict, unpack_conflict
from cachesvc.model.entry import Entry, pack_details, with_details
from cachesvc.model.merging import Policy, Strategy
from cachesvc.protocol.exact import RawJson
from cachesvc.protocol.replicated import entry_of, told
from tests.model.test_replica import KEY, SITES, Site, healed

BY_FIELD = Policy(Strategy.FIELD_LEVEL)
MANY = int(os.environ.get("EXAMPLES", "60"))


class Step(NamedTuple):
    """A site changes a member, or removes it where `value` is 0; or hears of another site."""

    site: int
    member: str
    value: int
    other: int
    time: float


STEPS = st.builds(
    Step,
    st.integers(0, 2),
    st.sampled_from(["a", "b", "c.d", "c.e", "", ""]),
    st.integers(0, 9),
    st.integers(0, 2),
    st.sampled_from([0.0, 1.0, -2.0]),
)


def value_of(site: Site) -> dict[str, object]:
    row = site.row
    return orjson.loads(row.value) if row is not None and not row.deleted else {}


def changed(held: dict[str, object], member: str, value: object) -> dict[str, object]:
    """With a member, whose name may be of two parts; 0 removes it."""
    first, _, rest = member.partition(".")
    inner = held.get(first, {})
    new = changed(inner if isinstance(inner, dict) else {}, rest, value) if rest else value
    more = {first: new} if new not in (0, {}) else {}
    return {name: said for name, said in held.items() if name != first} | more


@settings(max_examples=MANY, deadline=None)
@given(st.lists(STEPS, max_size=30), st.permutations(range(9)))
def test_of_each_field_the_latest_write_counts(history: list[Step], order: list[int]) -> None:
    sites = [Site(name, policy=BY_FIELD) for name in SITES]
    sites[0].do(Draft(Operation.SET, KEY, b'{"base":1}'))
    healed(sites, order)
    latest: dict[str, tuple[tuple[float, str, int], int]] = {}
    for step in history:
        site, other = sites[step.site], sites[step.other]
        site.clock = max(1_000.0, site.clock + step.time)
        if not step.member:
            if other is not site and other.told:
                site.hear(other.told[-1], other.name)
            continue
        before = value_of(site)
        after = changed(before, step.member, step.value)
        if after == before:
            continue
        receipt = site.do(Draft(Operation.SET, KEY, orjson.dumps(after)))
        assert site.row is not None
        stamp = site.row.updated_at, site.name, receipt.version
        latest[step.member] = max(latest.get(step.member, ((0.0, "", 0), 0)), (stamp, step.value))
    healed(sites, order)
    should: dict[str, object] = {"base": 1}
    for member, (_, value) in latest.items():
        should = changed(should, member, value)
    assert [value_of(site) for site in sites] == [should] * 3
    assert len({site.state for site in sites}) == 1


def apart(policy: Policy, *values: object, first: object = None) -> list[Site]:
    """Each site writes a value without knowing of the others', over the first, which all know; then all hear of all."""
    sites = [Site(name, policy=policy, clock=1_000.0 + place) for place, name in enumerate(SITES[: len(values)])]
    others = [Site(name, policy=policy) for name in SITES[len(values) :]]
    if first is not None:
        sites[0].do(Draft(Operation.SET, KEY, orjson.dumps(first)))
        healed([*sites, *others], list(range(9)))
    for site, value in zip(sites, values, strict=True):
        site.clock += 10.0
        operation = Operation.DELETE if value is None else Operation.SET
        site.do(Draft(operation, KEY, orjson.dumps(value), source=f"at {site.name}"))
    healed([*sites, *others], list(range(9)))
    return sites


def conflicts(site: Site) -> list[Conflict]:
    return [unpack_conflict(item) for item in site.items.values()]


def published(site: Site) -> list[str]:
    return [change.publication.type for change in site.changes if change.publication is not None]


FIRST = {"title": "first", "size": 1, "deep": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("policy", "values", "stands", "strategy", "fields"),
    [
        (Policy(), [{"v": 1}, {"v": 2}], {"v": 2}, Strategy.LAST_WRITE_WINS, ()),
        (BY_FIELD, [FIRST | {"title": "b"}, FIRST | {"size": 7}], FIRST | {"title": "b", "size": 7}, Strategy.FIELD_LEVEL, ()),
        (BY_FIELD, [FIRST | {"size": 5}, FIRST | {"size": 7}], FIRST | {"size": 7}, Strategy.FIELD_LEVEL, ("size",)),
        (BY_FIELD, [{"title": "first"}, FIRST | {"size": 7}], {"title": "first", "size": 7}, Strategy.FIELD_LEVEL, ("size",)),
        (
            BY_FIELD,
            [FIRST | {"deep": {"x": 5, "y": 2}}, FIRST | {"deep": {"x": 1, "y": 2, "z": 3}}],
            FIRST | {"deep": {"x": 5, "y": 2, "z": 3}},
            Strategy.FIELD_LEVEL,
            (),
        ),
        (
            BY_FIELD,
            [FIRST | {"deep": 1}, FIRST | {"deep": {"x": 9, "y": 2}}],
            FIRST | {"deep": {"x": 9}},
            Strategy.FIELD_LEVEL,
            ("deep.x",),
        ),
        (BY_FIELD, [{"v": 1}, 7], 7, Strategy.LAST_WRITE_WINS, ()),
        (BY_FIELD, [{"v": 1}, None], None, Strategy.LAST_WRITE_WINS, ()),
        (Policy(Strategy.FIELD_LEVEL, Strategy.MANUAL), [{"v": 1}, None], None, Strategy.MANUAL, ()),
        (
            Policy(Strategy.FIELD_LEVEL, Strategy.MANUAL),
            [FIRST | {"size": 5}, FIRST | {"size": 7}],
            FIRST | {"size": 7},
            Strategy.MANUAL,
            ("size",),
        ),
        (Policy(Strategy.PRIORITY, sources=("at berlin",)), [{"v": 1}, {"v": 2}], {"v": 1}, Strategy.PRIORITY, ()),
        (
            Policy(Strategy.TIMESTAMP),
            [{"v": 1, "updatedAt": "1970-01-01T00:10:00Z"}, {"v": 2, "updatedAt": "1970-01-01T00:05:00Z"}],
            {"v": 1, "updatedAt": "1970-01-01T00:10:00Z"},
            Strategy.TIMESTAMP,
            (),
        ),
        (  # nobody is later than when it was written, whatever it says
            Policy(Strategy.TIMESTAMP),
            [{"v": 1, "updatedAt": "2999-01-01T00:00:00Z"}, {"v": 2}],
            {"v": 2},
            Strategy.TIMESTAMP,
            (),
        ),
        (Policy(Strategy.MANUAL), [{"v": 1}, {"v": 2}], {"v": 2}, Strategy.MANUAL, ()),
    ],
)
def test_the_policy_settles_what_was_written_apart_alike_at_both(
    policy: Policy, values: list[object], stands: object, strategy: Strategy, fields: tuple[str, ...]
) -> None:
    sites = apart(policy, *values, first=FIRST)
    for site, other in ((sites[0], sites[1]), (sites[1], sites[0])):
        row = site.row
        assert row is not None
        assert (None if row.deleted else orjson.loads(row.value)) == stands
        assert site.state == other.state
        (conflict,) = conflicts(site)
        assert (conflict.id, conflict.strategy, conflict.fields) == (conflicts(other)[0].id, strategy, fields)
        assert conflict.open == (strategy is Strategy.MANUAL)
        assert conflict.winner == row.version
        assert (conflict.conflict_type == "data") == bool(fields or None in values)
        assert conflict.resolver == (row.author if strategy is Strategy.LAST_WRITE_WINS else "system")
        held = {one.role: None if one.entry.deleted else orjson.loads(one.entry.value) for one in conflict.held}
        mine = sites.index(site)
        assert (held["local"], held["remote"]) == (values[mine], values[1 - mine])
        last = {Strategy.MANUAL: "manual-resolution", Strategy.LAST_WRITE_WINS: "resolved"}.get(strategy, "auto-merge")
        assert published(site) == ["conflict:detect", f"conflict:{last}"]


def test_of_three_the_third_is_external_and_all_are_kept() -> None:
    sites = apart(BY_FIELD, FIRST | {"a": 1}, FIRST | {"b": 2}, FIRST | {"title": "c"}, first=FIRST)
    for site in sites:
        assert value_of(site) == FIRST | {"a": 1, "b": 2, "title": "c"}
        last = max(conflicts(site), key=lambda one: len(one.held))
        assert sorted(one.role for one in last.held) == ["external", "local", "merged", "remote"]
        assert len({one.entry.value for one in last.held}) == 4
    assert len({max(conflicts(site), key=lambda one: len(one.held)).id for site in sites}) == 1


def test_a_write_that_knew_of_both_ends_the_conflict_and_the_losers_stay_readable() -> None:
    sites = apart(BY_FIELD, FIRST | {"size": 5}, FIRST | {"size": 7}, first=FIRST)
    sites[0].do(Draft(Operation.SET, KEY, b'{"size":6}'))
    healed([*sites, Site("porto", policy=BY_FIELD)], list(range(9)))
    for site in sites:
        assert site.row is not None
        assert (site.row.value, site.row.rivals) == (b'{"size":6}', ())
        assert {5, 7} <= {orjson.loads(one.entry.value)["size"] for one in conflicts(site)[0].held}


def test_fields_are_kept_and_told_as_they_are() -> None:
    site = apart(BY_FIELD, FIRST | {"size": 5}, {"title": "x"}, first=FIRST)[0]
    row = site.row
    assert row is not None
    assert row.fields is not None
    assert with_details(row._replace(rivals=(), fields=None, vector=()), pack_details(row)) == row
    payload = orjson.loads(orjson.dumps(told(row, site.name)))
    came = entry_of(payload | {"value": RawJson(row.value)})
    assert (came.fields, [rival.entry.fields for rival in came.rivals]) == (row.fields, [r.entry.fields for r in row.rivals])


def test_what_has_too_many_fields_counts_as_a_whole() -> None:
    many: dict[str, object] = {f"m{number}": number for number in range(1_001)}
    sites = apart(BY_FIELD, many | {"a": 1}, many | {"b": 2}, first=many)
    row: Entry | None = sites[0].row
    assert row is not None
    assert orjson.loads(row.value) == many | {"b": 2}
    assert conflicts(sites[0])[0].strategy is Strategy.LAST_WRITE_WINS


def test_where_no_other_policy_is_set_no_fields_are_kept() -> None:
    site = Site("berlin")
    site.do(Draft(Operation.SET, KEY, b'{"a":1}'))
    assert site.row is not None
    assert site.row.fields is None
