"""Patterns in force, as the database keeps them: read when they changed, and ended step by step.

The rule that must not break: whoever reads rows asks `PatternsRead` in the same transaction, and gives out no row that a
pattern kills; the rows themselves are swept in their time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import Connection, bindparam, case, func, select

from cachesvc.model.entry import NO_CONTENT, Entry, pack_details, tombstone, with_details
from cachesvc.model.fold_state import ENDED_KEPT
from cachesvc.model.invalidation import InForce, Patterns, in_force, mark_of, softened
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Enumeration, enumerate_keys
from cachesvc.model.position import Seq, Version
from cachesvc.model.replica import ended
from cachesvc.ports import Burial
from cachesvc.tiers.database_store import Store
from cachesvc.tiers.schema import dependencies, entries, entry_field, log_state, patterns, tags

_NONE: Final = Patterns()


class PatternsRead:
    """The patterns in force, kept until the log's state says that they are others."""

    def __init__(self, site: str = "") -> None:
        self._site = site
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
            held = Patterns(load(connection, known=held), site=self._site)
            self._held = (epoch, patterns_at), held
        return held


def load(connection: Connection, *, known: Patterns = _NONE) -> list[InForce]:
    """All in force, the retired ones too. Enumerations are large and never change, so those that are known are not read."""
    held = {one.sequence for one in known if isinstance(one.pattern, Enumeration)}
    found = load_globs(connection)
    columns = select(patterns.c.sequence).where(patterns.c.named != b"")
    there = set(connection.execute(columns).scalars())
    found += [one for one in known if one.sequence in held & there]
    for sequence in there - held:
        columns = select(patterns.c.pattern, patterns.c.at, patterns.c.soft, patterns.c.named)
        text, at, soft, keys = connection.execute(columns.where(patterns.c.sequence == sequence)).one()
        found.append(InForce(Seq(sequence), enumerate_keys(orjson.loads(keys), text=text), at=at, soft=soft))
    return found


def load_globs(connection: Connection) -> list[InForce]:
    """Those that everybody goes by."""
    columns = select(patterns.c.sequence, patterns.c.pattern, patterns.c.retired, patterns.c.at, patterns.c.soft)
    return [_in_force(*row) for row in connection.execute(columns.where(patterns.c.named == b""))]


def _in_force(sequence: int, text: str, retired: int, at: float, soft: bool) -> InForce:
    return in_force(Seq(sequence), text, retired=Seq(retired), at=at, soft=soft)


def write(connection: Connection, changed: Iterable[InForce], *, head: int, now: float) -> None:
    """What an append made of patterns: each takes the place of its like."""
    for one in changed:
        if one.retired:
            retired = patterns.update().where(patterns.c.sequence == one.sequence)
            if connection.execute(retired.values(retired=one.retired, retired_at=now)).rowcount:
                continue
        connection.execute(patterns.delete().where(patterns.c.pattern == one.pattern.text, patterns.c.soft == one.soft))
        row = {
            "sequence": one.sequence,
            "pattern": one.pattern.text,
            "at": one.at,
            "soft": one.soft,
            "buried_to": "",
            "looked": 0,
            "buried": 0,
            "named": orjson.dumps(sorted(one.pattern.keys)) if isinstance(one.pattern, Enumeration) else b"",
        }
        connection.execute(patterns.insert().values(**row, retired=one.retired, retired_at=now if one.retired else 0.0))
    moved(connection, at=head)


def moved(connection: Connection, *, at: int = 0) -> None:
    """The patterns in force are others from now on: `patterns_at` never says the same of two states."""
    following = log_state.c.patterns_at + 1
    connection.execute(log_state.update().values(patterns_at=case((following > at, following), else_=at)))


def burial(connection: Connection, one: InForce) -> tuple[str, Burial] | None:
    """The key up to which burying has come, and its counts; None when the pattern is not known any more."""
    columns = select(patterns.c.buried_to, patterns.c.retired, patterns.c.looked, patterns.c.buried)
    row = connection.execute(columns.where(patterns.c.sequence == one.sequence)).one_or_none()
    return (row[0], Burial(row[1] > 0, row[2], row[3])) if row is not None else None


def burials(connection: Connection) -> dict[InForce, Burial]:
    """How far it has come for every pattern in force."""
    rows = connection.execute(select(patterns).where(patterns.c.named == b"")).all()
    return {
        _in_force(row.sequence, row.pattern, row.retired, row.at, row.soft): Burial(
            row.retired > 0, row.looked, row.buried, row.retired_at or None
        )
        for row in rows
    }


class Page(NamedTuple):
    """A page of keys that was looked at, between two keys; `keys` are those that match."""

    after: str
    upto: str
    looked: int
    keys: Sequence[Key]


def bury(
    connection: Connection, store: Store, one: InForce, page: Page, held: Patterns, *, now: float, site: str, keep: float
) -> int | None:
    """End what is dead in the page, or leave it stale; a key that was written since is left alone. `site` is this one's name.

    How many it hit: None where another was faster, and nothing was done. `held` are the patterns in force.
    """
    come = patterns.update().where(patterns.c.sequence == one.sequence, patterns.c.buried_to == page.after)
    if not connection.execute(come.values(buried_to=page.upto, looked=patterns.c.looked + page.looked)).rowcount:
        return None
    buried = end(connection, store, one, page.keys, held, now=now, keep=keep, site=site)
    if buried:
        counted = patterns.update().where(patterns.c.sequence == one.sequence)
        connection.execute(counted.values(buried=patterns.c.buried + buried))
    return buried


