"""Relations: what depends on what, followed to the end.

The rule that must not break: every key is visited once, so that a cycle ends; what is too much is refused, never cut short.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from itertools import chain, filterfalse
from typing import cast

from cachesvc.errors import Refusal, Refused
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import Invalidation, Related
from cachesvc.model.keys import Key
from cachesvc.model.pattern import parse_pattern

# what depends on these, and from what of that it may go on: from all of it, unless it is known better
DependentsOf = Callable[[Collection[str]], tuple[Iterable[str], Iterable[str]]]


def closure(names: Iterable[str], dependents_of: DependentsOf, *, depth: int, most: int) -> list[Key]:
    """The transitive dependents of these names (keys or tags), nearest first, themselves left out.

    `dependents_of` is asked once a level. Raises `Refused` when there are levels beyond `depth`, or over `most` keys.
    """
    seen: set[str] = set(names)
    frontier: Collection[str] = set(seen)
    found: list[str] = []
    for _ in range(depth):
        dependents, onward = (dict.fromkeys(some) for some in dependents_of(frontier))
        found += filterfalse(seen.__contains__, dependents)
        frontier = list(filterfalse(seen.__contains__, onward))
        if len(found) > most:
            raise Refused(Refusal.TOO_MUCH, "cascade", f"reaches over {most} keys, which is the limit")
        if not frontier:
            return cast("list[Key]", found)
        seen.update(dependents, frontier)
    if not seen.issuperset(chain(*dependents_of(frontier))):
        raise Refused(Refusal.TOO_MUCH, "cascade", f"goes on below {depth} levels of dependents, which is the limit")
    return cast("list[Key]", found)


def related(named: Invalidation, rows: Iterable[Entry], *, depth: int, most: int) -> Related:
    """What an invalidation comes to among these rows, found by looking at all of them."""
    rows = [row for row in rows if not row.deleted]
    tagged = tuple(row.key for row in rows if not set(named.tags).isdisjoint(row.tags))
    if not named.cascade:
        return Related(tagged)
    tags = {row.key: row.tags for row in rows if row.tags}
    dependents: defaultdict[str, list[Key]] = defaultdict(list)
    for row in rows:
        for parent in row.parents:
            dependents[parent].append(row.key)

    def of(names: Collection[str]) -> tuple[list[Key], list[Key]]:
        parents = (parent for name in names for parent in (name, *tags.get(Key(name), ())))
        found = [key for parent in parents for key in dependents.get(parent, ())]
        return found, found

    killed: set[str] = set()
    if named.pattern:
        pattern = parse_pattern(named.pattern)
        killed = {name for name in (*dependents, *(row.key for row in rows)) if pattern.matches(name)}
    marks = sorted({tag for key in killed for tag in tags.get(Key(key), ())})
    try:
        found = closure({*named.keys, *named.tags, *tagged, *killed, *marks}, of, depth=depth, most=most)
    except Refused as refused:
        return Related(refused=refused)
    return Related(tagged, tuple(key for key in found if key not in killed), tuple(marks))
