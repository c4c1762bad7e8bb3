"""Hit ratios of the policies: on a trace file where `TRACE_FILE` names one, else on a generated one.

The file holds the keys asked for, big-endian int32, packed by xz. Each policy is compared with a simulation that shares
nothing with it, and S3-FIFO with what its paper promises over LRU.
"""

from __future__ import annotations

import lzma
import os
import random
import sys
from array import array
from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import pytest

from cachesvc.model.entry import JSON, NO_CONTENT, Entry
from cachesvc.model.keys import Key
from cachesvc.model.position import Version
from cachesvc.tiers.memory import EvictionPolicy, MemoryTier
from tests.fakes import FakeClock

SHARES = [1, 5, 10]  # of the unique keys, in percent


@pytest.fixture(scope="module")
def trace() -> Sequence[int]:
    path = os.environ.get("TRACE_FILE")
    if path:
        keys = array("i")
        keys.frombytes(lzma.decompress(Path(path).read_bytes()))
        if sys.byteorder == "little":
            keys.byteswap()
        return keys
    # Zipf over 5,000 keys, and among them keys that are asked for once, as crawlers do
    chance = random.Random(7)
    weights = list(accumulate(1 / rank**0.9 for rank in range(1, 5_001)))
    popular = chance.choices(range(5_000), cum_weights=weights, k=40_000)
    return [key if chance.random() < 0.8 else 5_000 + place for place, key in enumerate(popular)]


def size_of(trace: Sequence[int], share: int) -> int:
    return len(set(trace)) * share // 100


def measured(trace: Sequence[int], policy: EvictionPolicy, size: int) -> float:
    """The share of the requests that the tier answers when every miss is stored, in percent."""
    clock = FakeClock()
    tier = MemoryTier(ttl=300.0, max_size=size, max_bytes=1 << 30, eviction_policy=policy, clock=clock)
    now = clock.now()
    hits = 0
    for number in trace:
        key = Key(str(number))
        if tier.hit(key) is not None:
            hits += 1
        else:
            tier.store(Entry(key, Version(1), b"", JSON, now, now, None, NO_CONTENT))
    return 100 * hits / len(trace)


def simulated_lru(trace: Sequence[int], size: int) -> float:
    hits, held = 0, OrderedDict[int, None]()
    for key in trace:
        if key in held:
            hits += 1
            held.move_to_end(key)
        else:
            if len(held) == size:
                held.popitem(last=False)
            held[key] = None
    return 100 * hits / len(trace)


def simulated_fifo(trace: Sequence[int], size: int) -> float:
    hits, held, order = 0, set[int](), deque[int]()
    for key in trace:
        if key in held:
            hits += 1
        else:
            if len(held) == size:
                held.remove(order.popleft())
            held.add(key)
            order.append(key)
    return 100 * hits / len(trace)


@pytest.mark.parametrize("share", SHARES)
def test_lru_hits_what_a_simulation_hits(trace: Sequence[int], share: int) -> None:
    size = size_of(trace, share)
    assert measured(trace, "LRU", size) == simulated_lru(trace, size)


@pytest.mark.parametrize("share", SHARES)
def test_fifo_hits_what_a_simulation_hits(trace: Sequence[int], share: int) -> None:
    size = size_of(trace, share)
    assert measured(trace, "FIFO", size) == simulated_fifo(trace, size)


@pytest.mark.parametrize("share", SHARES)
def test_s3fifo_beats_lru_by_a_point(trace: Sequence[int], share: int) -> None:
    size = size_of(trace, share)
    assert measured(trace, "S3FIFO", size) > simulated_lru(trace, size) + 1.0


@pytest.mark.skipif(not os.environ.get("TRACE_FILE", "").endswith("web07.trace.xz"), reason="needs TRACE_FILE=…/web07.trace.xz")
@pytest.mark.parametrize(
    ("share", "policy", "ratio"),
    [
        (1, "FIFO", 36.32),
        (5, "FIFO", 47.88),
        (10, "FIFO", 53.12),
        (1, "LRU", 39.17),
        (5, "LRU", 50.56),
        (10, "LRU", 55.66),
        (1, "S3FIFO", 43.83),
        (5, "S3FIFO", 54.22),
        (10, "S3FIFO", 58.12),
    ],
)
def test_web07_is_hit_as_often_as_published(trace: Sequence[int], share: int, policy: EvictionPolicy, ratio: float) -> None:
    """Against a reference simulation, within half a point."""
    assert measured(trace, policy, size_of(trace, share)) == pytest.approx(ratio, abs=0.5)
