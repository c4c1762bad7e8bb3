"""The composition root: the only place that builds things from settings.

What is yielded is ready; what runs in the background runs in one task group here, outside the web framework, so that a task
that dies ends the process instead of leaving a node that answers but follows nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from random import Random

from cachesvc import __version__
from cachesvc.clock import SystemClock
from cachesvc.cluster.agenda import Keeper
from cachesvc.cluster.audit import Auditor
from cachesvc.cluster.copies import Copies, MemoryCopies, RedisCopies
from cachesvc.cluster.duties import Duty
from cachesvc.cluster.feed import Feed
from cachesvc.cluster.follower import Follower
from cachesvc.cluster.jobs import JobLimits, JobRunner
from cachesvc.cluster.losses import Losses
from cachesvc.cluster.replayer import Replayer
from cachesvc.cluster.retirer import Retirer
from cachesvc.cluster.sweeper import Sweeper
from cachesvc.cluster.vigil import Vigil
from cachesvc.cluster.voucher import Voucher
from cachesvc.engine.cache import Cache, Limits
from cachesvc.engine.jobs import JobBook
from cachesvc.engine.warm import Warmer
from cachesvc.errors import EpochChanged, Unavailable
from cachesvc.model.change import Change
from cachesvc.model.fold_state import Terms
from cachesvc.model.revocation import Revocations
from cachesvc.node.batches import new_batch
from cachesvc.node.live import modules_of, policies_of
from cachesvc.node.loading import ahead_of, loaders_of, loading_of, stale_of
from cachesvc.node.node import Node
from cachesvc.node.offset import authority_offset
from cachesvc.node.peers import Peers
from cachesvc.node.restoring import Restorer, spool_of
from cachesvc.node.sites import own_site, running
from cachesvc.ports import NODES_KEPT, Authority, Retention, Standing
from cachesvc.settings import Settings
from cachesvc.tiers.memory import MemoryTier

_log = logging.getLogger(__name__)
FORGETTING = 60.0  # seconds between two looks for jobs that ended long ago
RETIRING = 0.1  # seconds between two looks for an active pattern, which costs nothing where there is none

# Stores are imported where they are opened: a node pays only for the drivers that its settings name.


@asynccontextmanager
async def opened(settings: Settings, *, address: str = "", clock: SystemClock | None = None) -> AsyncIterator[Node]:
    """A running node. Raises `SettingsError`, `Unavailable` and `SchemaMismatch` when it cannot start.

    Leaving it, what was taken is finished first, within `server.shutdown_timeout`.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        stale, longest = stale_of(settings)
        memory = _memory(settings, clock) if settings.levels.memory.enabled or settings.authority == "memory" else None
        authority = await _authority(settings, clock, memory, stack)
        clock.offset = await authority_offset(authority, clock)
        redis = voucher = None
        losses = Losses()
        if settings.levels.redis.enabled and settings.authority == "database":
            from cachesvc.tiers.redis import opened as opened_redis  # noqa: PLC0415

            level = settings.levels.redis
            redis = await stack.enter_async_context(
                opened_redis(
                    level.url,
                    key_prefix=level.key_prefix,
                    ttl=level.ttl,
                    ttl_jitter=level.ttl_jitter,
                    compression=level.compression,
                    timeout=settings.redis_timeout,
                    max_connections=level.max_connections,
                    max_recent=level.max_recent,
                    clock=clock,
                    dictionaries=authority,
                    random=Random(),
                    stale=stale,
                )
            )
            voucher = Voucher(redis, authority, losses, clock)
            await _vouched(voucher)
        standing = await authority.standing()
        start = standing.position
        node_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        feed = Feed(authority, start)
        cache = Cache(
            memory=memory,
            redis=redis,
            authority=authority,
            start=start,
            patterns=standing.patterns,
            gaps=standing.gaps,
            clock=clock,
            new_batch=new_batch,
            loaders=await loaders_of(settings, stack),
            loading=loading_of(
                settings, ttl=_ttl(settings), leases=redis.leases if redis is not None else None, holder=node_id
            ),
            limits=_limits(settings),
            appended=lambda appended: follower.offer(appended),  # noqa: PLW0108 - the follower is built below
        )
        revocations = Revocations(standing.revocations, clock.now)
        apply, start_over = _following(cache, revocations)
        follower = Follower(
            authority,
            feed,
            clock,
            start=start,
            apply=apply,
            start_over=start_over,
            losses=losses,
        )
        vigil = Vigil(cache.leash, authority, follower, clock, lease=settings.cluster.lease)
        sweeper = Sweeper(
            authority,
            cache.write_many,
            retention=Retention(settings.log.max_age, settings.log.max_count, settings.log.max_bytes),
            batch=settings.levels.database.sweep_batch,
            grace=longest,
        )
        duty = partial(Duty, registry=authority, node=node_id, clock=clock, lease=settings.cluster.lease)
        retirer = Retirer(
            authority,
            lambda: cache.floors.patterns,
            cache.write,
            clock,
            batch=settings.levels.database.sweep_batch,
            pause=settings.levels.database.sweep_pause,
            share=settings.levels.database.sweep_share,
        )
        peers = Peers(authority, node_id, seen_within=settings.cluster.gone_after, token=settings.auth.node_token)
        warmer = Warmer(cache, clock, hot=peers.hot)
        spool = spool_of(settings)
        restorer = Restorer(cache, authority, spool.folder, max_value_size=settings.server.max_value_size)
        runner = JobRunner(
            authority,
            {"warm": warmer.work, "restore": restorer.work},
            clock,
            node=node_id,
            place=spool.place,
            limits=_job_limits(settings),
        )
        jobs = JobBook(authority, clock, new_id=new_batch, most=settings.jobs.max_open, begun=runner.wake)
        keeper = Keeper(authority, cache.write_many, max_kept=settings.conflicts.max_kept)
        duties = [
            duty("agenda", keeper.step, interval=settings.realtime.agenda_interval),
            duty("conflicts", keeper.forget, interval=FORGETTING),
            duty("jobs", runner.forget, interval=FORGETTING),
            duty("sweep", sweeper.step, interval=settings.levels.database.sweep_interval),
            duty("retire", retirer.step, interval=RETIRING),
        ]
        copies = [MemoryCopies(memory, cache.floors)] if memory is not None and settings.authority != "memory" else []
        above: list[Copies] = [*copies, *([RedisCopies(redis, cache.floors)] if redis is not None else [])]
        audit = settings.audit
        auditor = Auditor(cache, above, clock, interval=audit.interval, sample=audit.sample, rate=audit.rate)
        replayer = None
        if redis is not None and voucher is not None:
            duties.append(duty("audit", auditor.shared, interval=1.0))
            replayer = Replayer(redis, voucher, feed, clock)
            duties.append(duty("replay", replayer.step, interval=settings.cluster.replay_interval))
        sites = own_site(settings, authority, cache, feed, losses=losses, clock=clock)
        if sites is not None:
            duties.append(duty("sites", sites.links.hold, interval=settings.cluster.lease / 4))
        node = Node(
            id=node_id,
            address=address,
            version=__version__,
            settings=settings,
            clock=clock,
            cache=cache,
            feed=feed,
            follower=follower,
            authority=authority,
            redis=redis,
            replayer=replayer,
            voucher=voucher,
            losses=losses,
            vigil=vigil,
            sweeper=sweeper,
            auditor=auditor,
            duties=duties,
            jobs=jobs,
            runner=runner,
            warmer=warmer,
            restorer=restorer,
            revocations=revocations,
            warming=settings.warm.on_start != "no",
            sites=sites,
        )
        async with _running(node):
            yield node