def end(
    connection: Connection,
    store: Store,
    one: InForce,
    keys: Sequence[Key],
    held: Patterns,
    *,
    now: float,
    keep: float,
    site: str = "",
) -> int:
    """End the entries of these keys that it kills, and keep tombstones, or leave them stale; how many of them it hit."""
    bound = {"keys": store.texts(keys)}
    dead = select(entries.c.key, entries.c.version, entries.c.expires_at).where(
        store.one_of(entries.c.key, "keys"), entries.c.version < bindparam("below"), ~entries.c.deleted
    )
    found: Sequence[Any] = connection.execute(dead, {**bound, "below": one.sequence}).all() if keys else ()
    if one.soft:  # what a harder one kills is left to that
        found = [row for row in found if not held.ended(row.key, row.version)]
        hit: int = sum(row.expires_at is None or row.expires_at > one.at for row in found)
    else:  # what was dead before it is not its own
        before = Patterns(other for other in held if other.sequence < one.sequence)
        hit = sum(not before.ended(row.key, row.version) for row in found)
    ending = [row.key for row in found]
    if found:
        theirs = connection.execute(
            select(tags.c.tag).where(store.one_of(tags.c.key, "keys")).distinct(), {"keys": store.texts(ending)}
        )
        as_new(connection, store, one, list(map(mark_of, theirs.scalars())), now=now, keep=keep)
    if found and one.soft:
        ends = func.coalesce(case((entries.c.expires_at < one.at, entries.c.expires_at)), one.at)
        known = _known(connection, store, ending, site, one, dead=False) if site else ()
        stale = entries.update().where(store.one_of(entries.c.key, "keys"))
        connection.execute(stale.values(version=one.sequence, expires_at=ends), {"keys": store.texts(ending)})
        _keep_known(connection, known)
    elif found:
        bound = {"keys": store.texts(ending)}
        for table in (tags, dependencies, entry_field):
            connection.execute(table.delete().where(store.one_of(table.c.key, "keys")), bound)
        gone = {
            "version": one.sequence,
            "value": b"",
            "content_type": "",
            "content_hash": NO_CONTENT,
            "details": b"",
            "deleted": True,
        }
        known = _known(connection, store, ending, site, one, dead=True) if site else ()
        dead_rows = entries.update().where(store.one_of(entries.c.key, "keys"))
        connection.execute(dead_rows.values(**gone, updated_at=now, expires_at=now + keep), bound)
        _keep_known(connection, known)
    return hit


def as_new(connection: Connection, store: Store, one: InForce, keys: Sequence[Key], *, now: float, keep: float) -> None:
    """What is not there, or was deleted before, is known to be as new as the invalidation."""
    named = store.one_of(entries.c.key, "keys")
    columns = select(entries.c.key, entries.c.version, entries.c.deleted).where(named)
    rows = connection.execute(columns, {"keys": store.texts(keys)}).all() if keys else ()
    older = [key for key, version, deleted in rows if deleted and version < one.sequence]
    if older:
        newer = entries.update().where(named).values(version=one.sequence, updated_at=now, expires_at=now + keep)
        connection.execute(newer, {"keys": store.texts(older)})
    absent = set(keys).difference(key for key, *_ in rows)
    if absent:
        gone = [tombstone(key, Version(one.sequence), now=now, keep=keep) for key in sorted(absent)]
        names = [column.name for column in entries.c]
        connection.execute(entries.insert(), [dict(zip(names, (*entry[:9], b""), strict=True)) for entry in gone])


def _known(
    connection: Connection, store: Store, keys: Sequence[str], site: str, one: InForce, *, dead: bool
) -> list[dict[str, object]]:
    """What is kept of those that end, or are left stale, for other sites: which write each is of, and what it knew of."""
    rows = connection.execute(select(*entries.c).where(store.one_of(entries.c.key, "keys")), {"keys": store.texts(keys)}).all()
    held = [with_details(Entry(*row[:9]), row.details) for row in rows]
    left = [_left(entry, one, site, dead=dead) for entry in held]
    return [{"named": entry.key, "known": pack_details(entry)} for entry in left]


def _left(entry: Entry, one: InForce, site: str, *, dead: bool) -> Entry:
    if not dead:
        return softened(entry, one.sequence, at=one.at, site=site)
    return ended(tombstone(entry.key, entry.version, now=0.0, keep=0.0), entry, site)


def _keep_known(connection: Connection, known: Sequence[dict[str, object]]) -> None:
    if known:
        of_each = entries.update().where(entries.c.key == bindparam("named")).values(details=bindparam("known"))
        connection.execute(of_each, known)


def forget_retired(connection: Connection, *, now: float) -> None:
    """Forget what was retired long ago: what began before it cannot be judged any more."""
    long_ago = patterns.c.retired > 0, patterns.c.retired_at < now - ENDED_KEPT
    highest = max(connection.execute(select(patterns.c.sequence).where(*long_ago)).scalars(), default=0)
    if highest:
        connection.execute(patterns.delete().where(*long_ago))
        connection.execute(log_state.update().where(log_state.c.complete_since < highest).values(complete_since=highest))
