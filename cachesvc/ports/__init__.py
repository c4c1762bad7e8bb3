"""The contracts between the engine and what it stands on. Nothing else is in here.

The deepest enabled level is the *authority*: `Authority` is its contract. The levels above it are *tiers*, derived, and may
be lost at any time. Every implementation passes the conformance suite of its contract, on the real server behind it.
"""

from __future__ import annotations

from cachesvc.ports.agenda import Agenda
from cachesvc.ports.authority import Authority, Burial, Listed
from cachesvc.ports.clock import Clock
from cachesvc.ports.jobs import Jobs
from cachesvc.ports.leases import LONGEST_LEASE, Leases
from cachesvc.ports.loaders import Loaded, Loader
from cachesvc.ports.log import ChangeLog, Retention, Standing, Trail
from cachesvc.ports.quotas import Drawn, Quotas
from cachesvc.ports.registry import NODES_KEPT, NodeRecord, Reached, Registry
from cachesvc.ports.sites import Followed, Link, Reply, SiteStore
from cachesvc.ports.tiers import Copy, Holding, Inspected, Mark, Memory, Replica, Source, Tier, TierStats

__all__ = [
    "LONGEST_LEASE",
    "NODES_KEPT",
    "Agenda",
    "Authority",
    "Burial",
    "ChangeLog",
    "Clock",
    "Copy",
    "Drawn",
    "Followed",
    "Holding",
    "Inspected",
    "Jobs",
    "Leases",
    "Link",
    "Listed",
    "Loaded",
    "Loader",
    "Mark",
    "Memory",
    "NodeRecord",
    "Quotas",
    "Reached",
    "Registry",
    "Replica",
    "Reply",
    "Retention",
    "SiteStore",
    "Source",
    "Standing",
    "Tier",
    "TierStats",
    "Trail",
]
