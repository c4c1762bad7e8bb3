"""What keeps the database from growing for ever: trimming the log, the sweep, and building the index of a new field.

Every step is short, and takes the log's lock anew, so that writers come in between.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from sqlalchemy import Connection, and_, or_, select, text, tuple_

from cachesvc.logs import database_revocations
from cachesvc.logs.database_append import BATCHES, field_rows
from cachesvc.logs.database_rows import RowWriter
from cachesvc.ports import Retention
from cachesvc.tiers.database import entry_of
from cachesvc.tiers.database_fields import FieldIndex, unpack_index
from cachesvc.tiers.database_patterns import forget_retired
from cachesvc.tiers.database_store import Store
from cachesvc.tiers.schema import changes, entries, entry_field, idempotency, leases, log_state, nodes

STEP: Final = 1_000  # records dropped at once
BACKFILL_STEP: Final = 200  # entries indexed at once
FORGOTTEN_LEASE: Final = 60.0  # seconds after its end that the lease of a node that died is dropped


async def trim(store: Store, retention: Retention) -> int:
    """Forget the records beyond the retention, then delete them step by step; how many were forgotten."""
    upto, trimmed_to = await store.read(partial(_cut, store, retention))
    if upto > trimmed_to:
        await store.maintain(partial(_forget, upto))
    while await store.change(_delete_forgotten) == STEP:
        continue
    return max(0, upto - trimmed_to)


def _cut(store: Store, retention: Retention, connection: Connection) -> tuple[int, int]:
    """The last sequence beyond the retention, and up to where the log was trimmed before.

    Being beyond it never begins again once it has ended, so it is found by halving: 20 rows are read of a million.
    """
    columns = select(log_state.c.head, log_state.c.trimmed_to, log_state.c.bytes_total, store.now())
    head, trimmed_to, total, now = connection.execute(columns).one()

    def beyond(sequence: int) -> bool:
        if sequence <= head - retention.count:
            return True
        where = changes.c.sequence == sequence
        row = connection.execute(select(changes.c.at, changes.c.bytes_before).where(where)).one_or_none()
        # a row that is missing was trimmed meanwhile
        return row is None or row.at < now - retention.age or total - row.bytes_before > retention.bytes

    low, high = trimmed_to, head  # beyond up to low; not from high on: the last record always stays
    if low + 1 < high and not beyond(low + 1):
        return trimmed_to, trimmed_to
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if beyond(middle) else (low, middle)
    return low, trimmed_to


def _forget(upto: int, connection: Connection) -> None:
    where = log_state.c.trimmed_to < upto, log_state.c.head > upto
    connection.execute(log_state.update().where(*where).values(trimmed_to=upto))


def _delete_forgotten(connection: Connection) -> int:
    trimmed_to = select(log_state.c.trimmed_to).scalar_subquery()
    oldest = select(changes.c.sequence).where(changes.c.sequence <= trimmed_to).order_by(changes.c.sequence).limit(STEP)
    return connection.execute(changes.delete().where(changes.c.sequence.in_(oldest))).rowcount


async def sweep(store: Store, *, limit: int, answers_kept: float, nodes_kept: float) -> int:
    """Drop tombstones and answers past their time, up to `limit` of each; how many. Forgets nodes long gone."""
    return await store.maintain(partial(_sweep, store, limit, answers_kept, nodes_kept))


def _sweep(store: Store, limit: int, answers_kept: float, nodes_kept: float, connection: Connection) -> int:
    now: float = connection.execute(select(store.now())).scalar_one()
    ended = and_(text("entries.deleted"), entries.c.expires_at <= now)  # as the partial index says it
    oldest = select(entries.c.key, entries.c.version).where(ended).order_by(entries.c.expires_at).limit(limit)
    gone = connection.execute(oldest).all()
    if gone:
        # what a missing tombstone no longer says, this says: nothing older than it can be checked any more
        highest = max(version for _, version in gone)
        state = log_state.update().where(log_state.c.complete_since < highest).values(complete_since=highest)
        connection.execute(state)
        RowWriter(store.dialect).delete(connection, entries, [key for key, _ in gone])
    answer = tuple_(idempotency.c.subject, idempotency.c.key)
    # answers to requests without a key of their own are as many as the appends: they go with the records they are about
    kept_since = (
        (select(changes.c.at).where(changes.c.sequence > select(log_state.c.trimmed_to).scalar_subquery()))
        .order_by(changes.c.sequence)
        .limit(1)
        .scalar_subquery()
    )
    # a record of later than now is of before the clock was set back: what is older than that one is not told by the time
    trimmed = and_(idempotency.c.subject == BATCHES, idempotency.c.at < kept_since, kept_since <= now)
    past = or_(idempotency.c.at < now - answers_kept, trimmed)
    old = select(idempotency.c.subject, idempotency.c.key).where(past).order_by(idempotency.c.at).limit(limit)
    answers = connection.execute(idempotency.delete().where(answer.in_(old))).rowcount
    connection.execute(nodes.delete().where(nodes.c.seen_at < now - nodes_kept))
    connection.execute(leases.delete().where(leases.c.expires_at < now - FORGOTTEN_LEASE))
    forget_retired(connection, now=now)
    database_revocations.forget(connection, now=now)
    return len(gone) + answers


async def backfill(store: Store) -> None:
    """Bring the index of fields to what is set, until all is done."""
    writer = RowWriter(store.dialect)
    while await store.maintain(partial(_backfill_step, writer)):
        continue


def _backfill_step(writer: RowWriter, connection: Connection) -> bool:
    """One step; whether there is more to do. How far it came is written with what it did."""
    index = unpack_index(connection.execute(select(log_state.c.fields)).scalar_one())
    if index.building:
        following = _build(writer, connection, index)
    elif index.dropped:
        following = _drop(connection, index)
    else:
        return False
    connection.execute(log_state.update().values(fields=following.pack()))
    return True


def _build(writer: RowWriter, connection: Connection, index: FieldIndex) -> FieldIndex:
    name, after = next(iter(index.building.items()))
    page = select(entries).where(entries.c.key > after, ~entries.c.deleted).order_by(entries.c.key).limit(BACKFILL_STEP)
    found = [entry_of(row) for row in connection.execute(page)]
    if found:
        stale = and_(entry_field.c.field == name, entry_field.c.key > after, entry_field.c.key <= found[-1].key)
        connection.execute(entry_field.delete().where(stale))
        rows = [row for entry in found for row in field_rows(entry, frozenset({name}))]
        if rows:
            writer.insert(connection, entry_field, rows)
    if len(found) == BACKFILL_STEP:
        return FieldIndex(index.ready, {**index.building, name: found[-1].key}, index.dropped)
    rest = {other: cursor for other, cursor in index.building.items() if other != name}
    return FieldIndex(index.ready | {name}, rest, index.dropped)


def _drop(connection: Connection, index: FieldIndex) -> FieldIndex:
    name = min(index.dropped)
    row = tuple_(entry_field.c.key, entry_field.c.field, entry_field.c.type, entry_field.c.value)
    some = select(*row).where(entry_field.c.field == name).limit(STEP)
    dropped = connection.execute(entry_field.delete().where(row.in_(some))).rowcount
    return index if dropped == STEP else FieldIndex(index.ready, index.building, index.dropped - {name})
