"""Load terms: how a module's loader is called, and what of it may be served when.

Everything here is given; what the engine makes of it is in `loading.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cachesvc.model.policy import Policy
from cachesvc.ports import Leases


@dataclass(frozen=True, slots=True)
class LoadTerms:
    """Of one loader. Seconds; `ttl` is the life of what it gives without one, None for the authority's own default.

    Past `soft_timeout` a caller who may have stale content gets it; past `hard_timeout` the load is given up. At most
    `concurrency` calls of up to `batch` keys are under way on a node.
    """

    soft_timeout: float = 0.5
    hard_timeout: float = 5.0
    concurrency: int = 4
    batch: int = 512
    ttl: float | None = None
    ttl_jitter: float = 0.0  # share of the ttl that is taken off at random
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, slots=True)
class Loading:
    """Of a node: the terms of each module that has a loader, the policy of those that have none, and what loads stand on.

    `leases` are asked before the authority's. `holder` is this node's name; `random()` is in [0, 1).
    """

    terms: Mapping[str, LoadTerms] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    leases: Leases | None = None
    holder: str = "node"
    random: Callable[[], float] = lambda: 0.0
    max_absences: int = 100_000
