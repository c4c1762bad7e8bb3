"""The digest sync as a row: `tests.bench.digests` tells more of it. `BENCH_KEYS` says over how many keys."""

from __future__ import annotations

from pathlib import Path

from tests.bench.digests import TOLD, fill
from tests.bench.operations import SIZE
from tests.bench.sides import Bounded
from tests.sites.network import network

DIFFERENCES = 10


async def syncs(_: Path | None, rounds: int, seconds: float) -> list[Bounded]:
    async with network("berlin", "oslo") as sites:
        berlin, oslo = sites["berlin"], sites["oslo"]
        for site in sites.values():
            fill(site.store, SIZE)
            await site.keeper.current()
        every = sum(len(key) + TOLD for key in oslo.store.rows_held)
        for key in list(berlin.store.rows_held)[:: SIZE // DIFFERENCES][:DIFFERENCES]:
            berlin.store.rows_held.pop(key)
            berlin.keeper.digest.put(key, None)
        report = await berlin.peers["oslo"].compare()
        if report.error or report.differing != DIFFERENCES:
            raise RuntimeError(f"found {report.differing} differences: {report.error}")
    moved = report.sent + report.received
    work = f"digest sync, {SIZE:,} keys, {DIFFERENCES} differences"
    return [Bounded(work, f"{moved:,} B", f"every key and version: {every:,} B", every / moved, 500)]
