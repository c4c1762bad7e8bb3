"""Commands: requests of sessions carried out on the engine, by the same calls and validation as over HTTP.

One handler a type, in a table; each returns what its request is answered with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from cachesvc.engine.answers import ANY, Answer, Want, Written
from cachesvc.engine.conflicts import choice, find
from cachesvc.engine.invalidate import Buries, Floored, invalidate
from cachesvc.engine.jobs import JobBook
from cachesvc.engine.preview import Outlined, preview
from cachesvc.errors import Forbidden, InvalidInput, OutcomeUnknown, Unavailable
from cachesvc.model.change import Draft, Idempotency, Operation, Publication, actor_of, publish
from cachesvc.model.change import invalidate as draft_of_invalidation
from cachesvc.model.job import Job
from cachesvc.model.keys import Key, parse_key
from cachesvc.model.position import Position
from cachesvc.model.syncs import Sync
from cachesvc.model.warming import pack_warming
from cachesvc.ports import Agenda, Clock
from cachesvc.protocol.challenge import NODE_SUBJECT
from cachesvc.protocol.codes import code_of
from cachesvc.protocol.drafts import draft_of, fingerprint, invalidation_of, told
from cachesvc.protocol.exact import check_nesting
from cachesvc.protocol.frames import (
    BatchUpdate,
    CacheGet,
    CacheInvalidate,
    CacheSync,
    CacheSyncPayload,
    CacheUpdate,
    CacheWarm,
    ConflictResolve,
    Publish,
    RecoveryRequest,
)
from cachesvc.protocol.jobs import job_told
from cachesvc.protocol.warming import WarmLimits, warming_of
from cachesvc.realtime import needs
from cachesvc.realtime.modules import Modules
from cachesvc.realtime.needs import Need
from cachesvc.realtime.quick import found
from cachesvc.realtime.recovery import Recovery
from cachesvc.realtime.resources import parse_resource
from cachesvc.realtime.session import Request
from cachesvc.realtime.told import MAX_PUSHED

_log = logging.getLogger(__name__)
LOOK_AGAIN: Final = 0.25  # seconds, at a job


class Store(Buries, Outlined, Agenda, Protocol):
    """What is needed of the authority."""


class Cache(Protocol):
    """What is needed of the cache."""

    @property
    def authority(self) -> Store: ...

    @property
    def floors(self) -> Floored: ...

    @property
    def applied(self) -> Position: ...

    @property
    def modules_loaded(self) -> Collection[str]: ...

    async def read(self, key: Key, want: Want = ANY) -> Answer: ...

    async def write(self, draft: Draft) -> Written: ...


class Sites(Protocol):
    """Who answers the nodes of other sites."""

    async def answer(self, asked: CacheSyncPayload, peer: str) -> tuple[str, dict[str, object]]:
        """The type and the payload of the answer, to a site that has proven to be that one."""
        ...


@dataclass(frozen=True, slots=True)
class Commands:
    """What requests are carried out on, and the limits of what they carry."""

    cache: Cache
    clock: Clock
    modules: Modules
    recovery: Recovery
    jobs: JobBook
    warming: WarmLimits
    max_value_size: int = 1 << 20
    max_invalidate_keys: int = 100_000
    time_limit: float = 10.0
    sites: Sites | None = None

    async def carry_out(self, request: Request) -> AsyncIterator[Reply]:
        """The answer, or the answers of which the last one ends it, each within the time limit. Raises `CacheError`."""
        command, sync = CARRIED_OUT[request.type], request.sync
        if sync is not None:
            await self._tell(sync)
        replies = command.handler(self, request, request.frame)
        try:
            while (reply := await self._in_time(command, request, replies)) is not None:
                yield reply
        except Exception as error:
            if sync is not None:
                sync.note(1, code_of(error).value)
                await self._tell(sync)
            raise
        if sync is not None:
            sync.note(1)
            await self._tell(sync)

    async def _tell(self, sync: Sync) -> None:
        """Tell how far a batch has come, if that is to be told; what cannot be is passed over, as the next step tells more."""
        said = sync.next()
        if said is None:
            return
        try:
            await self.cache.write(publish(said, distribute=False))
        except (Unavailable, OutcomeUnknown) as exc:
            _log.info("how far the sync %s has come was not told: %s", sync.name, exc)

    async def _in_time(self, command: Command, request: Request, replies: AsyncIterator[Reply]) -> Reply | None:
        timer = asyncio.timeout(self.time_limit)
        try:
            async with timer:
                return await anext(replies, None)
        except TimeoutError as exc:
            if not timer.expired():
                raise
            reason = f"not answered within {self.time_limit:g} s"
            if not command.writes:
                raise Unavailable(reason) from exc
            # what was handed to the log may still be committed
            asked = getattr(getattr(request.frame, "payload", None), "idempotency_key", None)
            raise OutcomeUnknown(reason, request_id=asked or "") from exc

    # what each does

    async def _get(self, request: Request, asked: CacheGet) -> AsyncIterator[Reply]:
        key = parse_key(asked.payload.key, field="payload.key")
        answer = await self.cache.read(key)
        entry = answer.entry
        if entry is None or entry.deleted:
            missed = {"key": key, "found": False, "value": None, "version": 0, "fillToken": str(answer.token)}
            yield Reply("cache:value", missed)
            return
        yield Reply("cache:value", found(entry, answer.ttl))

    async def _update(self, request: Request, asked: CacheUpdate) -> AsyncIterator[Reply]:
        update = asked.payload
        key = parse_key(update.key, field="payload.key")
        draft = draft_of(update, key, max_value_size=self.max_value_size, path="payload.")
        written = await self.cache.write(_signed(draft, request, update.idempotency_key))
        receipt = written.receipt
        body = told(draft, receipt, value=receipt.operation is Operation.INCREMENT)
        if receipt.operation is Operation.DELETE:
            body["found"] = receipt.found
        yield Reply("ack", body | _again(written))

    async def _invalidate(self, request: Request, asked: CacheInvalidate) -> AsyncIterator[Reply]:
        body = asked.payload
        named = invalidation_of(body, most=self.max_invalidate_keys, path="payload.")
        if body.dry_run:
            seen = await preview(
                self.cache.authority, named, at=self.cache.applied, clock=self.clock, loaders=self.cache.modules_loaded
            )
            yield Reply("ack", seen.told())
            return
        draft = draft_of_invalidation(named)._replace(distribute=body.distribute)
        done = await invalidate(self.cache, _signed(draft, request, body.idempotency_key))
        yield Reply("ack", done.told() | _again(done.written))

    async def _batch(self, request: Request, asked: BatchUpdate) -> AsyncIterator[Reply]:
        """One of which nothing is left to be carried out, but its sync to be told."""
        assert request.sync is not None
        yield Reply("ack", {"batchId": asked.payload.batch_id, "messages": request.sync.total})

    async def _publish(self, request: Request, asked: Publish) -> AsyncIterator[Reply]:
        said = asked.payload
        to = parse_resource(said.resource, self.modules, field="payload.resource")
        needs.require(request.identity, [needs.of("publish", to)])
        assert said.message is not None  # null is a text, too
        check_size(said.message, most=MAX_PUSHED, field="payload.message")
        publication = Publication(said.resource, bytes(said.message), request.identity.subject)
        written = await self.cache.write(
            _signed(publish(publication, distribute=said.distribute), request, said.idempotency_key)
        )
        told = {"resource": said.resource, "sequence": written.receipt.version, "operation": Operation.PUBLISH.value}
        yield Reply("ack", told | _again(written))

    async def _resolve(self, request: Request, asked: ConflictResolve) -> AsyncIterator[Reply]:
        said = asked.payload
        key = (await find(self.cache.authority, said.conflict_id)).conflict.key
        needs.require(request.identity, [Need("resolve", key)])
        value = bytes(said.data) if said.data is not None else None
        if value is not None:
            check_size(value, most=self.max_value_size, field="payload.data")
        draft = choice(said.conflict_id, key, option=said.option, value=value)
        written = await self.cache.write(_signed(draft, request, said.idempotency_key))
        yield Reply("ack", told(draft, written.receipt, value=False) | _again(written))

    async def _warm(self, request: Request, asked: CacheWarm) -> AsyncIterator[Reply]:
        body = asked.payload
        warming = warming_of(body, self.warming, self.cache.modules_loaded, path="payload.")
        needs.require(request.identity, needs.warmed(warming))
        begun = await self.jobs.begin("warm", warming.title, pack_warming(warming), what=warming.what)
        job: Job | None = begun.job
        yield Reply("ack", job_told(begun.job).model_dump(mode="json", by_alias=True))
        revision, due = -1, 0.0
        while job is not None:
            if job.revision != revision or self.clock.monotonic() >= due:
                revision, due = job.revision, self.clock.monotonic() + self.time_limit / 2
                yield Reply("cache:warm", _progress(body.module, job))
            if job.state.ended:
                return
            await self.clock.sleep(LOOK_AGAIN)
            job = await self.jobs.find(job.id)

    async def _sync(self, request: Request, asked: CacheSync) -> AsyncIterator[Reply]:
        peer = request.identity.subject.removeprefix(NODE_SUBJECT)
        if self.sites is None or peer == request.identity.subject:
            raise Forbidden("node", "cache:sync", "it is for the sites of sites.peers, each proven by its own secret there")
        yield Reply(*await self.sites.answer(asked.payload, peer))

    async def _recover(self, request: Request, asked: RecoveryRequest) -> AsyncIterator[Reply]:
        session = request.session
        async for payload in self.recovery.recover(session.stream, session.names.session, asked.payload):
            yield Reply("recovery:response", payload)


class Reply(NamedTuple):
    """What a request is answered with."""

    type: str
    payload: Mapping[str, object]


class Command(NamedTuple):
    """How a type is carried out; `writes` tells that what becomes of it may be unknown for a while."""

    handler: Callable[[Commands, Request, Any], AsyncIterator[Reply]]
    writes: bool = True
    watches: bool = False  # something that goes on without it: who closes does not wait for it


CARRIED_OUT: Final[Mapping[str, Command]] = {
    "cache:get": Command(Commands._get, writes=False),
    "cache:update": Command(Commands._update),
    "cache:invalidate": Command(Commands._invalidate),
    "batch:update": Command(Commands._batch, writes=False),
    "publish": Command(Commands._publish),
    "conflict:resolve": Command(Commands._resolve),
    "cache:warm": Command(Commands._warm, writes=False, watches=True),
    "recovery:request": Command(Commands._recover, writes=False),
    "cache:sync": Command(Commands._sync, writes=False),
}


def check_size(text: bytes, *, most: int, field: str) -> None:
    """Raises `InvalidInput` for a value that is too large, or too deep."""
    if len(text) > most:
        raise InvalidInput(field, f"is larger than the limit of {most} bytes", too_large=True)
    check_nesting(text, field=field)


def _progress(module: str | None, job: Job) -> dict[str, object]:
    return {
        "module": module,
        "job": job.id,
        "status": job.state.value,
        "done": job.done,
        "total": job.total,
        "errors": job.error_count,
    }


def _signed(draft: Draft, request: Request, asked: str | None) -> Draft:
    """The draft with whose it is, and under which key its answer is kept."""
    subject = request.identity.subject
    idempotency = Idempotency(subject, asked or "", fingerprint(draft))
    return draft._replace(idempotency=idempotency, actor=actor_of(subject))


def _again(written: Written) -> dict[str, object]:
    """What finds the answer again."""
    return {"idempotencyKey": written.request_id, **({"replayed": True} if written.replayed else {})}