def _following(cache: Cache, revocations: Revocations) -> tuple[Callable[[Sequence[Change]], None], Callable[[Standing], None]]:
    """What changes of the log do to a node, and what it does where the log goes on from elsewhere."""

    def apply(changes: Sequence[Change]) -> None:
        cache.apply(changes)
        revoked = [change.revocation for change in changes if change.revocation is not None]
        if revoked:
            revocations.add(revoked)

    def start_over(standing: Standing) -> None:
        cache.start_over(standing.position, standing.patterns, standing.gaps)
        revocations.add(standing.revocations)

    return apply, start_over


@asynccontextmanager
async def _running(node: Node) -> AsyncIterator[None]:
    """The background of a node: lanes, follower, duties, heartbeat, upkeep."""
    async with asyncio.TaskGroup() as group:
        lanes = [group.create_task(lane, name="lane") for lane in node.cache.lanes()]
        background = [
            group.create_task(node.follower.run(), name="follower"),
            group.create_task(node.vigil.run(), name="vigil"),
            group.create_task(node.beat(), name="heartbeat"),
            group.create_task(node.upkeep(), name="upkeep"),
            group.create_task(node.index(), name="index"),
            group.create_task(node.runner.run(), name="jobs"),
            group.create_task(node.auditor.run(), name="audit"),
            group.create_task(node.warm_up(), name="warm-up"),
            group.create_task(node.tidy(), name="tidy"),
            *(group.create_task(duty.run(), name=f"duty {duty.name}") for duty in node.duties),
            *([group.create_task(node.voucher.run(), name="voucher")] if node.voucher is not None else []),
            *([group.create_task(run, name="sites") for run in running(node.sites)] if node.sites is not None else []),
        ]
        try:
            await _announce(node)
            yield
        finally:
            await _cancelled(background)
            node.cache.close()
            _, unfinished = await asyncio.wait(lanes, timeout=node.settings.server.shutdown_timeout)
            await _cancelled(unfinished)
            await node.leave()


async def _vouched(voucher: Voucher) -> None:
    """Find out, before anything is served, whether Redis knows of a history that the log does not have."""
    try:
        await voucher.survey()
    except EpochChanged:
        return  # a new epoch has begun, from where this node starts
    except Unavailable as exc:
        _log.info("Redis is not believed yet: %s", exc)


