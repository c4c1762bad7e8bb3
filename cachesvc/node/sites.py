"""Other sites, as the settings name them."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any

from cachesvc.clock import SystemClock
from cachesvc.cluster.feed import Feed
from cachesvc.cluster.losses import Losses
from cachesvc.engine.cache import Cache
from cachesvc.model.merging import fingerprint
from cachesvc.node.batches import new_batch
from cachesvc.node.live import policies_of
from cachesvc.node.site_link import opened
from cachesvc.ports import Authority
from cachesvc.settings import Settings
from cachesvc.sites.intake import IntakeLimits
from cachesvc.sites.keeper import Keeper
from cachesvc.sites.links import Links
from cachesvc.sites.own import OwnSite
from cachesvc.sites.peer import Peer, PeerLimits
from cachesvc.sites.teller import Teller
from cachesvc.sites.witness import Witness


def own_site(
    settings: Settings, authority: Authority, cache: Cache, feed: Feed, *, losses: Losses, clock: SystemClock
) -> OwnSite | None:
    """This site among the others; None where there are none."""
    own, named = settings.cluster.site, settings.sites
    if not named.peers:
        return None
    from cachesvc.logs.database import DatabaseAuthority  # noqa: PLC0415 - imported already, where there are other sites

    assert isinstance(authority, DatabaseAuthority)  # the settings have been checked
    policies = fingerprint(policies_of(settings.conflicts))
    keeper = Keeper(authority, feed, clock, site=own, idle=named.digest_idle)
    witness = Witness(authority, feed, losses, clock, site=own, ahead=named.max_ahead)
    limits = PeerLimits(
        named.interval,
        named.bandwidth,
        settings.levels.database.tombstone_ttl,
        IntakeLimits(named.max_ahead, named.max_held, named.max_held_bytes),
    )
    peers = [
        Peer(
            name,
            partial(opened, name, peer.url, peer.secret, site=own),
            authority,
            cache,
            clock,
            keeper=keeper,
            witness=witness,
            site=own,
            others=tuple(other for other in named.peers if other != name),
            limits=limits,
            policies=policies,
        )
        for name, peer in named.peers.items()
    ]
    teller = Teller(
        authority,
        feed,
        keeper,
        clock,
        witness=witness,
        site=own,
        peers=frozenset(named.peers),
        new_id=new_batch,
        policies=policies,
    )
    return OwnSite(own, keeper, teller, Links(peers, clock, lease=settings.cluster.lease))


def running(site: OwnSite) -> list[Coroutine[Any, Any, None]]:
    """What must run in the background for them."""
    return [site.keeper.run(), site.links.run(), site.links.serve()]
