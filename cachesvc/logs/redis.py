"""The Redis authority: rows, a stream of records and kept answers in one Redis (standalone), written by one script.

The rule that must not break: a fold is committed only while the log's head is where it was when the rows were read. Every
change moves the head, so the script need not look at anything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from redis.exceptions import ResponseError

from cachesvc.errors import EpochChanged, LogTrimmed, OutcomeUnknown, TierUnavailable
from cachesvc.logs.following import Bell, following
from cachesvc.logs.outcomes import batches_of, pack_batch, pack_result, results_of_batches, unpack_result
from cachesvc.logs.redis_agenda import RedisAgenda, packed
from cachesvc.logs.redis_jobs import RedisJobs
from cachesvc.logs.redis_registry import RedisRegistry
from cachesvc.logs.redis_rows import VERSION_DIGITS, Names, milliseconds, pack_record, pack_row, unpack_record, unpack_row
from cachesvc.logs.redis_server import Argument, Server, check, connected
from cachesvc.logs.redis_source import UNRELATED, RedisSource
from cachesvc.logs.witness import Witness
from cachesvc.model.agenda import Item, unpack_item
from cachesvc.model.change import OPENING, Appended, Change, Draft, Kind, opened_by
from cachesvc.model.fold import fold
from cachesvc.model.fold_state import Folded, Result, State, Terms, asked, base_of, based, noted, touched
from cachesvc.model.invalidation import InForce
from cachesvc.model.position import MAX_GAPS, Epoch, Position, Seq, parse_gaps
from cachesvc.model.revocation import pack_revocation, unpack_revocation
from cachesvc.ports import NODES_KEPT, Burial, Clock, Retention, Standing, Trail

_TRIM_STEP: Final = 1_000
_LOG_SHARE: Final = 4  # of the memory that Redis may take up, the log has one part in so many
_FOLDS: Final = 100  # how often a fold is tried while other nodes move the log
_LOOK_AGAIN: Final = 0.05
_FOREIGN: Final = -2  # what the append script answers on a log of another history
_AT_HEAD: Final = -1
# how the record begins that stands at a sequence: it alone is sent, not its value
_OPENING: Final = (
    f"local at = ARGV[1] == '{_AT_HEAD}' and redis.call('HGET', KEYS[2], 'head') or ARGV[1] "
    "local found = redis.call('XRANGE', KEYS[1], at .. '-0', at .. '-0')[1] "
    "return found and string.sub(found[2][6], 1, tonumber(ARGV[2]))"
)


@asynccontextmanager
async def opened(
    url: str,
    *,
    key_prefix: str,
    terms: Terms,
    timeout: float,
    max_connections: int,
    poll_interval: float,
    clock: Clock,
    idempotency_ttl: float = 86_400.0,
    nodes_kept: float = NODES_KEPT,
    durable: bool = True,
) -> AsyncIterator[RedisAuthority]:
    """The authority in the Redis of a URL, which is to answer now and, if `durable`, to keep what it acknowledged.

    Raises `TierUnavailable`, and `SettingsError` for a server that cannot be the authority.
    """
    bell, names = Bell(), Names(key_prefix)
    async with connected(
        url, timeout=timeout, max_connections=max_connections, channel=names.channel, wake=bell.ring, clock=clock
    ) as server:
        await check(server, url, durable=durable)
        yield RedisAuthority(
            server,
            names,
            bell,
            clock=clock,
            terms=terms,
            poll_interval=poll_interval,
            idempotency_ttl=idempotency_ttl,
            nodes_kept=nodes_kept,
        )


class RedisAuthority(RedisSource, RedisRegistry, RedisJobs, RedisAgenda):
    """`ports.Authority` in Redis. Get one by `opened`."""

    name = "redis"

    def __init__(
        self,
        server: Server,
        names: Names,
        bell: Bell,
        *,
        clock: Clock,
        terms: Terms,
        poll_interval: float,
        idempotency_ttl: float,
        nodes_kept: float,
    ) -> None:
        RedisSource.__init__(self, server, names)
        RedisRegistry.__init__(self, server, names)
        RedisJobs.__init__(self, server, names)
        RedisAgenda.__init__(self, server, names)
        self._bell = bell
        self._clock = clock
        self._terms = terms
        self._poll_interval = poll_interval
        self._keep = milliseconds(idempotency_ttl)
        self._nodes_kept = nodes_kept
        self._witness = Witness()
        self._turn = asyncio.Lock()  # of one process's appends only one is folded at a time: they would only meet again

    # the log

    async def append(self, drafts: Sequence[Draft], *, batch: str) -> Appended:
        if not drafts:
            return Appended(await self.head(), batch, (), ())
        async with self._turn:
            for _ in range(_FOLDS):
                state, nbytes = await self._look(drafts)
                folded = fold(state, drafts, batch=batch, terms=self._terms)
                try:
                    committed = await self._commit(state, nbytes, folded, drafts, batch)
                except EpochChanged as lost:
                    self._bell.ring()  # whoever follows is to find out
                    raise TierUnavailable(self.name, f"nothing was written: {lost}", answered=True) from lost
                if committed:
                    self._witness.saw(state.position.epoch, folded.changes)
                    self._bell.ring(state.position.sequence + len(folded.changes))
                    replayed = frozenset(folded.replayed)
                    return Appended(state.position, batch, folded.changes, folded.outcomes, replayed)
        raise TierUnavailable(self.name, "other nodes write so much that no turn was found")

    async def _look(self, drafts: Sequence[Draft]) -> tuple[State, int]:
        """What the fold looks at, read in one step; and the bytes of all records."""
        names = self._names
        keys, wanted = list(touched(drafts)), asked(drafts)
        own, batches = list(wanted), list(batches_of(wanted))
        held = [*(names.rows + key for key in keys), *(names.answer(*key) for key in own), *map(names.batch, batches)]
        items, bases = list(noted(drafts, self._terms)), based(drafts)
        more: list[Sequence[Argument]] = [("XRANGE", names.log, f"{base}-0", f"{base}-0") for base in bases]
        if items:
            more += [("HMGET", names.agenda, *items), ("HMGET", names.agenda_bodies, *items)]
        while True:
            (seconds, micros), (epoch, head, since, nbytes, patterns_at), found, *besides = await self._server.together(
                ("TIME",),
                ("HMGET", names.state, "epoch", "head", "complete_since", "bytes", "patterns_at"),
                ("MGET", *held, names.state),  # one more, which is no string: there may be nothing else to ask for
                *more,
            )
            if epoch is not None:
                break
            await self._begin(self._witness.seen.position)
        rows, answers, records = found[: len(keys)], found[len(keys) :][: len(own)], found[len(keys) + len(own) : -1]
        results: dict[tuple[str, str], Result] = results_of_batches(
            wanted, {batch: record for batch, record in zip(batches, records, strict=True) if record}
        )
        results |= {key: unpack_result(answer) for key, answer in zip(own, answers, strict=True) if answer is not None}
        state = State(
            _position(epoch, head),
            seconds + micros / 1_000_000,
            {key: unpack_row(key, row) for key, row in zip(keys, rows, strict=True) if row is not None},
            results,
            Seq(int(since)),
            await self._patterns.at(epoch, patterns_at),
            UNRELATED,
            items=_items(items, *besides[len(bases) :]),
            bases=dict(filter(None, (base_of(unpack_record(record)) for [record] in filter(None, besides[: len(bases)])))),
        )
        return state, int(nbytes)

    async def _commit(self, state: State, nbytes: int, folded: Folded, drafts: Sequence[Draft], batch: str) -> bool:
        """Write what the fold made; False when the log has moved.

        Raises `TierUnavailable`, `OutcomeUnknown`; `EpochChanged` before anything is written, on a log that does not have what
        was seen of it.
        """
        names, seen = self._names, self._witness.seen
        lists: list[Argument] = [len(folded.changes)]
        for change in folded.changes:
            record, size = pack_record(change, nbytes)
            lists += record
            nbytes += size
        lists.append(len(folded.rows))
        for key, entry in folded.rows.items():
            lists += (key, pack_row(entry), int(entry.deleted), "" if entry.expires_at is None else repr(entry.expires_at))
        lists.append(len(folded.results))
        for asker, result in folded.results.items():
            lists += (names.answer(*asker), pack_result(result))
        lists.append(len(folded.patterns))
        for one in folded.patterns:
            lists += (one.name, (await self._patterns.kept(one, state.now)).packed())
        revoked = folded.revocations
        lists.append(len(revoked))
        for revocation in revoked:
            lists += (revocation.name, pack_revocation(revocation))
        lists += packed(folded.items)
        epoch, head = state.position
        moved = folded.changes[-1].sequence if folded.changes else head
        record_of_batch = pack_batch(drafts, folded.outcomes)
        try:
            done = await self._server.run(
                "append_freeing" if all(map(_frees, folded.changes)) and folded.changes else "append",
                (
                    *(names.state, names.log, names.keys, names.ends, names.gone, names.batch(batch)),
                    *(names.patterns, names.revocations),
                    *(names.agenda, names.agenda_bodies, names.agenda_names, names.agenda_due),
                ),
                (
                    *(epoch, head, moved, nbytes, record_of_batch, self._keep, names.channel, names.rows),
                    *(*seen.position, seen.opening, *lists),
                ),
            )
        except TierUnavailable as exc:
            if isinstance(exc.__cause__, ResponseError):
                raise  # refused before anything was written: out of memory, read-only, no room
            return await self._find_out(batch, exc)
        if done == _FOREIGN:
            raise EpochChanged(seen.position.epoch, epoch)
        return bool(done)

    async def _find_out(self, batch: str, lost: TierUnavailable) -> bool:
        """After a lost connection: whether the batch was committed. Where it was not, it is given up, and never will be."""
        record = self._names.batch(batch)
        deadline = self._clock.monotonic() + self._server.timeout
        while True:
            try:
                _, held = await self._server.together(("SET", record, "", "NX", "PX", self._keep), ("STRLEN", record))
            except TierUnavailable as exc:
                if self._clock.monotonic() >= deadline:
                    raise OutcomeUnknown(f"Redis went away while committing: {exc.reason}") from exc
                await self._clock.sleep(_LOOK_AGAIN)
            else:
                if not held:
                    raise lost
                return True

    async def read(self, after: Position, limit: int) -> Sequence[Change]:
        names, seen = self._names, self._witness.seen
        (epoch, head, trimmed_to), records, found = await self._server.together(
            ("HMGET", names.state, "epoch", "head", "trimmed_to"),
            ("XRANGE", names.log, f"{after.sequence + 1}-0", "+", "COUNT", limit),
            self._opening(seen.position.sequence, len(seen.opening)),
        )
        if epoch is None:
            raise EpochChanged(after.epoch, (await self.head()).epoch)
        seen.check(epoch=int(epoch), head=int(head), trimmed_to=int(trimmed_to), found=found)
        if after.epoch != int(epoch) or after.sequence > int(head):
            raise EpochChanged(after.epoch, int(epoch))
        if after.sequence < int(trimmed_to):
            raise LogTrimmed(after.sequence, int(trimmed_to))
        read = [unpack_record(record) for record in records]
        self._witness.saw(int(epoch), read)
        return read

    def _opening(self, sequence: int, length: int) -> tuple[Argument, ...]:
        return "EVAL", _OPENING, 2, self._names.log, self._names.state, sequence, length

    async def head(self) -> Position:
        return _position(*(await self._state("epoch", "head")))

    async def standing(self) -> Standing:
        await self.head()  # the store may be new
        (*state, gaps), found, revoked, record = await self._server.together(
            ("HMGET", self._names.state, "epoch", "head", "gaps"),
            ("HGETALL", self._names.patterns),
            ("HVALS", self._names.revocations),
            self._opening(_AT_HEAD, OPENING),
        )
        position = _position(*state)
        self._witness.begin(position, opened_by(record or b""))
        there = [kept.one for kept in self._patterns.read(found)]
        active = [one for one in there if not one.retired]
        return Standing(position, active, parse_gaps((gaps or b"").decode()), list(map(unpack_revocation, revoked)))

    async def trail(self, sequences: Collection[int]) -> Trail:
        await self.head()  # the store may be new
        (epoch, head, trimmed_to), *records = await self._server.together(
            ("HMGET", self._names.state, "epoch", "head", "trimmed_to"),
            *(self._opening(sequence, OPENING) for sequence in (*sequences, _AT_HEAD)),
        )
        there = zip((*sequences, int(head)), records, strict=True)
        ids = {Seq(sequence): opened_by(record) for sequence, record in there if record}
        return Trail(_position(epoch, head), _position(epoch, trimmed_to), ids)

    async def oldest(self) -> Position:
        return _position(*(await self._state("epoch", "trimmed_to")))

    def follow(
        self, after: Position, *, known: Callable[[], Position] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Change]]]:
        return following(self.read, after, bell=self._bell, poll_interval=self._poll_interval, known=known)

    async def trim(self, retention: Retention) -> int:
        epoch, head, trimmed_to, nbytes = map(int, await self._state("epoch", "head", "trimmed_to", "bytes"))
        too_old = await self._server.time() - retention.age
        most = int((await self._server.ask("INFO", "memory"))["maxmemory"]) // _LOG_SHARE
        most_bytes = min(retention.bytes, most) if most else retention.bytes

        async def may_stay(sequence: int) -> bool:
            records = await self._server.ask("XRANGE", self._names.log, f"{sequence}-0", f"{sequence}-0")
            if not records:
                return False  # another node trims too
            before = int(records[0][1][b"b"])
            return unpack_record(records[0]).at >= too_old and nbytes - before <= most_bytes

        # records are in the order of both their time and their bytes, so the first that may stay is found by halving
        low = max(trimmed_to + 1, head - retention.count + 1)
        high = head  # the last one stays in any case
        if low < high and await may_stay(low):
            high = low
        while low < high:
            middle = (low + high) // 2
            if await may_stay(middle):
                high = middle
            else:
                low = middle + 1
        dropped = 0
        while trimmed_to < low - 1:
            trimmed_to = min(trimmed_to + _TRIM_STEP, low - 1)
            dropped += await self._server.run(
                "trim", (self._names.state, self._names.log), (epoch, trimmed_to, self._names.batches)
            )
        return dropped

    async def new_epoch(self, seen: Position, *, kept: Seq | None = None) -> Position:
        epoch = await self._begin(seen, kept)
        self._bell.ring()
        return Position(epoch, Seq(epoch))  # an epoch is named by its first sequence

    async def _begin(self, seen: Position, kept: Seq | None = None) -> Epoch:
        """A first epoch where there is none, or one past what was seen."""
        said = (*seen, self._names.channel, "" if kept is None else kept, MAX_GAPS)
        return Epoch(int(await self._server.run("begin", (self._names.state, self._names.log), said)))

    async def _state(self, *fields: str) -> list[bytes]:
        while True:
            found: list[bytes | None] = await self._server.ask("HMGET", self._names.state, *fields)
            said = [value for value in found if value is not None]
            if len(said) == len(fields):
                return said
            await self._begin(self._witness.seen.position)  # the store is new, or was emptied

    async def bury(self, pattern: InForce, *, limit: int) -> Burial:
        return await self._patterns.bury(pattern, self._matching, limit=limit, now=await self._server.time())

    async def burials(self) -> Mapping[InForce, Burial]:
        return await self._patterns.burials()

    async def sweep(self, *, limit: int) -> int:
        """Drop tombstones past their time; answers end by themselves."""
        names = self._names
        now = await self._server.time()
        await self.drop_nodes(now - self._nodes_kept)
        await self._patterns.forget_retired(now)
        await self._unrevoke(now)
        due = await self._due(names.gone, now, limit)
        if not due:
            return 0
        said = [argument for pair in due for argument in pair]
        return int(await self._server.run("sweep", (names.state, names.gone), (names.rows, VERSION_DIGITS, *said)))

    async def _unrevoke(self, now: float) -> None:
        """Forget revocations of tokens that have ended."""
        held = await self._server.ask("HGETALL", self._names.revocations)
        past = [(name, packed) for name, packed in held.items() if unpack_revocation(packed).past(now)]
        if past:
            said = [argument for pair in past for argument in pair]
            await self._server.run("unrevoke", (self._names.revocations,), said)

    async def time(self) -> float:
        return await self._server.time()


def _frees(change: Change) -> bool:
    """Whether it only takes away what is there, or will: then it is carried out on a Redis that is full, too."""
    match change.kind:
        case Kind.DELETE:
            return change.before is not None
        case Kind.INVALIDATE | Kind.RETIRE:
            return not change.touches
        case kind:
            return kind is Kind.EXPIRE


def _position(epoch: bytes, sequence: bytes) -> Position:
    return Position(Epoch(int(epoch)), Seq(int(sequence)))


def _items(names: Sequence[str], records: Sequence[bytes | None] = (), bodies: Sequence[bytes | None] = ()) -> dict[str, Item]:
    held = zip(names, records, bodies, strict=True) if names else ()
    return {name: unpack_item(name, record, body or b"") for name, record, body in held if record is not None}