async def _cancelled(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel until they have ended: a library may lose one cancellation (as `asyncio.wait_for` does in Python 3.11)."""
    pending = set(tasks)
    for _ in range(50):
        for task in pending:
            task.cancel()
        if not pending:
            return
        _, pending = await asyncio.wait(pending, timeout=0.1)
    _log.error("tasks do not end: %s", ", ".join(task.get_name() for task in pending))


async def _announce(node: Node) -> None:
    """The first heartbeat. Where it cannot be written (a full disk) there may still be much to read."""
    try:
        await node.first_beat()
    except Unavailable as exc:
        _log.warning("the authority takes no writes: %s", exc)
        node.authority_answers = False


def _memory(settings: Settings, clock: SystemClock) -> MemoryTier:
    level = settings.levels.memory
    return MemoryTier(
        ttl=level.ttl,
        max_size=level.max_size,
        max_bytes=level.max_bytes,
        eviction_policy=level.eviction_policy,
        clock=clock,
        ahead=ahead_of(settings),
    )


async def _authority(settings: Settings, clock: SystemClock, memory: MemoryTier | None, stack: AsyncExitStack) -> Authority:
    levels = settings.levels
    engine = settings.engine
    modules = modules_of(settings.realtime)
    terms = Terms(
        _ttl(settings),
        levels.database.tombstone_ttl,
        engine.max_patterns,
        engine.max_cascade,
        engine.max_cascade_depth,
        modules.remembers,
        policies=policies_of(settings.conflicts),
        conflicts_expire=settings.conflicts.expire_after,
        conflicts_kept=settings.conflicts.kept_for,
        max_value_size=settings.server.max_value_size,
        reminds=modules.reminds,
        reminder_late=settings.realtime.reminder_late,
        site=settings.cluster.site if settings.sites.peers else "",
    )
    if settings.authority == "database":
        from cachesvc.logs import database  # noqa: PLC0415

        return await stack.enter_async_context(
            database.opened(
                settings.database_url,
                terms=terms,
                indexed_fields=levels.database.indexed_fields,
                data_dir=settings.server.data_dir,
                pool_size=levels.database.pool_size,
                timeout=levels.database.timeout,
                poll_interval=settings.log.poll_interval,
                idempotency_ttl=levels.database.idempotency_ttl,
                nodes_kept=_nodes_kept(settings),
                clock=SystemClock(),  # not moved by what it is itself asked for
            )
        )
    if settings.authority == "redis":
        from cachesvc.logs import redis  # noqa: PLC0415

        return await stack.enter_async_context(
            redis.opened(
                levels.redis.url,
                key_prefix=levels.redis.key_prefix,
                terms=terms,
                timeout=settings.redis_timeout,
                max_connections=levels.redis.max_connections,
                poll_interval=settings.log.poll_interval,
                idempotency_ttl=levels.database.idempotency_ttl,
                nodes_kept=_nodes_kept(settings),
                clock=clock,
            )
        )
    from cachesvc.logs.memory import MemoryAuthority  # noqa: PLC0415

    if memory is None:
        raise Unavailable("no level is enabled")
    return MemoryAuthority(
        memory,
        terms=terms,
        clock=SystemClock(),
        poll_interval=settings.log.poll_interval,
        idempotency_ttl=levels.database.idempotency_ttl,
        nodes_kept=_nodes_kept(settings),
    )


def _nodes_kept(settings: Settings) -> float:
    """Seconds for which a silent node is remembered: no less than it may serve what it holds in memory."""
    return max(NODES_KEPT, settings.cluster.gone_after + settings.levels.memory.serves_for)


def _ttl(settings: Settings) -> float:
    """The life of what is given none: that of the deepest level."""
    levels = settings.levels
    return {"database": levels.database.ttl, "redis": levels.redis.ttl, "memory": levels.memory.ttl}[settings.authority]


def _limits(settings: Settings) -> Limits:
    engine = settings.engine
    return Limits(
        floors=engine.max_floors,
        pending_reads=engine.max_pending_reads,
        pending_writes=engine.max_pending_writes,
        pending_puts=settings.levels.redis.max_pending,
        pending_write_bytes=engine.max_pending_write_bytes,
        pending_put_bytes=settings.levels.redis.max_pending_bytes,
        batch_reads=engine.batch_reads,
        batch_drafts=engine.batch_drafts,
        batch_bytes=engine.batch_bytes,
        read_lanes=engine.read_lanes,
        min_version_wait=engine.min_version_wait,
    )


def _job_limits(settings: Settings) -> JobLimits:
    jobs = settings.jobs
    return JobLimits(
        jobs.at_once,
        poll=jobs.poll_interval,
        lease=settings.cluster.lease,
        kept_for=jobs.kept_for,
        kept=jobs.max_kept,
        max_attempts=jobs.max_attempts,
    )
