"""Patterns in force, as the database keeps them: read when they changed, and ended step by step.

The rule that must not break: whoever reads rows asks `PatternsRead` in the same transaction, and gives out no row that a
pattern kills; the rows themselves are swept in their time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, select

from cachesvc.model.entry import NO_CONTENT
from cachesvc.model.fold import ENDED_KEPT
from cachesvc.model.invalidation import InForce, Patterns, in_force
from cachesvc.model.keys import Key
from cachesvc.model.position import Seq
from cachesvc.tiers.database_store import Store
from cachesvc.tiers.schema import dependencies, entries, entry_field, log_state, patterns, tags

_NONE: Final = Patterns()


class PatternsRead:
    """The patterns in force, kept until the log's state says that they are others."""

    def __init__(self) -> None:
        self._held = (0, 0), _NONE  # one tuple: threads that read SQLite replace it at once

    def now(self, connection: Connection) -> Patterns:
        """Those in force in the database's present state."""
        return self.at(connection, *connection.execute(select(log_state.c.epoch, log_state.c.patterns_at)).one())

    def at(self, connection: Connection, epoch: int, patterns_at: int) -> Patterns:
        """Those in force in a state that was just read."""
        if not patterns_at:
            return _NONE
        named, held = self._held
        if named != (epoch, patterns_at):
            held = Patterns(load(connection))
            self._held = (epoch, patterns_at), held
        return held


def load(connection: Connection) -> list[InForce]:
    """All in force, the retired ones too."""
    rows = connection.execute(select(patterns.c.sequence, patterns.c.pattern, patterns.c.retired))
    return [in_force(Seq(sequence), text, retired=Seq(retired)) for sequence, text, retired in rows]


def write(connection: Connection, changed: Iterable[InForce], *, head: int, now: float) -> None:
    """What an append made of patterns: each takes the place of its like."""
    for one in changed:
        connection.execute(patterns.delete().where(patterns.c.pattern == one.pattern.text))
        row = {"sequence": one.sequence, "pattern": one.pattern.text, "at": now, "buried_to": ""}
        connection.execute(patterns.insert().values(**row, retired=one.retired, retired_at=now if one.retired else 0.0))
    connection.execute(log_state.update().values(patterns_at=head))


def buried_to(connection: Connection, one: InForce) -> str | None:
    """How far burying has come, None when the pattern is not active any more."""
    where = patterns.c.sequence == one.sequence, patterns.c.retired == 0
    return connection.execute(select(patterns.c.buried_to).where(*where)).scalar_one_or_none()


def bury(connection: Connection, store: Store, one: InForce, keys: Sequence[Key], *, upto: str, now: float) -> None:
    """End what is dead among these keys, which match; a key that was written since is left alone."""
    if keys:
        dead = select(entries.c.key).where(
            store.one_of(entries.c.key, "keys"), entries.c.version < bindparam("below"), ~entries.c.deleted
        )
        found = connection.execute(dead, {"keys": store.texts(keys), "below": one.sequence}).scalars().all()
        if found:
            bound = {"keys": store.texts(found)}
            for table in (tags, dependencies, entry_field):
                connection.execute(table.delete().where(store.one_of(table.c.key, "keys")), bound)
            gone = {"value": b"", "content_type": "", "content_hash": NO_CONTENT, "details": b"", "deleted": True}
            ended = entries.update().where(store.one_of(entries.c.key, "keys"))
            connection.execute(ended.values(**gone, updated_at=now, expires_at=now + ENDED_KEPT), bound)
    connection.execute(patterns.update().where(patterns.c.sequence == one.sequence).values(buried_to=upto))


def forget_retired(connection: Connection, *, now: float) -> None:
    """Forget what was retired long ago: what began before it cannot be judged any more."""
    long_ago = patterns.c.retired > 0, patterns.c.retired_at < now - ENDED_KEPT
    highest = max(connection.execute(select(patterns.c.sequence).where(*long_ago)).scalars(), default=0)
    if highest:
        connection.execute(patterns.delete().where(*long_ago))
        connection.execute(log_state.update().where(log_state.c.complete_since < highest).values(complete_since=highest))
