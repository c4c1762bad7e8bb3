"""The database tier, reading side: entries by key, by pattern, by indexed field, by the end of their life.

The rule that must not break: every answer is of one snapshot, and none is believed of a database that is behind the reader.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    Connection,
    Double,
    LargeBinary,
    Select,
    Text,
    and_,
    bindparam,
    exists,
    func,
    literal,
    or_,
    select,
    text,
    union,
)

from cachesvc.errors import InvalidInput, TierUnavailable
from cachesvc.model.entry import Entry, with_details
from cachesvc.model.fold_state import ENDED_KEPT
from cachesvc.model.invalidation import InForce, Patterns
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Position, Version
from cachesvc.ports import Burial, Holding, Listed, TierStats
from cachesvc.tiers import database_patterns
from cachesvc.tiers.database_fields import FieldIndex, Value, meanings, unpack_index, values_of
from cachesvc.tiers.database_patterns import PatternsRead
from cachesvc.tiers.database_size import size
from cachesvc.tiers.database_store import NAME, Rows, Store
from cachesvc.tiers.measured import Measured
from cachesvc.tiers.schema import dependencies, entries, entry_field, log_state

PAGE: Final = 1_000  # keys in one statement of a scan
PAGE_OF_VALUES: Final = 100  # the same where whole entries are read
MAX_QUERIED: Final = 50  # values of one field in a query

_COLUMNS: Final[tuple[Any, ...]] = tuple(entries.c)


def entry_of(row: Sequence[Any]) -> Entry:
    """The entry of a row of the table, its columns in the table's order."""
    key, version, value, content_type, created_at, updated_at, expires_at, digest, deleted, details = row
    entry = Entry(key, version, value, content_type, created_at, updated_at, expires_at, digest, deleted)
    return with_details(entry, details) if details else entry


def values_of_entry(entry: Entry, details: bytes) -> tuple[object, ...]:
    """The row of an entry, in the table's order."""
    return (*entry[:9], details)


