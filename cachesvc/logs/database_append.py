"""One append: read what the drafts touch, fold, write what came of it. All inside the transaction that holds the lock.

Each kind of row is read and written by one statement, however many the drafts are.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    LargeBinary,
    ScalarSelect,
    and_,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
)

from cachesvc.logs import database_agenda, database_revocations
from cachesvc.logs.database_related import Relations
from cachesvc.logs.database_rows import RowWriter
from cachesvc.logs.outcomes import batches_of, pack_batch, pack_result, results_of_batches, unpack_batch, unpack_result
from cachesvc.logs.witness import Seen, Witness
from cachesvc.model.change import Appended, Change, Draft, pack_change, unpack_change
from cachesvc.model.entry import Entry, pack_details
from cachesvc.model.fold import fold
from cachesvc.model.fold_state import Folded, Result, State, Terms, asked, base_of, based, doubted, noted, touched, valued
from cachesvc.model.invalidation import Related
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Position, Seq, Version
from cachesvc.tiers import database_patterns
from cachesvc.tiers.database import entry_of, values_of_entry
from cachesvc.tiers.database_fields import unpack_index, values_of
from cachesvc.tiers.database_patterns import PatternsRead
from cachesvc.tiers.database_store import Store
from cachesvc.tiers.schema import changes, dependencies, entries, entry_field, idempotency, log_state, tags

BATCHES: Final = "\x1f"  # stands as the subject of a batch's row; no subject has a control character
RECORD_OVERHEAD: Final = 64  # bytes that a record is counted for beside its texts


@dataclass(frozen=True, slots=True)
class _Read:
    """What the fold looks at, and what the writing needs beside."""

    state: State
    bytes_total: int
    fields: frozenset[str]


class Appender:
    """The statements of an append, made once."""

    def __init__(self, store: Store, terms: Terms, relations: Relations, patterns: PatternsRead, witness: Witness) -> None:
        self._store = store
        self._witness = witness
        self._relations = relations
        self._patterns = patterns
        self._terms = terms
        self._writer = RowWriter(store.dialect)
        # values are dear to move, and the fold looks at few of them
        value = case((store.one_of(entries.c.key, "valued"), entries.c.value), else_=literal(b"", LargeBinary))
        columns = [value.label("value") if column is entries.c.value else column for column in entries.c]
        self._read_state = store.ready(
            select(
                log_state.c.epoch,
                log_state.c.head,
                log_state.c.complete_since,
                log_state.c.bytes_total,
                log_state.c.fields,
                log_state.c.patterns_at,
                store.now().label("now"),
                log_state.c.trimmed_to,
                witnessed().label("witnessed"),
                *columns,
            ).select_from(log_state.outerjoin(entries, store.one_of(entries.c.key, "keys")))
        )
        self._read_answers = store.ready(
            select(idempotency.c.subject, idempotency.c.key, idempotency.c.record).where(
                or_(
                    and_(store.one_of(idempotency.c.subject, "subjects"), store.one_of(idempotency.c.key, "keys")),
                    and_(idempotency.c.subject == bindparam("whole"), store.one_of(idempotency.c.key, "batches")),
                )
            )
        )

    def append(self, connection: Connection, drafts: Sequence[Draft], batch: str) -> Appended:
        """Raises `EpochChanged`, before anything is written, on a log that does not have what was seen of it."""
        read = self._read(connection, drafts)
        folded = fold(read.state, drafts, batch=batch, terms=self._terms)
        before = read.state.position
        self._write(connection, read, folded, drafts, batch)
        return Appended(before, batch, folded.changes, folded.outcomes, frozenset(folded.replayed))

    def _read(self, connection: Connection, drafts: Sequence[Draft]) -> _Read:
        texts = self._store.texts
        named = drafts[0].invalidation if drafts else None
        found_related = Related()
        if named is not None and named.looked_up:
            found_related = self._relations.of(connection, named, self._patterns.now(connection))
        if found_related.counted is not None:
            keys, values = touched(drafts[1:]), valued(drafts[1:], self._terms)
        else:
            keys = touched(drafts) | {*found_related.tagged, *found_related.dependents}
            values = valued(drafts, self._terms, found_related)
        seen = self._witness.seen
        bound = {"keys": texts(keys), "valued": texts(values), **bound_to(seen)}
        rows = self._read_state(connection, bound)
        epoch, head, complete_since, bytes_total, fields, patterns_at, now, trimmed_to, found_there = rows[0][:9]
        seen.check(epoch=epoch, head=head, trimmed_to=trimmed_to, found=found_there)
        found = {Key(row[9]): entry_of(row[9:]) for row in rows if row[9] is not None}
        position = Position(Epoch(epoch), Seq(head))
        patterns = self._patterns.at(connection, epoch, patterns_at)
        answers = self._answers(connection, asked(drafts))
        names = noted(drafts, self._terms, found.values())
        items = database_agenda.held(connection, self._store, names) if names else {}
        state = State(
            position,
            now,
            found,
            answers,
            Seq(complete_since),
            patterns,
            found_related,
            self._terms.site,
            items,
            _bases(connection, based(drafts)),
            self._relations.members(connection, doubted(drafts, patterns)),
        )
        return _Read(state, bytes_total, unpack_index(fields).written)

    def _answers(self, connection: Connection, wanted: Set[tuple[str, str]]) -> dict[tuple[str, str], Result]:
        """The answers to what is asked: by a row of its own, else in the row of the batch that the key names."""
        if not wanted:
            return {}
        texts = self._store.texts
        bound = {
            "subjects": texts({subject for subject, _ in wanted}),
            "keys": texts({key for _, key in wanted}),
            "whole": BATCHES,
            "batches": texts(batches_of(wanted)),
        }
        rows = self._read_answers(connection, bound)
        answers = results_of_batches(wanted, {key: record for subject, key, record in rows if subject == BATCHES})
        own = {(subject, key): record for subject, key, record in rows if (subject, key) in wanted}
        return answers | {asker: unpack_result(record) for asker, record in own.items()}

    def _write(self, connection: Connection, read: _Read, folded: Folded, drafts: Sequence[Draft], batch: str) -> None:
        state, writer = read.state, self._writer
        answers: list[tuple[object, ...]] = [
            (subject, key, pack_result(result), "", state.now) for (subject, key), result in folded.results.items()
        ]
        made = orjson.dumps([*state.position, len(folded.changes), sorted(folded.replayed)]).decode()
        answers.append((BATCHES, batch, pack_batch(drafts, folded.outcomes), made, state.now))
        records, total = _records(folded.changes, read.bytes_total)
        head = state.position.sequence + len(folded.changes)
        rows = [values_of_entry(entry, pack_details(entry)) for entry in folded.rows.values()]
        writer.append(connection, entries=rows, changes=records, answers=answers, head=head, bytes_total=total)
        if len(folded.patterns):
            database_patterns.write(connection, folded.patterns, head=head, now=state.now)
        revoked = folded.revocations
        if revoked:
            database_revocations.write(connection, revoked)
        if folded.items:
            database_agenda.write(connection, folded.items)
        self._write_relations(connection, state, folded)
        if read.fields:
            self._write_fields(connection, state, folded, read.fields)

    def _write_relations(self, connection: Connection, state: State, folded: Folded) -> None:
        """Bring tags and dependencies of the rows that have or had any to what they are now."""
        for table, attribute in ((tags, "tags"), (dependencies, "parents")):
            gone: list[str] = []
            come: list[tuple[object, ...]] = []
            for key in folded.rows:
                old, new = state.rows.get(key), folded.rows.get(key)
                before: tuple[str, ...] = getattr(old, attribute) if old is not None else ()
                after: tuple[str, ...] = getattr(new, attribute) if new is not None else ()
                if before != after:
                    if before:
                        gone.append(key)
                    come.extend((key, name) for name in set(after))
            if gone:
                self._writer.delete(connection, table, gone)
            if come:
                self._writer.insert(connection, table, come)

    def _write_fields(self, connection: Connection, state: State, folded: Folded, fields: frozenset[str]) -> None:
        """The same for the indexed fields, of the rows whose content is another."""
        gone: list[str] = []
        come: list[tuple[object, ...]] = []
        for key in folded.rows:
            old, new = state.rows.get(key), folded.rows.get(key)
            if old is not None and new is not None and old.content_hash == new.content_hash:
                continue
            if old is not None and not old.deleted:
                gone.append(key)
            if new is not None:
                come.extend(field_rows(new, fields))
        if gone:
            self._writer.delete(connection, entry_field, gone)
        if come:
            self._writer.insert(connection, entry_field, come)


def field_rows(entry: Entry, fields: frozenset[str]) -> list[tuple[object, ...]]:
    return [(entry.key, name, value.type, value.text) for name, value in values_of(entry, fields)]


def _records(changes: Sequence[Change], total: int) -> tuple[list[tuple[object, ...]], int]:
    """The rows of the records, each with the bytes of all before it, and the bytes after the last."""
    rows: list[tuple[object, ...]] = []
    for change in changes:
        record, value = pack_change(change)
        rows.append((change.sequence, change.kind, change.key, record, value, total, change.at))
        total += len(record) + len(value or b"") + len(change.key or "") + RECORD_OVERHEAD
    return rows, total


def _bases(connection: Connection, versions: Set[Version]) -> dict[tuple[Key, Version], Entry]:
    """Those versions that the log still holds, whole."""
    if not versions:
        return {}
    rows = connection.execute(select(*changes.c).where(changes.c.sequence.in_(versions)))
    return dict(filter(None, (base_of(unpack_change(*row[:5])) for row in rows)))


def witnessed() -> ScalarSelect[Any]:
    """How the record begins that stands where the witness saw one, for a statement that is bound to it."""
    start = func.substr(changes.c.record, 1, bindparam("opening", type_=Integer))
    return select(start).where(changes.c.sequence == bindparam("seen", type_=BigInteger)).scalar_subquery()


def bound_to(seen: Seen) -> dict[str, int]:
    """What `witnessed` is bound to."""
    return {"seen": seen.position.sequence, "opening": len(seen.opening)}


def remembered(connection: Connection, batch: str) -> Appended | None:
    """What an append did, from what it left; None when it left nothing."""
    where = idempotency.c.subject == BATCHES, idempotency.c.key == batch
    row = connection.execute(select(idempotency.c.made, idempotency.c.record).where(*where)).one_or_none()
    if row is None:
        return None
    epoch, first, count, replayed = orjson.loads(row.made)
    between = changes.c.sequence > first, changes.c.sequence <= first + count
    records = connection.execute(select(*changes.c).where(*between).order_by(changes.c.sequence))
    made = [unpack_change(*record[:5]) for record in records]
    return Appended(Position(Epoch(epoch), Seq(first)), batch, made, unpack_batch(row.record), frozenset(replayed))
