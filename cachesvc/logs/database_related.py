"""What an invalidation by tag or with a cascade comes to, looked up in the append's own transaction.

The rule that must not break: it is of the state that the fold sees, so nothing that depends on what goes is left behind.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Column, Connection, select, union

from cachesvc.errors import Refused
from cachesvc.model.fold_state import Terms
from cachesvc.model.invalidation import Invalidation, Related
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern, parse_pattern
from cachesvc.model.relations import closure
from cachesvc.tiers.database import above
from cachesvc.tiers.database_store import Store
from cachesvc.tiers.schema import dependencies, tags


def related(connection: Connection, store: Store, named: Invalidation, terms: Terms) -> Related:
    """The keys that have its tags and, for a cascade, all that depends on what it names."""

    def ask(statement: Any, names: Collection[str]) -> Sequence[Any]:
        return connection.execute(statement, {"names": store.texts(names)}).scalars().all()

    tagged = [Key(key) for key in ask(select(tags.c.key).where(store.one_of(tags.c.tag, "names")).distinct(), named.tags)]
    if not named.cascade:
        return Related(tuple(tagged))
    by_name = select(dependencies.c.key).where(store.one_of(dependencies.c.parent, "names"))
    by_tag = select(dependencies.c.key).join(tags, tags.c.tag == dependencies.c.parent)
    dependents = union(by_name, by_tag.where(store.one_of(tags.c.key, "names")))
    start: set[str] = {*named.keys, *named.tags, *tagged}
    marked: set[str] = set()
    pattern = parse_pattern(named.pattern) if named.pattern else None
    if pattern is not None:
        start |= set(filter(pattern.matches, _in_range(connection, dependencies.c.parent, pattern)))
        rows = connection.execute(select(tags.c.key, tags.c.tag).where(*_range(tags.c.key, pattern)))
        marked = {tag for key, tag in rows if pattern.matches(key)}
    try:
        found = closure(
            start | marked, lambda names: ask(dependents, names), depth=terms.max_cascade_depth, most=terms.max_cascade
        )
    except Refused as refused:
        return Related(refused=refused)
    return Related(
        tuple(tagged), tuple(key for key in found if pattern is None or not pattern.matches(key)), marks=tuple(sorted(marked))
    )


def _in_range(connection: Connection, column: Column[Any], pattern: Pattern) -> Sequence[str]:
    return connection.execute(select(column).where(*_range(column, pattern)).distinct()).scalars().all()


def _range(column: Column[Any], pattern: Pattern) -> tuple[Any, Any]:
    return column >= pattern.prefix, column < above(pattern.prefix, exact=pattern.exact)
