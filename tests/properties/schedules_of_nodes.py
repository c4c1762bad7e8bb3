"""Schedules of what a node decides: what it serves, what it keeps in memory, what the authority takes."""

from __future__ import annotations

from cachesvc.model.change import Draft, Operation
from tests.properties import clients
from tests.properties.clients import set_draft, wipe
from tests.properties.schedule import (
    CHILD,
    FRESH,
    LOADED,
    A,
    evict,
    filled_late,
    forget,
    invalidate,
    missed,
    read,
    retire,
    schedule,
    three,
    write,
)
from tests.properties.site import Site


@schedule("floors")
def a_put_into_redis_is_late(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    with site.hold(n1, "redis", "put"):
        write(n1)
        n2.memory.clear()
        read(n2)  # Redis has the older one, and is believed up to the horizon


@schedule("raise")
@schedule("drop")
def a_change_is_followed(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    read(n2)
    write(n1)
    read(n2)


@schedule("horizon")
def a_slow_read_lands_when_its_floor_is_forgotten(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    evict(site, A)
    with site.hold(n2, "database", "get", answer=True):
        slow = n2.start(clients.read(n2, A))
        site.settle()
        write(n1)
        forget(n2)
    site.settle()
    assert slow.done()
    read(n2)


@schedule("horizon")
def a_write_of_ones_own_is_acknowledged_when_its_floor_is_forgotten(site: Site) -> None:
    n1, n2, _ = three(site)
    with site.hold(n1, "database", "append", answer=True):
        slow = n1.start(clients.write(n1, set_draft(n1, A)))
        site.settle()
        write(n2)
        forget(n1)
    site.settle()
    assert slow.done()
    read(n1)


@schedule("patterns", "invalidated served")
def redis_has_what_a_pattern_killed(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    invalidate(n1, wipe("a:*"))
    read(n2)


@schedule("doubt", "invalidated served")
def memory_has_what_a_pattern_killed(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    read(n2)
    invalidate(n1, wipe("a:*"))
    read(n2)


@schedule("cursor")
def redis_lags_behind_what_a_node_has_forgotten(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    with site.hold(n1, "redis", "put"):
        write(n1)
        forget(n2)
        n2.memory.clear()
        read(n2)


@schedule("observe")
def what_was_served_is_evicted_and_redis_has_the_older(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    with site.hold(n2, "database", "read"), site.hold(n1, "redis", "put"), site.hold(n2, "redis", "put"):
        write(n1)
        read(n2, A, FRESH)
        n2.memory.clear()
        read(n2)


@schedule("drop")
def an_absence_was_served_and_memory_has_what_was_there(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    read(n2)
    with site.hold(n2, "database", "read"):
        site.does(n1, clients.write(n1, Draft(Operation.DELETE, A)))
        read(n2, A, FRESH)
        read(n2)


@schedule("observe", "invalidated served")
def an_absence_was_served_and_redis_has_what_was_there(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    site.replay(n1)
    with site.hold(n2, "database", "read"):
        invalidate(n1, wipe("a:*"))
        read(n2, A, FRESH)
        read(n2)


@schedule("part", "absent")
def a_loader_that_knows_nothing_is_slow_and_another_read_finds_what_was_written(site: Site) -> None:
    n1, n2, _ = three(site)
    site.truth.origin[LOADED] = -1  # it has none
    with site.hold(n1, "origin", "load", answer=True), site.hold(n1, "database", "read"):
        early = n1.start(clients.read(n1, LOADED))
        site.settle()
        write(n2, LOADED)
        read(n1, LOADED, FRESH)
        n1.memory.clear()
        late = n1.start(clients.read(n1, LOADED))
        site.settle()
    site.settle()
    assert early.done()
    assert late.done()


@schedule("part", "absent")
def a_loader_that_knows_nothing_is_slow(site: Site) -> None:
    n1, _, _ = three(site)
    site.truth.origin[LOADED] = -1  # it has none
    with site.hold(n1, "origin", "load", answer=True):
        early = n1.start(clients.read(n1, LOADED))
        site.settle()
        write(n1, LOADED)
        n1.memory.clear()
        late = n1.start(clients.read(n1, LOADED))
        site.settle()
    site.settle()
    assert early.done()
    assert late.done()


@schedule("late pattern", "a pattern stays")
def an_invalidation_of_ones_own_is_acknowledged_when_its_retirement_is_forgotten(site: Site) -> None:
    n1, n2, _ = three(site)
    with site.hold(n1, "database", "append", answer=True):
        slow = n1.start(clients.change_origin(n1, LOADED, wipe("l:*")))
        site.settle()
        retire(n2)
        forget(n1)
    site.settle()
    assert slow.done()
    site.look_at_patterns(n1)


@schedule("keep", "invalidated served")
def redis_is_set_back_to_before_the_sweep(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    site.replay(n1)
    old = site.redis.dump()
    invalidate(n1, wipe("a:*"))
    retire(n1)
    site.replay(n1)
    site.set_back(old)
    read(n2)


@schedule("fill: key", "invalidated value filled")
def a_key_is_invalidated_while_it_is_computed(site: Site) -> None:
    n1, n2, _ = three(site)
    filled_late(site, n1, n2, wipe("", LOADED))


@schedule("fill: pattern", "invalidated value filled")
def a_pattern_comes_while_a_key_is_computed(site: Site) -> None:
    n1, n2, _ = three(site)
    filled_late(site, n1, n2, wipe("l:*"))


@schedule("fill: age", "invalidated value filled")
def a_fill_comes_when_nothing_is_known_of_its_time(site: Site) -> None:
    n1, n2, _ = three(site)

    def long_after() -> None:
        site.time.seconds += 3_600.0
        site.does(n2, n2.sweeper.step())

    filled_late(site, n1, n2, wipe("", LOADED), long_after)


@schedule("fill: parent", "filled from an old parent")
def a_parent_changes_while_its_child_is_computed(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    seen = site.database.rows[A].version
    token, _ = missed(n1, CHILD)
    write(n2)
    site.does(n1, clients.fill_with(n1, CHILD, token, A, seen))
