"""Eviction policies: hit ratios of `S3FIFO` and `LRU` over traces, each policy as the memory tier has it.

`BENCH_TRACES` names the files, parted by `:` (big-endian int32, one key a request, plain or `.xz`); without it one is made up,
by Zipf's law with scans of keys that are never asked for again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path
from random import Random

from cachesvc.clock import SystemClock
from cachesvc.model.entry import JSON, Entry
from cachesvc.model.keys import Key
from cachesvc.model.position import Version
from cachesvc.tiers.memory import EvictionPolicy, MemoryTier
from tests.bench.sides import Bounded
from tests.load.popularity import Zipf, read_trace

SHARES = (0.01, 0.05, 0.1)  # of the keys of a trace, that memory holds
WORSE = 0.02  # by so much a ratio may fall behind


async def policies(_: Path | None, rounds: int, seconds: float) -> list[Bounded]:
    files = [Path(name) for name in os.environ.get("BENCH_TRACES", "").split(":") if name]
    traces = {file.name.partition(".")[0]: read_trace(file) for file in files} or {"made up": made_up()}
    rows = []
    for name, requests in traces.items():
        many = len(set(requests))
        for share in SHARES:
            ours, theirs = (hit_ratio(policy, requests, int(many * share)) for policy in ("S3FIFO", "LRU"))
            work = f"hit ratio of S3FIFO, trace {name}, {len(requests):,} requests, memory for {share:.0%} of {many:,} keys"
            bound = f"LRU: {theirs:.2%}"
            rows.append(Bounded(work, f"{ours:.2%}", bound, ours / theirs, round((theirs - WORSE) / theirs, 2)))
    return rows


def hit_ratio(policy: EvictionPolicy, requests: Sequence[int], size: int) -> float:
    tier = MemoryTier(ttl=1e9, max_size=size, max_bytes=1 << 40, eviction_policy=policy, clock=SystemClock())
    names = {number: Key(str(number)) for number in set(requests)}
    hits = 0
    for number in requests:
        if tier.hit(names[number]) is not None:
            hits += 1
        else:
            tier.store(Entry(names[number], Version(1), b"", JSON, 0.0, 0.0, None, b""))
    return hits / len(requests)


def made_up(requests: int = 500_000, keys: int = 20_000, seed: int = 7) -> list[int]:
    rng = Random(seed)
    once = count(keys)
    found: list[int] = []
    popular = Zipf(keys, 0.9, seed=seed, prefix="").reads(rng)
    while len(found) < requests:
        found += [int(key) for key in islice(popular, 2_000)]
        found += islice(once, 200)
    return found
