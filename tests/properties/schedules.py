"""Schedules, written down: for each rule of `rules.py` the interleaving that breaks a promise without it.

`n1`, `n2` and `n3` are nodes; what a schedule does not hold back happens at once. Most end with the read that would lie.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from cachesvc.engine.answers import Want
from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.model.position import Position
from tests.properties import clients
from tests.properties.clients import set_draft, wipe
from tests.properties.site import LIMITS, Node, Site

A, OTHER, CHILD, LOADED = Key("a:1"), Key("b:1"), Key("b:1"), Key("l:1")
FRESH: Final = Want(fresh=True)
Schedule = Callable[[Site], None]


class Scheduled(NamedTuple):
    """A schedule, the rule without which it fails, and what is then said of it."""

    rule: str
    play: Schedule
    breaks: str

    @property
    def name(self) -> str:
        return f"{self.rule}: {self.play.__name__}"


SCHEDULES: list[Scheduled] = []


def schedule(rule: str, breaks: str = "backwards") -> Callable[[Schedule], Schedule]:
    def noted(function: Schedule) -> Schedule:
        SCHEDULES.append(Scheduled(rule, function, breaks))
        return function

    return noted


def three(site: Site) -> tuple[Node, Node, Node]:
    """Three nodes, and a Redis that is believed."""
    nodes = site.node(), site.node(), site.node()
    site.replay(nodes[0])
    return nodes


def write(node: Node, key: Key = A) -> None:
    node.site.does(node, clients.write(node, set_draft(node, key)))


def read(node: Node, key: Key = A, want: Want = Want()) -> None:  # noqa: B008 - it is frozen
    node.site.does(node, clients.read(node, key, want))


def invalidate(node: Node, draft: Draft) -> None:
    node.site.does(node, clients.change_origin(node, LOADED, draft))


def retire(node: Node) -> None:
    """Sweep the database of what the oldest pattern killed, and retire it."""
    site = node.site
    task = node.start(node.retirer.step())
    site.settle()
    while not task.done():
        site.tick(node)
        site.settle()
    task.result()


def forget(node: Node, upto: int = 0) -> None:
    """All floors are forgotten: those of other keys overflow them."""
    for number in range(LIMITS.floors + 1):
        node.cache.floors.raise_to(Key(f"other:{number}"), upto or node.cache.applied.sequence)


def believed(node: Node) -> None:
    """Convict a Redis that does not say that it has been replayed up to the head."""
    site = node.site
    site.replay(node)
    at = {str(mark and mark.position) for mark in site.does(node, node.redis.cursors()).values()}
    if at != {str(site.database.position)}:
        site.truth.violated("not replayed", f"the log is at {site.database.position}, Redis at {at}")


def evict(site: Site, key: Key) -> None:
    """Redis evicts an entry."""
    for name in site.redis.names():
        if name.endswith(b":" + key.encode()):
            site.evict(name)


def named(site: Site, end: bytes) -> list[bytes]:
    return [name for name in site.redis.names() if name.endswith(end)]


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


@schedule("horizon", "absent")
def an_absence_is_told_when_its_floor_is_forgotten(site: Site) -> None:
    n1, n2, _ = three(site)
    with site.hold(n2, "database", "read"):
        with site.hold(n2, "database", "get", answer=True):
            early = n2.start(clients.read(n2, A))
            site.settle()
            write(n1)
            found = n2.start(clients.read(n2, A, FRESH))
            site.settle()
            site.deliver(next(call for call in reversed(site.wire.calls) if call.caller is n2 and call.name == "get"))
            assert found.done()
            n2.memory.clear()
            late = n2.start(clients.read(n2, A))
            site.settle()
            forget(n2, site.database.position.sequence)
        site.settle()
    site.settle()
    assert early.done()
    assert late.done()


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


@schedule("token")
@schedule("low")
def a_slow_fill_comes_after_recent_has_forgotten(site: Site) -> None:
    n1, n2, n3 = three(site)
    write(n1)
    site.replay(n1)
    evict(site, A)
    n2.frozen = True
    with site.hold(n2, "database", "read"), site.hold(n2, "database", "get", answer=True):
        slow = n2.start(clients.read(n2, A))
        site.settle()
        write(n1)
        for number in range(8):
            write(n1, Key(f"many:{number}"))
        site.replay(n1)
        evict(site, A)
        site.wire.deliver(next(call for call in site.wire.calls if call.caller is n2 and call.name == "get"))
        site.settle()
        assert slow.done()
        forget(n3)
        n3.memory.clear()
        read(n3)


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


@schedule("resweep", "invalidated served")
def redis_is_set_back_when_the_pattern_is_forgotten(site: Site) -> None:
    """The first schedule of the model: a retired pattern, then an old snapshot."""
    n1, n2, n3 = three(site)
    write(n1)
    site.replay(n1)
    old = site.redis.dump()
    invalidate(n1, wipe("a:*"))
    retire(n1)
    site.replay(n1)
    for node in (n1, n2, n3):
        forget(node)
    site.set_back(old)
    site.replay(n1)
    read(n2)


@schedule("swept", "invalidated served")
def redis_is_set_back_between_the_sweep_and_the_cursor(site: Site) -> None:
    n1, n2, n3 = three(site)
    write(n1)
    site.replay(n1)
    invalidate(n1, wipe("a:*"))
    retire(n1)
    n1.replayer._at = None
    with site.hold(n1, "redis", "retire"):
        n1.start(n1.replayer.step())
        site.settle()
        old = site.redis.dump()
    with site.hold(n1, "redis", "replay"):
        site.settle()
        site.set_back(old)
    site.settle()
    site.replay(n1)
    for node in (n1, n2, n3):
        forget(node)
    read(n2)


@schedule("recent")
def a_slow_fill_comes_after_an_eviction(site: Site) -> None:
    """The second schedule of the model: an eviction while a slow fill is under way."""
    n1, n2, n3 = three(site)
    write(n1)
    site.replay(n1)
    evict(site, A)
    with site.hold(n2, "database", "read"), site.hold(n2, "database", "get", answer=True):
        slow = n2.start(clients.read(n2, A))
        site.settle()
        write(n1)
        site.replay(n1)
        read(n3)
        forget(n3)
        n3.memory.clear()
        evict(site, A)
        site.wire.deliver(next(call for call in site.wire.calls if call.caller is n2 and call.name == "get"))
        site.settle()
        assert slow.done()
        read(n3)


@schedule("evicted")
def a_slow_fill_comes_after_recent_was_evicted(site: Site) -> None:
    n1, n2, n3 = three(site)
    write(n1)
    site.replay(n1)
    evict(site, A)
    with site.hold(n2, "database", "read"), site.hold(n2, "database", "get", answer=True):
        slow = n2.start(clients.read(n2, A))
        site.settle()
        write(n1)
        site.replay(n1)
        evict(site, A)
        for name in named(site, b":recent"):
            site.evict(name)
        site.wire.deliver(next(call for call in site.wire.calls if call.caller is n2 and call.name == "get"))
        site.settle()
        assert slow.done()
        forget(n3)
        n3.memory.clear()
        read(n3)


@schedule("merge", "put over something newer")
def an_older_put_comes_late(site: Site) -> None:
    n1, n2, _ = three(site)
    with site.hold(n1, "redis", "put"), site.hold(n2, "database", "read"):
        write(n1)
        write(n2)
    site.settle()


@schedule("replay")
def a_put_was_lost(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    with site.hold(n1, "redis", "put"):
        write(n1)
        put = next(call for call in site.wire.calls if call.name == "put")
        site.wire.calls.remove(put)
        site.replay(n2)
        forget(n2)
        n2.memory.clear()
        read(n2)


@schedule("order")
def redis_is_set_back_while_the_replay_is_on_its_way(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    site.replay(n1)
    old = site.redis.dump()
    write(n1)
    site.replay(n1)
    with site.hold(n1, "redis", "replay"):
        write(n1, OTHER)
        n1.start(n1.replayer.step())
        site.settle()
        site.set_back(old)
    site.settle()
    forget(n2)
    n2.memory.clear()
    read(n2)


@schedule("whole")
def a_survey_finds_a_partition_that_the_replay_did_not_move(site: Site) -> None:
    n1, n2, n3 = three(site)
    waiting = n2.start(n2.replayer.step())
    site.settle()
    with site.hold(n2, "database", "read"):
        write(n1)
        site.does(n1, n1.replayer.step())
        with site.hold(n1, "redis", "put"):
            write(n1)
            site.wire.calls.remove(next(call for call in site.wire.calls if call.name == "put"))
    site.settle()
    assert waiting.done()  # it moved nothing: Redis was not where it had left it
    site.does(n2, n2.voucher.survey())
    write(n1, OTHER)
    site.does(n2, n2.replayer.step())
    forget(n3)
    n3.memory.clear()
    read(n3)


@schedule("generation")
def a_partition_has_lost_its_state_only(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    with site.hold(n1, "redis", "put"):
        write(n1)
        put = next(call for call in site.wire.calls if call.name == "put")
        site.wire.calls.remove(put)
    for name in named(site, b":state"):
        site.evict(name)
    site.replay(n2)
    forget(n2)
    n2.memory.clear()
    read(n2)


@schedule("fence", "not replayed")
def a_slow_fill_comes_after_the_sweep(site: Site) -> None:
    n1, n2, n3 = three(site)
    write(n1)
    site.replay(n1)
    evict(site, A)
    with site.hold(n2, "database", "read"), site.hold(n2, "database", "get", answer=True):
        slow = n2.start(clients.read(n2, A))
        site.settle()
        invalidate(n1, wipe("a:*"))
        retire(n1)
        site.replay(n1)
        site.wire.deliver(next(call for call in site.wire.calls if call.caller is n2 and call.name == "get"))
        site.settle()
        assert slow.done()
        forget(n3)
        read(n3)
    believed(n1)


def missed(node: Node, key: Key) -> tuple[Position, int]:
    """The token of a miss, and the origin's state then."""
    answer = node.site.does(node, clients.read(node, key, Want(only_cached=True)))
    assert answer is not None
    assert answer.entry is None
    return answer.token, node.site.truth.origin[key]


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


def filled_late(site: Site, n1: Node, n2: Node, named: Draft, meanwhile: Callable[[], None] = lambda: None) -> None:
    """A client misses, asks the origin, and fills in what it got after all who changed it had invalidated it."""
    token, origin = missed(n1, LOADED)
    invalidate(n2, named)
    meanwhile()
    now, site.truth.origin[LOADED] = site.truth.origin[LOADED], origin
    filling = clients.fill_with(n1, LOADED, token, None, 0)
    task = n1.start(filling)
    n1.loop.run()
    site.truth.origin[LOADED] = now
    site.settle()
    task.result()


@schedule("fill: parent", "filled from an old parent")
def a_parent_changes_while_its_child_is_computed(site: Site) -> None:
    n1, n2, _ = three(site)
    write(n1)
    seen = site.database.rows[A].version
    token, _ = missed(n1, CHILD)
    write(n2)
    site.does(n1, clients.fill_with(n1, CHILD, token, A, seen))
