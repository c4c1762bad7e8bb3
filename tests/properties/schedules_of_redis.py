"""Schedules of what Redis holds: what enters it, what the replay leaves, when it is believed."""

from __future__ import annotations

from cachesvc.model.keys import Key
from tests.properties import clients
from tests.properties.clients import wipe
from tests.properties.schedule import (
    OTHER,
    A,
    believed,
    evict,
    forget,
    invalidate,
    named,
    read,
    retire,
    schedule,
    three,
    write,
)
from tests.properties.site import Site


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
