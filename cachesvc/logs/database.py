"""The database authority: entries, change log and what nodes share, in SQLite or PostgreSQL.

An append is one transaction under the log's lock; nothing is acknowledged before its commit has returned.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, or_, select, true

from cachesvc.errors import EpochChanged, LogTrimmed, OutcomeUnknown, SettingsError, TierUnavailable
from cachesvc.logs import database_revocations
from cachesvc.logs.database_agenda import DatabaseAgenda
from cachesvc.logs.database_append import Appender, bound_to, remembered, witnessed
from cachesvc.logs.database_ending import end_some
from cachesvc.logs.database_jobs import DatabaseJobs
from cachesvc.logs.database_migrate import migrated
from cachesvc.logs.database_registry import DatabaseRegistry
from cachesvc.logs.database_related import Relations
from cachesvc.logs.database_sites import DatabaseSites
from cachesvc.logs.database_upkeep import backfill, sweep, trim
from cachesvc.logs.following import Bell, following
from cachesvc.logs.witness import Witness
from cachesvc.model.change import OPENING, Appended, Change, Draft, opened_by, unpack_change
from cachesvc.model.fold_state import ENDED_KEPT, Terms
from cachesvc.model.invalidation import Invalidation, Related
from cachesvc.model.position import MAX_SEQ, Epoch, Gap, Position, Seq, first_sequence, pack_gaps, parse_gaps
from cachesvc.ports import NODES_KEPT, Clock, Retention, Standing, Trail
from cachesvc.tiers import database_patterns, database_sqlite, database_url
from cachesvc.tiers.database import DatabaseSource
from cachesvc.tiers.database_store import NAME, Store
from cachesvc.tiers.schema import changes, log_state


@asynccontextmanager
async def opened(
    url: str,
    *,
    terms: Terms,
    indexed_fields: Collection[str],
    data_dir: Path,
    pool_size: int,
    timeout: float,
    poll_interval: float,
    idempotency_ttl: float,
    clock: Clock,
    nodes_kept: float = NODES_KEPT,
) -> AsyncIterator[DatabaseAuthority]:
    """The authority at `url` (`sqlite:…`, `postgresql:…`), its schema brought up to date.

    Raises `TierUnavailable` when it cannot be reached, `SchemaMismatch` when a newer version wrote it.
    """
    bell = Bell()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            _store(url, data_dir=data_dir, pool_size=pool_size, timeout=timeout, clock=clock, wake=bell.ring)
        )
        await migrated(store, indexed_fields)
        yield DatabaseAuthority(
            store,
            bell,
            terms=terms,
            poll_interval=poll_interval,
            idempotency_ttl=idempotency_ttl,
            nodes_kept=nodes_kept,
        )


def _store(
    url: str, *, data_dir: Path, pool_size: int, timeout: float, clock: Clock, wake: Callable[[int], None]
) -> AbstractAsyncContextManager[Store]:
    parsed = database_url.parsed(url)
    match parsed.get_backend_name():
        case "sqlite":
            return database_sqlite.opened(
                parsed, data_dir=data_dir, pool_size=pool_size, timeout=timeout, clock=clock, wake=wake
            )
        case "postgresql" | "postgres":
            try:
                from cachesvc.tiers import database_postgres  # noqa: PLC0415 - its driver is an extra
            except ModuleNotFoundError as exc:
                reason = "needs asyncpg: install cachesvc[postgres]"
                raise SettingsError("levels.database.url", parsed.render_as_string(), reason) from exc
            return database_postgres.opened(parsed, pool_size=pool_size, timeout=timeout, wake=wake)
        case _:
            raise SettingsError("levels.database.url", parsed.render_as_string(), "must begin with sqlite: or postgresql:")


class DatabaseAuthority(DatabaseSource, DatabaseRegistry, DatabaseJobs, DatabaseAgenda, DatabaseSites):
    """`ports.Authority` and `ports.SiteStore`."""

    def __init__(
        self, store: Store, bell: Bell, *, terms: Terms, poll_interval: float, idempotency_ttl: float, nodes_kept: float
    ) -> None:
        DatabaseSource.__init__(self, store, site=terms.site, killed_kept=terms.tombstone_ttl if terms.site else ENDED_KEPT)
        DatabaseRegistry.__init__(self, store)
        DatabaseJobs.__init__(self, store)
        DatabaseAgenda.__init__(self, store)
        DatabaseSites.__init__(self, store, self._patterns)
        self._bell = bell
        self._poll_interval = poll_interval
        self._idempotency_ttl = idempotency_ttl
        self._nodes_kept = nodes_kept
        self._terms = terms
        self._witness = Witness()
        self._relations = Relations(store, terms)
        self._appender = Appender(store, terms, self._relations, self._patterns, self._witness)
        records = (
            select(*changes.c)
            .where(changes.c.sequence > bindparam("after"))
            .order_by(changes.c.sequence)
            .limit(bindparam("limit"))
            .subquery()
        )
        start = func.substr(changes.c.record, 1, OPENING).label("start")
        at_head = log_state.outerjoin(changes, changes.c.sequence == log_state.c.head)
        self._standing = select(log_state.c.epoch, log_state.c.head, log_state.c.gaps, start).select_from(at_head)
        self._read = store.ready(
            select(log_state.c.epoch, log_state.c.head, log_state.c.trimmed_to, witnessed(), *records.c)
            .select_from(log_state.outerjoin(records, true()))
            .order_by(records.c.sequence)
        )

    async def append(self, drafts: Sequence[Draft], *, batch: str) -> Appended:
        try:
            appended = await self._store.write(lambda connection: self._appender.append(connection, drafts, batch))
        except EpochChanged as lost:
            self._bell.ring()  # whoever follows is to find out
            raise TierUnavailable(NAME, f"nothing was written: {lost}", answered=True) from lost
        except OutcomeUnknown as unknown:
            found = await self._look_up(batch, unknown)
            if found is None:
                raise TierUnavailable(NAME, f"{unknown.reason}; nothing was written", answered=True) from unknown
            appended = found
        self._witness.saw(appended.before.epoch, appended.changes)
        self._store.announce(appended.before.sequence + len(appended.changes))
        return appended

    async def _look_up(self, batch: str, unknown: OutcomeUnknown) -> Appended | None:
        """What a batch did, or None when it did nothing and never will. Raises `OutcomeUnknown`."""
        try:
            # under the lock: a transaction that still runs holds it, and is waited for
            return await self._store.write(lambda connection: remembered(connection, batch))
        except (TierUnavailable, OutcomeUnknown) as exc:
            raise unknown from exc

    async def read(self, after: Position, limit: int) -> Sequence[Change]:
        seen = self._witness.seen
        bound = {"after": after.sequence, "limit": limit, **bound_to(seen)}
        rows = await self._store.read(lambda connection: self._read(connection, bound))
        epoch, head, trimmed_to, found = rows[0][:4]
        seen.check(epoch=epoch, head=head, trimmed_to=trimmed_to, found=found)
        if after.epoch != epoch or after.sequence > head:
            raise EpochChanged(after.epoch, epoch)
        if after.sequence < trimmed_to:
            raise LogTrimmed(after.sequence, trimmed_to)
        read = [unpack_change(*row[4:9]) for row in rows if row[4] is not None]
        self._witness.saw(epoch, read)
        return read

    async def head(self) -> Position:
        return (await self._state())[0]

    async def standing(self) -> Standing:
        def look(connection: Connection) -> tuple[Standing, bytes | None]:
            # the position first: what comes into force or is retired in between is known before its record is read
            epoch, head, gaps, record = connection.execute(self._standing).one()
            there = [one for one in database_patterns.load_globs(connection) if not 0 < one.retired <= head]
            revoked = database_revocations.load(connection)
            return Standing(Position(Epoch(epoch), Seq(head)), there, parse_gaps(gaps), revoked), record

        standing, record = await self._store.read(look)
        self._witness.begin(standing.position, opened_by(record or b""))
        return standing

    async def trail(self, sequences: Collection[int]) -> Trail:
        statement = self._trail(sequences)
        rows = await self._store.read(lambda connection: connection.execute(statement).all())
        epoch, head, trimmed_to = rows[0][:3]
        ids = {Seq(sequence): opened_by(start) for *_, sequence, start in rows if sequence is not None}
        return Trail(Position(Epoch(epoch), Seq(head)), Position(Epoch(epoch), Seq(trimmed_to)), ids)

    def _trail(self, sequences: Collection[int]) -> Select[Any]:
        start = func.substr(changes.c.record, 1, OPENING)
        wanted = or_(changes.c.sequence == log_state.c.head, changes.c.sequence.in_(sequences))
        state = log_state.c.epoch, log_state.c.head, log_state.c.trimmed_to
        return select(*state, changes.c.sequence, start).select_from(log_state.outerjoin(changes, wanted))

    async def oldest(self) -> Position:
        return (await self._state())[1]

    async def _state(self) -> tuple[Position, Position]:
        columns = select(log_state.c.epoch, log_state.c.head, log_state.c.trimmed_to)
        epoch, head, trimmed_to = (await self._store.read(lambda connection: connection.execute(columns).all()))[0]
        return Position(Epoch(epoch), Seq(head)), Position(Epoch(epoch), Seq(trimmed_to))

    def follow(
        self, after: Position, *, known: Callable[[], Position] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Change]]]:
        return following(self.read, after, bell=self._bell, poll_interval=self._poll_interval, known=known)

    async def reach(self, invalidation: Invalidation) -> Related:
        return await self._store.read(partial(self._reach, invalidation))

    def _reach(self, invalidation: Invalidation, connection: Connection) -> Related:
        return self._relations.of(connection, invalidation, self._patterns.now(connection))

    async def trim(self, retention: Retention) -> int:
        return await trim(self._store, retention)

    async def new_epoch(self, seen: Position, *, kept: Seq | None = None) -> Position:
        def begin(connection: Connection) -> Position:
            columns = select(log_state.c.epoch, log_state.c.head, log_state.c.gaps, self._store.now())
            epoch, head, gaps, now = connection.execute(columns).one()
            if epoch > seen.epoch:
                return Position(Epoch(epoch), Seq(epoch))  # another node was faster; an epoch is named by its first sequence
            first = first_sequence(now, max(head, *seen))
            last_kept = min(head, seen.sequence if kept is None else kept)
            lost = pack_gaps([*parse_gaps(gaps), Gap(Seq(last_kept + 1), Seq(first - 1))])
            connection.execute(log_state.update().values(epoch=first, head=first, trimmed_to=first, gaps=lost))
            return Position(Epoch(first), first)

        begun = await self._store.maintain(begin)
        self._store.announce(MAX_SEQ)
        return begun

    async def time(self) -> float:
        statement = select(self._store.now())
        return await self._store.read(lambda connection: connection.execute(statement).scalar_one())

    async def sweep(self, *, limit: int) -> int:
        ended = await self._store.maintain(
            partial(end_some, self._store, self._patterns, limit=limit, keep=self._terms.tombstone_ttl)
        )
        dropped = await sweep(self._store, limit=limit, answers_kept=self._idempotency_ttl, nodes_kept=self._nodes_kept)
        return ended + dropped

    async def backfill(self) -> None:
        """Index the entries that were there before a field was, and drop what is indexed no more. Can be stopped anywhere."""
        await backfill(self._store)
