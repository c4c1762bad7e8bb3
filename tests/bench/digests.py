"""Digests of two sites: what comparing them moves, against telling every key with its version.

`python -m tests.bench.digests [KEYS]` prints a row for each number of differences.
"""

from __future__ import annotations

import asyncio
import sys
import time

from cachesvc.model.entry import JSON, Entry, Origin, content_hash
from cachesvc.model.keys import Key
from cachesvc.model.position import Seq, Version
from tests.sites.network import Store, network

DIFFERENCES = (0, 10, 1_000)
TOLD = 8  # bytes of a version, beside its key


def fill(store: Store, count: int) -> None:
    digest = content_hash(JSON, b"1")
    at = store.clock.now()
    for number in range(count):
        key = Key(f"task:{number:07d}")
        store.rows_held[key] = Entry(
            key,
            Version(10 + number),
            b"1",
            JSON,
            at,
            at,
            at + 86_400.0,
            digest,
            origin=Origin("oslo", Seq(10 + number)),
            vector=(("oslo", 10 + number),),
        )


async def measured(count: int) -> None:
    async with network("berlin", "oslo") as sites:
        berlin, oslo = sites["berlin"], sites["oslo"]
        for site in sites.values():
            fill(site.store, count)
        began = time.perf_counter()
        await berlin.keeper.current()
        built = time.perf_counter() - began
        await oslo.keeper.current()
        print(f"{count:,} keys: the tree is built in {built:.1f} s, {built / count * 1e6:.1f} µs a key")
        every = sum(len(key) + TOLD for key in berlin.store.rows_held)
        for differences in DIFFERENCES:
            for number in range(differences):
                key = Key(f"task:{number * (count // max(1, differences)):07d}")
                berlin.store.rows_held.pop(key)
                berlin.keeper.digest.put(key, None)
            began = time.perf_counter()
            report = await berlin.peers["oslo"].compare()
            seconds = time.perf_counter() - began
            assert (report.differing, report.error) == (differences, ""), report
            moved = report.sent + report.received
            print(
                f"{differences:>6,} differ: {report.rounds} rounds, {moved:,} bytes with the entries, "
                f"{every / moved:,.0f} times less than every key and version ({every:,}); {seconds:.2f} s"
            )


if __name__ == "__main__":
    asyncio.run(measured(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
