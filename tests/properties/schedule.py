"""Schedules, written down: for each rule of `rules.py` an interleaving that breaks a promise without it, and their steps.

`n1`, `n2` and `n3` are nodes; what a schedule does not hold back happens at once. Most end with the read that would lie.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from cachesvc.engine.answers import Want
from cachesvc.model.change import Draft
from cachesvc.model.keys import Key
from cachesvc.model.position import Position
from tests.properties import clients
from tests.properties.clients import set_draft
from tests.properties.node import LIMITS, Node
from tests.properties.site import Site

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


def missed(node: Node, key: Key) -> tuple[Position, int]:
    """The token of a miss, and the origin's state then."""
    answer = node.site.does(node, clients.read(node, key, Want(only_cached=True)))
    assert answer is not None
    assert answer.entry is None
    return answer.token, node.site.truth.origin[key]


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
