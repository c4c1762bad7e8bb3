"""Rates as the settings want them."""

from __future__ import annotations

from cachesvc.node.node import Node
from cachesvc.ports import Quotas
from cachesvc.realtime.rates import ADDRESS, CONNECTION, USER, Rate, RateLimits, Rates
from cachesvc.settings import Settings
from cachesvc.settings.rates import COSTS


def rates_of(settings: Settings, node: Node) -> Rates | None:
    """What counts callers, over Redis where that is a level, else over the authority; None where nothing is counted."""
    said = settings.rates
    if not said.enabled:
        return None
    scopes = {
        CONNECTION: Rate(said.connection_rate, said.connection_burst),
        USER: Rate(said.user_rate, said.user_burst),
        ADDRESS: Rate(said.address_rate, said.address_burst),
    }
    limits = RateLimits(
        {scope: rate for scope, rate in scopes.items() if rate.rate}, COSTS | said.costs, said.chunk, said.max_buckets
    )
    quotas: Quotas | None = None
    if node.redis is not None:
        quotas = node.redis.quotas
    elif isinstance(node.authority, Quotas):
        quotas = node.authority

    async def nodes() -> int:
        return len(await node.authority.nodes(seen_within=settings.cluster.gone_after))

    return Rates(limits, node.clock, quotas, nodes if quotas is not None else None)
