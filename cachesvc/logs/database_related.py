"""What an invalidation by tag, with a cascade or of many keys comes to, looked up in the append's own transaction.

The rule that must not break: it is of the state that the fold sees, so nothing that depends on what goes is left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Select,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    union_all,
)

from cachesvc.errors import Refused
from cachesvc.model import invalidation
from cachesvc.model.fold_state import Terms
from cachesvc.model.invalidation import Invalidation, Patterns, Related
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern, parse_pattern
from cachesvc.model.relations import closure
from cachesvc.tiers.database import above
from cachesvc.tiers.database_store import Store
from cachesvc.tiers.schema import dependencies, entries, tags

_BETWEEN: Final = "\n"  # no key or tag has a control character
_MOST_DOUBTED: Final = 32  # patterns that are looked up for the fills of an append


class Relations:
    """What invalidations come to, with the statements that tell it made once.

    Each says what it found as texts. Names are joined with, and nothing
    is made distinct that a planner may take for much: with so many names a plan by a wrong guess does not end.
    """

    def __init__(self, store: Store, terms: Terms) -> None:
        self._store = store
        self._terms = terms
        names = store.among("names").c.value
        tag = _found(store, tags.c.tag, tags.c.key, names)
        theirs = tag.distinct().cte("theirs").c.tag
        by_name = _found(store, dependencies.c.key, dependencies.c.parent, names)
        by_tag = _found(store, dependencies.c.key, dependencies.c.parent, theirs)
        of = union_all(by_name, by_tag).subquery("of").c.key
        deeper = dependencies.alias()
        onward = or_(exists().where(deeper.c.parent == of), exists().where(tags.c.key == of))
        self._tagged = _as_texts(store, select(_joined(store, _found(store, tags.c.key, tags.c.tag, names))))
        self._tags = _as_texts(store, select(_joined(store, tag)))
        # what depends on the names, those of it that may go on, and the tags of the names
        self._dependents = _as_texts(
            store, select(_text(store, of), _text(store, case((onward, of))), _joined(store, select(theirs)))
        )
        of_them = entries.c.key == names
        lives = or_(bindparam("stale", type_=Boolean), entries.c.expires_at.is_(None), entries.c.expires_at > store.now())
        hit = and_(~entries.c.deleted, lives)
        self._hit = select(func.count()).select_from(names.table).join(entries, of_them).where(hit)
        versions = select(entries.c.key, entries.c.version, hit).join(names.table, of_them)
        self._versions = versions.where(entries.c.version >= bindparam("first"))
        low, high = bindparam("low", type_=Text), bindparam("high", type_=Text)
        of_tag = exists().where(tags.c.tag == names, tags.c.key >= low, tags.c.key < high)
        self._members = select(names).select_from(names.table).where(of_tag)

    def of(self, connection: Connection, named: Invalidation, patterns: Patterns) -> Related:
        """The keys that have its tags and, for a cascade, all that depends on what it names; of many, how many it hits, too.

        `patterns` are those in force.
        """

        def dependents_of(names: Collection[str]) -> tuple[Sequence[str], Sequence[str]]:
            dependents, onward, theirs = self._dependents(connection, names)
            followed.update(theirs)
            return self._standing(connection, dependents, patterns), self._standing(connection, onward, patterns)

        [named_by_tag] = self._tagged(connection, named.tags)
        tagged = cast("Sequence[Key]", self._standing(connection, named_by_tag, patterns))
        dependents: list[Key] = []
        marks: set[str] = set()
        followed: set[str] = set()  # tags of all that the cascade looked at
        if named.cascade:
            start: set[str] = {*named.keys, *named.tags, *tagged}
            pattern = parse_pattern(named.pattern) if named.pattern else None
            if pattern is not None:
                start |= set(filter(pattern.matches, _in_range(connection, dependencies.c.parent, pattern)))
                rows = connection.execute(select(tags.c.key, tags.c.tag).where(*_range(tags.c.key, pattern)))
                marks = {tag for key, tag in rows if pattern.matches(key)}
            depth, most = self._terms.max_cascade_depth, self._terms.max_cascade
            try:
                dependents = closure(start | marks, dependents_of, depth=depth, most=most)
            except Refused as refused:
                return Related(refused=refused)
            if pattern is not None:
                dependents = [key for key in dependents if not pattern.matches(key)]
        meant = dict.fromkeys((*named.keys, *tagged))
        counted: tuple[int, int] | None = None
        if len(meant) + len(dependents) > invalidation.MANY and not self._terms.site:
            matched = self._count(connection, meant, patterns, soft=named.soft)
            # what depends on anything stands: only how much of it lives has to be asked
            cascaded = self._count(connection, dependents, patterns, soft=True) if named.soft else len(dependents)
            counted = matched, cascaded
            marks.update(followed if named.cascade else self._tags(connection, meant)[0])
        return Related(tuple(tagged), tuple(dependents), tuple(sorted(marks)), counted=counted)

    def members(self, connection: Connection, doubted: Mapping[Pattern, Collection[str]]) -> set[tuple[str, str]]:
        """The patterns, by text, with those names that are the tag of an entry whose key has the pattern's prefix.

        That is nearly always one that it matches; where not, a fill is refused that need not be, and made again. So it is where
        very many came at once.
        """
        found: set[tuple[str, str]] = set()
        for place, (pattern, names) in enumerate(doubted.items()):
            tagged: Iterable[str] = names
            if place < _MOST_DOUBTED:
                low, high = pattern.prefix, above(pattern.prefix, exact=pattern.exact)
                bound = {"names": self._store.joined(names), "low": low, "high": high}
                tagged = connection.execute(self._members, bound).scalars()
            found.update((pattern.text, name) for name in tagged)
        return found

    def _standing(self, connection: Connection, keys: Sequence[str], patterns: Patterns) -> Sequence[str]:
        """Those whose rows no pattern has ended, though they may not be swept yet."""
        if not len(patterns):
            return keys
        doubtful = [key for key in keys if patterns.newest(key) and patterns.ended(key, 0)]
        ended = set(doubtful)
        since = self._since(connection, doubtful, patterns, soft=False)
        ended.difference_update(key for key, version, _ in since if not patterns.ended(key, version))
        return [key for key in keys if key not in ended] if ended else keys

    def _count(self, connection: Connection, keys: Collection[Key], patterns: Patterns, *, soft: bool) -> int:
        """How many of them an invalidation hits."""
        kills = patterns.newest if soft else patterns.ended
        doubtful = [key for key in keys if patterns.newest(key) and kills(key, 0)] if len(patterns) else []
        others = keys if not doubtful else set(keys).difference(doubtful)
        bound = {"names": self._store.joined(others), "stale": not soft}
        count: int = connection.execute(self._hit, bound).scalar_one()
        since = self._since(connection, doubtful, patterns, soft=soft)
        return count + sum(bool(hit) and not kills(key, version) for key, version, hit in since)

    def _since(self, connection: Connection, keys: Sequence[str], patterns: Patterns, *, soft: bool) -> Sequence[Any]:
        """Key, version and whether it is hit, of those that were written since the first of the patterns: most were not."""
        if not keys:
            return []
        first = min(one.sequence for one in patterns)
        bound = {"names": self._store.joined(keys), "first": first, "stale": not soft}
        return connection.execute(self._versions, bound).all()


def _found(store: Store, column: Column[Any], by: Column[Any], names: Any) -> Select[Any]:
    """The column of the rows that are found by each of the names, one name after the other by the index.

    PostgreSQL is held to that by the offset: it would look through all names for each row, where it takes few of them for many.
    """
    if store.dialect == "sqlite":
        return select(column).join(names.table, by == names)
    each = select(column).where(by == names).correlate(names.table).offset(literal_column("0")).lateral()
    return select(each.c[0].label(column.name)).select_from(names.table.join(each, true()))


def _text(store: Store, column: Any) -> Any:
    """All of a column as one text: a row for each takes five times as long."""
    if store.dialect == "postgresql":
        return func.string_agg(column, func.chr(literal_column("10")))
    return func.group_concat(column, func.char(literal_column("10")))


def _joined(store: Store, statement: Any) -> Any:
    """What a statement of one column says, as one text."""
    answer = statement.subquery()
    return select(_text(store, answer.c[0])).select_from(answer).scalar_subquery()


def _as_texts(store: Store, statement: Select[Any]) -> Callable[[Connection, Collection[str]], list[list[str]]]:
    """What each column of a statement, a text, says of names, each once."""
    told = store.ready(statement)

    def ask(connection: Connection, names: Collection[str]) -> list[list[str]]:
        if not names:
            return [[] for _ in statement.selected_columns]
        found: Sequence[str | None] = told(connection, {"names": store.joined(names)})[0]
        return [list(dict.fromkeys(text.split(_BETWEEN))) if text is not None else [] for text in found]

    return ask


def _in_range(connection: Connection, column: Column[Any], pattern: Pattern) -> Sequence[str]:
    return connection.execute(select(column).where(*_range(column, pattern)).distinct()).scalars().all()


def _range(column: Column[Any], pattern: Pattern) -> tuple[Any, Any]:
    return column >= pattern.prefix, column < above(pattern.prefix, exact=pattern.exact)
