"""`make bench`: every row, both sides, as a Markdown table. `--rows` picks some, `--records` takes an NDJSON file."""

from __future__ import annotations

import argparse
import gc
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import uvloop

from cachesvc.node.__main__ import GARBAGE
from tests.bench import growth
from tests.bench.operations import operations
from tests.bench.realtime import realtime
from tests.bench.rows import ROWS as OTHERS
from tests.bench.sides import HEADER, Bounded, Row

ROWS: dict[str, Callable[[Path | None, int, float], Awaitable[Sequence[Row | Bounded | growth.Curve]]]] = {
    **OTHERS,
    "operations": operations,
    "realtime": realtime,
    "growth": growth.growth,
}


async def run(names: list[str], file: Path | None, rounds: int, seconds: float) -> str:
    lines = [HEADER]
    sys.stdout.write(HEADER + "\n")
    for name in names:
        if name == "growth":
            lines += ["", growth.HEADER]
            sys.stdout.write(f"\n{growth.HEADER}\n")
        for row in await ROWS[name](file, rounds, seconds):
            lines.append(row.markdown())
            sys.stdout.write(row.markdown() + "\n")
            sys.stdout.flush()
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--records", type=Path, help="an NDJSON file of records; without it they are made up")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round, for each side")
    parser.add_argument("--out", type=Path, help="where to write the table, besides the terminal")
    options = parser.parse_args()
    gc.set_threshold(*GARBAGE)  # as a worker does, and for both sides
    table = uvloop.run(run(options.rows, options.records, options.rounds, options.seconds))
    if options.out is not None:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(f"# Benchmarks\n\n{machine}. Medians of {options.rounds} rounds.\n\n{table}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
