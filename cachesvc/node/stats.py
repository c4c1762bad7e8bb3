"""Stats: what a node has counted since its start, and how its parts stand, by name.

Names are what metrics and operators know them by: one that is renamed here is to be renamed in the catalogue of metrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachesvc.breaker import Breaker
from cachesvc.engine.answers import Mark
from cachesvc.engine.cache import Cache
from cachesvc.engine.combine import Combiner
from cachesvc.engine.no_memory import NoMemory
from cachesvc.engine.supply import Supply
from cachesvc.errors import Unavailable
from cachesvc.model.job import JobState
from cachesvc.ports import TierStats

if TYPE_CHECKING:
    from cachesvc.node.node import Node


async def stats_of(node: Node) -> dict[str, Any]:
    """Counts since the start of this node: by tier, of the log, of the engine's queues."""
    cache, counts = node.cache, node.cache.reads.counts
    tiers: dict[str, Any] = {}
    for tier in (cache.memory, cache.redis, node.authority):
        if tier is None or tier.name in tiers or isinstance(tier, NoMemory):
            continue
        try:
            tiers[tier.name] = _tier(node, tier.name, await tier.stats())
        except Unavailable as exc:
            tiers[tier.name] = {**_tier(node, tier.name, TierStats()), "error": str(exc)}
    if counts.hits["loader"] or counts.misses["loader"]:
        tiers["loader"] = _tier(node, "loader", TierStats())
    return {
        "node": node.id,
        "version": node.version,
        "authority": node.authority.name,
        "uptime": node.clock.now() - node.started_at,
        "tiers": tiers,
        "log": {
            "epoch": cache.applied.epoch,
            "applied": cache.applied.sequence,
            "following": node.follower.following,
            "startedOver": node.follower.started_over,
            "direct": node.follower.direct,
            "read": node.follower.read,
            **node.losses.stats(),
            "frozen": node.vigil.frozen,
        },
        **({"sites": node.sites.stats()} if node.sites is not None else {}),
        "visibility": {whose: delays.latest() for whose, delays in node.delays.items()},
        "engine": {
            "floors": len(cache.floors),
            "patterns": len(cache.floors.patterns),
            "readsJoined": counts.joined,
            "readsAgain": counts.again,
            "writes": cache.writes.combiner.items,
            "putsDone": cache.puts.done,
            "putsDropped": cache.puts.dropped,
        },
        "queues": _queues(cache),
        "loading": _loading(cache),
        "loaders": {name: _loader(supply) for name, supply in cache.reads.loads.supplies.items()},
        "feed": {"changes": len(node.feed), "bytes": node.feed.nbytes},
        "duties": {duty.name: {"held": duty.held, "failures": duty.failures} for duty in node.duties},
        "replay": replay_of(node),
        "jobs": {
            "running": node.runner.running,
            "resumed": node.runner.resumed,
            **node.runner.ended,
            JobState.CANCELLED.value: node.jobs.cancelled,
        },
        "audit": node.auditor.stats(),
        "revocations": len(node.revocations),
        "sweep": {"expired": node.sweeper.expired, "trimmed": node.sweeper.trimmed},
    }


def _tier(node: Node, name: str, stats: TierStats) -> dict[str, Any]:
    counts = node.cache.reads.counts
    below_memory = name != "memory"
    latencies = node.cache.reads.latencies.get(name)
    said: dict[str, Any] = {
        "hits": counts.hits.get(name, 0) if below_memory else stats.hits,
        "misses": counts.misses.get(name, 0) if below_memory else stats.misses,
        "entries": stats.entries,
        "bytes": stats.bytes,
        "evictions": stats.evictions,
        "latency": dict(latencies.percentiles()) if latencies is not None else {},
        **_breakers(node, name),
    }
    if stats.extra:
        said["extra"] = dict(stats.extra)
    return said


def _breakers(node: Node, name: str) -> dict[str, Any]:
    """Of a tier: how its breaker stands, whether it keeps callers away, how often it opened."""
    cache = node.cache
    if name == node.authority.name:
        reads, writes = cache.authority_reads, cache.authority_writes
        return {
            **_told(reads),
            "writesBreaker": writes.state,
            "writesBreakerOpen": writes.state != "closed",
            "writesBreakerOpened": writes.opened,
        }
    return _told(cache.breaker) if name == "redis" else {"breaker": "closed"}


def _loading(cache: Cache) -> dict[str, Any]:
    """What loads came to, and what was served without one."""
    loads, stale = cache.reads.loads, cache.reads.stale
    return {
        "waits": loads.counts.waits,
        "waiting": len(loads.room),
        "refreshes": loads.counts.refreshes,
        "leasesLost": loads.counts.leases_lost,
        "withoutLease": loads.leases.without,
        "negativeHits": stale.negative,
        "absences": len(stale.absences),
        "stale": {mark.value: stale.served[mark] for mark in (Mark.REVALIDATING, Mark.SLOW, Mark.FAILED)},
    }


def _loader(supply: Supply) -> dict[str, Any]:
    counts = {"calls": supply.calls, "loads": supply.loads, "loaded": supply.hits, "failures": supply.failures}
    return {**counts, **_told(supply.breaker)}


def _queues(cache: Cache) -> dict[str, dict[str, int]]:
    """What waits, by where it goes; `refused` since too much was waiting."""
    combiners: dict[str, list[Combiner[Any]]] = {**cache.reads.queues, "writes": [cache.writes.combiner]}
    queues = {
        name: {
            "pending": sum(map(len, among)),
            "bytes": sum(one.waiting for one in among),
            "refused": sum(one.refused for one in among),
            "batches": sum(one.batches for one in among),
        }
        for name, among in combiners.items()
    }
    return {**queues, "puts": {"pending": len(cache.puts), "bytes": cache.puts.waiting}}


def replay_of(node: Node) -> dict[str, Any] | None:
    """How far Redis has been replayed, as far as this node knows: whoever has the duty knows it now."""
    if node.replayer is None:
        return None
    counts, applied = node.replayer.counts, node.cache.applied
    at = counts.position
    told = {"replayed": counts.replayed, "restarted": counts.restarted, "position": str(at) if at else None}
    if at is not None and any(duty.name == "replay" and duty.held for duty in node.duties):
        told["partitionsBehind"] = counts.behind
        told["lag"] = max(0, applied.sequence - at.sequence) if at.epoch == applied.epoch else None
    return told


def _told(breaker: Breaker) -> dict[str, Any]:
    return {"breaker": breaker.state, "breakerOpen": breaker.state != "closed", "breakerOpened": breaker.opened}
