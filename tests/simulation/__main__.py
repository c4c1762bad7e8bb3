"""`python -m tests.simulation [--out DIR]`: figures of large worlds, as Markdown, and as curves in DIR."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench.plots import curves
from tests.bench.sides import Curve
from tests.simulation.scenarios import healed, repaired, spread, taken_over
from tests.simulation.time import run

SITES: Final = (2, 5, 10, 20)
NODES: Final = 100  # of all sites together
KEYS: Final = (1_000, 10_000, 100_000)
DIFFERENCES: Final = (1, 10, 100, 1_000)
WRITES: Final = (10, 100)


def by_sites(seed: int) -> list[Curve]:
    time = Curve("all sites have what each wrote", f"sites, {NODES} nodes in all", "s", "log")
    size = Curve("bytes of a write, for each site that gets it", "sites", "B", "log")
    for sites in SITES:
        cost = run(spread(seed, sites, NODES // sites))
        time.points.append((sites, cost.seconds))
        size.points.append((sites, cost.carried / (10 * sites * (sites - 1))))
    return [time, size]


def by_keys(seed: int) -> list[Curve]:
    found = Curve("10 differences are found and repaired", "keys", "B", "linear")
    rounds = Curve("the same, messages", "keys", "", "log")
    for keys in KEYS:
        cost = run(repaired(seed, keys, 10))
        found.points.append((keys, cost.carried))
        rounds.points.append((keys, cost.messages))
    return [found, rounds]


def by_differences(seed: int) -> list[Curve]:
    size = Curve("differences among 100,000 keys are repaired", "differences", "B", "linear")
    time = Curve("the same", "differences", "s", "linear")
    for differences in DIFFERENCES:
        cost = run(repaired(seed, 100_000, differences))
        size.points.append((differences, cost.carried))
        time.points.append((differences, cost.seconds))
    return [size, time]


def by_writes(seed: int) -> list[Curve]:
    time = Curve("3 sites are equal after an hour apart", "writes of each meanwhile", "s", "linear")
    for writes in WRITES:
        time.points.append((2 * writes, run(healed(seed, 3, 2, apart=3_600.0, writes=writes)).seconds))
    return [time]


def by_nodes(seed: int) -> list[Curve]:
    noticed = Curve("a dead node is known to be gone", "nodes of its site", "s", "log")
    followed = Curve("another has its duty, and follows", "nodes of its site", "s", "log")
    for nodes in (2, 10, 50, 100):
        times = [run(taken_over(seed + number, nodes)) for number in range(3)]
        noticed.points.append((nodes, median(time for time, _ in times)))
        followed.points.append((nodes, median(time for _, time in times)))
    return [noticed, followed]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where to write simulation.md and simulation.svg")
    asked = parser.parse_args(arguments)
    found: list[Curve] = []
    print(Curve.HEADER)
    for measure in (by_sites, by_keys, by_differences, by_writes, by_nodes):
        for curve in measure(asked.seed):
            print(curve.markdown(), flush=True)
            found.append(curve)
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        text = "\n".join([Curve.HEADER, *(curve.markdown() for curve in found)])
        (asked.out / "simulation.md").write_text(f"# Simulation, seed {asked.seed}\n\n{text}\n")
        (asked.out / "simulation.svg").write_text(curves(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