class DatabaseSource:
    """`ports.Source` and the searches of `ports.Authority`."""

    name: Final = NAME

    def __init__(self, store: Store, *, site: str = "", killed_kept: float = ENDED_KEPT) -> None:
        self._store = store
        self._site = site  # "" where there are no others
        self._killed_kept = killed_kept
        self._patterns = PatternsRead(site)
        self._hits = 0
        self._misses = 0
        self._size = Measured(partial(size, store), monotonic)
        now = store.now()
        lives = or_(entries.c.expires_at.is_(None), entries.c.expires_at > now)
        live = and_(~entries.c.deleted, lives)
        standing = log_state.c.epoch, log_state.c.head, log_state.c.patterns_at
        named = log_state.outerjoin(entries, store.one_of(entries.c.key, "keys"))
        outlined = [literal(b"", LargeBinary) if column is entries.c.value else column for column in _COLUMNS]
        self._get = store.ready(select(*standing, *_COLUMNS).select_from(named))
        self._outline_of = store.ready(select(*standing, *outlined).select_from(named))
        self._scan: Select[Any] = (
            select(entries.c.key, entries.c.version)
            .where(~entries.c.deleted, *_after_and_below())
            .order_by(entries.c.key)
            .limit(bindparam("limit"))
        )
        self._outline: Select[Any] = (
            select(*outlined, func.length(entries.c.value))
            .where(~entries.c.deleted, or_(bindparam("stale", type_=Boolean), lives), *_after_and_below())
            .order_by(entries.c.key)
            .limit(bindparam("limit"))
        )
        self._live = select(*_COLUMNS).where(live, store.one_of(entries.c.key, "keys")).order_by(entries.c.key)
        self._expired = (
            select(entries.c.key, entries.c.version)
            # in the words of the partial index: SQLite does not see that `deleted = 0` is the same
            .where(text("NOT entries.deleted"), entries.c.expires_at <= now - bindparam("past", type_=Double))
            .order_by(entries.c.expires_at)
            .limit(bindparam("limit"))
        )

    async def get(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        found = await self._named(self._get, keys, horizon)
        self._hits += len(found)
        self._misses += len(keys) - len(found)
        return found

    async def outline(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        return await self._named(self._outline_of, keys, horizon)

    async def _named(self, statement: Rows, keys: Collection[Key], horizon: Position) -> Mapping[Key, Entry]:
        if not keys:
            return {}
        rows, patterns = await self._store.read(partial(self._rows, statement=statement, wanted=self._store.texts(keys)))
        epoch, head = rows[0][:2]
        # a database that was restored, or is a replica, may lack what this node has served already
        if horizon.epoch and (epoch != horizon.epoch or head < horizon.sequence):
            raise TierUnavailable(NAME, f"is at {epoch}:{head}, which is not after {horizon}", answered=True)
        found = {row[3]: entry_of(row[3:]) for row in rows if row[3] is not None}
        if patterns.highest:
            found = {key: patterns.hide(entry) for key, entry in found.items()}
        return found

    def _rows(self, connection: Connection, *, statement: Rows, wanted: object) -> tuple[Sequence[Any], Patterns]:
        """The rows of those keys, behind where the log stands, and the patterns in force there."""
        rows = statement(connection, {"keys": wanted})
        return rows, self._patterns.at(connection, rows[0][0], rows[0][2])

    async def scan(self, pattern: Pattern) -> AsyncIterator[tuple[Key, Version]]:
        after = ""
        while True:
            rows, patterns = await self._page(self._scan, pattern, after, PAGE)
            for key, version in map(tuple, rows):
                if pattern.matches(key) and not patterns.newest(key, version):
                    yield Key(key), Version(version)
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

    async def list_entries(self, pattern: Pattern, *, after: Key | None, limit: int, stale: bool = False) -> Sequence[Listed]:
        found: list[Listed] = []
        last: str = after or ""
        size = limit  # nearly always all that is read matches; where not, no page is small
        while len(found) < limit:
            rows, patterns = await self._page(self._outline, pattern, last, size, stale=stale)
            ends = patterns.ended if stale else patterns.newest
            for *columns, nbytes in rows:
                entry = entry_of(columns)
                if pattern.matches(entry.key) and not ends(entry.key, entry.version):
                    found.append(Listed(entry, nbytes))
            if len(rows) < size:
                break
            last = rows[-1][0]
            size = max(PAGE, limit - len(found))
        return found[:limit]

    async def _page(
        self, statement: Select[Any], pattern: Pattern, after: str, limit: int, **given: object
    ) -> tuple[Sequence[Any], Patterns]:
        """A page of rows, and the patterns in force when it was read."""
        high = above(pattern.prefix, exact=pattern.exact)
        bound = {"after": after, "low": pattern.prefix, "high": high, "limit": limit, **given}
        return await self._store.read(
            lambda connection: (connection.execute(statement, bound).all(), self._patterns.now(connection))
        )

    async def query(self, fields: Mapping[str, Sequence[str]], *, after: Key | None, limit: int) -> Sequence[Entry]:
        wanted = {name: _meanings(name, texts) for name, texts in fields.items()}
        if not wanted:
            raise InvalidInput("query", "names no field")
        stored: str = await self._store.read(lambda connection: connection.execute(select(log_state.c.fields)).scalar_one())
        _check_indexed(wanted, unpack_index(stored))
        found: list[Entry] = []
        last: str = after or ""
        while len(found) < limit:
            keys, rows, patterns = await self._store.read(partial(self._match, wanted=wanted, after=last))
            standing = (patterns.hide(entry) for entry in map(entry_of, rows))
            found.extend(entry for entry in standing if not entry.deleted and _holds(entry, wanted))
            if len(keys) < PAGE_OF_VALUES:
                break
            last = keys[-1]
        return found[:limit]

    def _match(
        self, connection: Connection, *, wanted: Mapping[str, set[Value]], after: str
    ) -> tuple[Sequence[str], Sequence[Any], Patterns]:
        """The next keys of which the index says that they match, in order, and the live ones among their entries."""
        lead = min(wanted, key=partial(_few, connection, wanted)) if len(wanted) > 1 else next(iter(wanted))
        others = {name: values for name, values in wanted.items() if name != lead}
        keys = connection.execute(_matching(lead, wanted[lead], others, after)).scalars().all()
        rows = connection.execute(self._live, {"keys": self._store.texts(keys)}).all()
        return keys, rows, self._patterns.now(connection)

    async def expired(self, *, limit: int, past: float = 0.0) -> Sequence[tuple[Key, Version]]:
        rows, patterns = await self._store.read(
            lambda connection: (
                connection.execute(self._expired, {"limit": limit, "past": past}).all(),
                self._patterns.now(connection),
            )
        )
        return [(Key(key), Version(version)) for key, version in rows if not patterns.newest(key, version)]

    async def bury(self, pattern: InForce, *, limit: int) -> Burial:
        known = await self._store.read(partial(database_patterns.burial, one=pattern))
        if known is None:
            return Burial(done=True)
        after, burial = known
        if burial.done:
            return burial
        rows, _ = await self._page(self._scan, pattern.pattern, after, limit)
        keys = [Key(key) for key, version in map(tuple, rows) if version < pattern.sequence and pattern.pattern.matches(key)]
        buried: int | None = 0
        if rows:
            page = database_patterns.Page(after, rows[-1][0], len(rows), keys)

            def end(connection: Connection) -> int | None:
                now = connection.execute(select(self._store.now())).scalar_one()
                held, site, keep = self._patterns.now(connection), self._site, self._killed_kept
                return database_patterns.bury(connection, self._store, pattern, page, held, now=now, site=site, keep=keep)

            buried = await self._store.maintain(end)
        elif await self._store.read(partial(database_patterns.burial, one=pattern)) != known:
            buried = None
        if buried is None:
            return await self.bury(pattern, limit=limit)  # another has come further meanwhile
        return Burial(len(rows) < limit, burial.looked + len(rows), burial.buried + buried)

    async def burials(self) -> Mapping[InForce, Burial]:
        return await self._store.read(database_patterns.burials)

    async def stats(self) -> TierStats:
        entries, nbytes = await self._size.latest()
        return TierStats(entries, nbytes, self._hits, self._misses)

    async def inspect(self, key: Key, *, horizon: Position) -> Holding:
        rows, patterns = await self._store.read(partial(self._rows, statement=self._get, wanted=self._store.texts([key])))
        epoch, head, _, *row = rows[0]
        behind = epoch != horizon.epoch or head < horizon.sequence
        doubt = f"its log is at {epoch}:{head}, which is not after {horizon}" if behind else ""
        entry = entry_of(row) if row[0] is not None else None
        if entry is not None and not entry.deleted and patterns.newest(key, entry.version):
            doubt = doubt or f"was invalidated at {patterns.newest(key, entry.version)}"
        return Holding(entry, entry.version if entry is not None else None, doubt=doubt)

    async def dependents(self, name: str, *, limit: int) -> Sequence[Key] | None:
        statement = select(dependencies.c.key).where(dependencies.c.parent == name).order_by(dependencies.c.key).limit(limit)
        keys = await self._store.read(lambda connection: connection.execute(statement).scalars().all())
        return [Key(key) for key in keys]


def _after_and_below() -> tuple[Any, ...]:
    """Keys after one, from a first one on and below a last one (no last one: "")."""
    key = entries.c.key
    return key > bindparam("after", type_=Text), key >= bindparam("low", type_=Text), key < bindparam("high", type_=Text)


_HIGHEST: Final = "\U0010ffff"


def above(prefix: str, *, exact: bool) -> str:
    """The lowest text above every key with this prefix, in code points, which is the order of the bytes."""
    if exact:
        return prefix + "\x01"  # no key holds a control character
    stem = prefix.rstrip(_HIGHEST)
    if not stem:
        return _HIGHEST * 200  # above every key of 512 bytes
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)


def _meanings(name: str, texts: Sequence[str]) -> set[Value]:
    if not 1 <= len(texts) <= MAX_QUERIED:
        raise InvalidInput(name, f"has {len(texts)} values; allowed are 1 to {MAX_QUERIED}")
    return set().union(*map(meanings, texts))


def _check_indexed(wanted: Collection[str], index: FieldIndex) -> None:
    for name in wanted:
        if name in index.building:
            raise TierUnavailable(NAME, f"the index of the field {name} is still being built", retry_after=5.0)
        if name not in index.ready:
            raise InvalidInput(name, "is not an indexed field")


def _holds(entry: Entry, wanted: Mapping[str, set[Value]]) -> bool:
    """Whether the entry itself says what the index said of it."""
    values = values_of(entry, wanted)
    return all(any((name, value) in values for value in allowed) for name, allowed in wanted.items())


def _few(connection: Connection, wanted: Mapping[str, set[Value]], name: str) -> int:
    """How many rows of the index a field has, counted no further than needed to tell few from many."""
    rows = select(entry_field.c.key).where(entry_field.c.field == name, _is_one_of(wanted[name])).limit(PAGE)
    return connection.execute(select(func.count()).select_from(rows.subquery())).scalar_one()


def _is_one_of(values: Collection[Value]) -> Any:
    return or_(*(and_(entry_field.c.type == value.type, entry_field.c.value == value.text) for value in values))


def _matching(lead: str, values: Collection[Value], others: Mapping[str, set[Value]], after: str) -> Any:
    """Keys by the leading field, one ordered walk of the index for each of its values; the others are looked up by key."""
    also = [
        exists()
        .where(other.c.key == entry_field.c.key, other.c.field == name)
        .where(or_(*(and_(other.c.type == value.type, other.c.value == value.text) for value in allowed)))
        .correlate(entry_field)
        for name, allowed in others.items()
        for other in [entry_field.alias()]
    ]
    walks = [
        select(entry_field.c.key)
        .where(entry_field.c.field == lead, entry_field.c.type == value.type, entry_field.c.value == value.text)
        .where(entry_field.c.key > after, *also)
        .order_by(entry_field.c.key)
        .limit(PAGE_OF_VALUES)
        .subquery()
        for value in sorted(values)
    ]
    merged = union(*(select(walk.c.key) for walk in walks)).subquery()
    return select(merged.c.key).order_by(merged.c.key).limit(PAGE_OF_VALUES)
