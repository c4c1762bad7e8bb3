"""`make bench`: every row, both sides, as tables and plots. `--rows` picks some, `--records` takes an NDJSON file."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import uvloop

from cachesvc.node.__main__ import GARBAGE
from tests.bench import growth
from tests.bench.http import http
from tests.bench.operations import operations
from tests.bench.policies import policies
from tests.bench.realtime import realtime
from tests.bench.report import keep
from tests.bench.rows import ROWS as OTHERS
from tests.bench.sides import HEADER, Bounded, Curve, Missing, Row
from tests.bench.sites import sites
from tests.bench.syncs import syncs

ROWS: dict[str, Callable[[Path | None, int, float], Awaitable[Sequence[Row | Bounded | Missing | Curve]]]] = {
    "http": http,
    **OTHERS,
    "operations": operations,
    "realtime": realtime,
    "sync": syncs,
    "sites": sites,
    "policies": policies,
    "growth-memory": growth.of_memory,
    "growth-tiers": growth.of_tiers,
    "growth-entries": growth.of_entries,
    "growth-followers": growth.of_followers,
}


async def run(names: list[str], options: argparse.Namespace) -> None:
    print(HEADER)
    for name in names:
        rows = await ROWS[name](options.records, options.rounds, options.seconds)
        told = [row if isinstance(row, Curve) else row.line() for row in rows]
        if any(isinstance(row, Curve) for row in told):
            print(f"\n{Curve.HEADER}")
        print(*(row.markdown() for row in told), sep="\n", flush=True)
        keep(options.out, name, told, rounds=options.rounds, seconds=options.seconds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--records", type=Path, help="an NDJSON file of records; without it they are made up")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round, for each side")
    parser.add_argument("--out", type=Path, default=Path("reports/bench"), help="where tables and plots go")
    options = parser.parse_args()
    gc.set_threshold(*GARBAGE)  # as a worker does, and for both sides
    uvloop.run(run(options.rows, options))
    print(f"\nTables and plots: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
