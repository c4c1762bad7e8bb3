"""A run over sites: clients, faults, then peace, until the sites say that they are equal; then the verdict.

The verdict is of what the sites' databases have, of their logs, and of what clients were told.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx

from tests.faults.client import Client
from tests.faults.connection import Connection
from tests.faults.history import Kind, Op, Outcome, ended_table
from tests.faults.nemesis import Nemesis
from tests.faults.plan import Stores, Trouble, wishes
from tests.faults.run import until_ready
from tests.faults.site import Servers, Site
from tests.faults.sites import league as leagues
from tests.faults.sites.judge import Verdict, counted, judged
from tests.faults.sites.league import League
from tests.faults.sites.plan import CLIENTS, COUNTERS, HABITS, KEYS, NAMES, NODES, RATE, Break, breaks, troubles

PEACE: Final = 90.0  # seconds after the last fault in which all sites are to be equal
DIFFERED: Final = "differed from those of the site"  # what a site says that repaired what should not have been wrong
COUNTED: Final = ("taken", "conflicts", "started_over", "connections", "synced", "repaired")
Tell = Callable[[str], None]


@dataclass(slots=True)
class Outcomes:
    """What came of a run."""

    seed: int
    seconds: float
    names: Sequence[str]
    stores: Stores
    history: list[Op] = field(default_factory=list)
    lines: list[tuple[float, float, Break]] = field(default_factory=list)
    troubles: dict[str, list[tuple[float, float, Trouble]]] = field(default_factory=dict)
    carried: dict[tuple[str, str], int] = field(default_factory=dict)  # bytes, by who asks and whom
    counts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    reports: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)  # of comparing, after the faults
    equal_after: float = 0.0  # seconds, from the last fault
    verdict: Verdict = field(default_factory=Verdict)
    violations: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    took: float = 0.0


def run(
    seed: int,
    seconds: float,
    directory: Path,
    *,
    names: Sequence[str] = NAMES,
    stores: Stores = Stores.POSTGRES,
    tell: Tell = lambda _: None,
) -> Outcomes:
    """Start everything, break it for `seconds` while clients of all sites are at work, and judge."""
    began = time.monotonic()
    outcomes = Outcomes(seed, seconds, names, stores)
    with leagues.started_stores(names, stores) as started:
        tell(f"sites: the stores are up after {time.monotonic() - began:.1f} s")
        asyncio.run(_run(started, outcomes, directory, tell))
    outcomes.violations += outcomes.verdict.wrong
    outcomes.violations += [line for line in outcomes.said if DIFFERED in line]
    outcomes.took = time.monotonic() - began
    return outcomes


async def _run(stores: dict[str, Servers], outcomes: Outcomes, directory: Path, tell: Tell) -> None:
    league: League | None = None
    try:
        async with leagues.opened(stores, directory) as league:
            tell(f"sites: {sum(len(site.nodes) for site in league.sites.values())} nodes serve")
            await _over(league, outcomes, directory, tell)
    finally:
        if league is not None:
            machines = [(name, machine) for name, site in league.sites.items() for machine in site.machines]
            outcomes.said = [f"{name} {line}" for name, machine in machines for line in machine.said]
            outcomes.lines = sorted(league.told, key=lambda told: told[0])


async def _over(league: League, outcomes: Outcomes, directory: Path, tell: Tell) -> None:
    """War, peace, and the verdict."""
    over, read = asyncio.Event(), asyncio.Event()
    clients = _clients(league, outcomes)
    counts = _Counts(league)
    async with asyncio.TaskGroup() as reading:
        for records in league.records.values():
            reading.create_task(records.follow(read))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(counts.watch(over))
                for client in clients:
                    group.create_task(
                        client.work(wishes(outcomes.seed, client.number, NODES, pause=len(clients) / RATE, habits=HABITS), over)
                    )
                await _disturb(league, outcomes, directory, over, tell)
            await _come_to_rest(league, outcomes, clients, tell)
        finally:
            read.set()
            for client in clients:
                client.close()
    await counts.look()
    outcomes.counts, outcomes.carried = counts.total, {pair: line.carried for pair, line in league.lines.items()}
    for records in league.records.values():
        await records.finish()
    site_of = {client.number: outcomes.names[client.number // CLIENTS] for client in clients}
    outcomes.verdict = judged(league.records, outcomes.history, site_of=site_of, keys=KEYS)
    outcomes.verdict.wrong += counted(league.records, outcomes.history, COUNTERS)
    outcomes.verdict.wrong += await _read_all(league)


def _clients(league: League, outcomes: Outcomes) -> list[Client]:
    word = secrets.token_hex(4)
    return [
        Client(
            number,
            [Connection(machine.port, machine.whose) for machine, _ in league.sites[name].nodes],
            outcomes.history.append,
            run=word,
            invalidates=False,
        )
        for place, name in enumerate(outcomes.names)
        for number in range(place * CLIENTS, (place + 1) * CLIENTS)
    ]


async def _disturb(league: League, outcomes: Outcomes, directory: Path, over: asyncio.Event, tell: Tell) -> None:
    """All that is planned, for as long as the run is to last."""
    began = time.monotonic()
    nemeses = {name: Nemesis(site, directory / name, began) for name, site in league.sites.items()}
    try:
        async with asyncio.TaskGroup() as group:
            for lane in breaks(outcomes.seed, outcomes.names, outcomes.seconds):
                group.create_task(league.break_lines(lane, over, began, Random(f"{outcomes.seed} targets")))
            for name, nemesis in nemeses.items():
                group.create_task(nemesis.work(troubles(outcomes.seed, name, outcomes.stores, outcomes.seconds), over))
            left = outcomes.seconds
            while left > 0:
                await asyncio.sleep(min(left, 10.0))
                left -= 10.0
                done = sum(op.outcome is Outcome.OK for op in outcomes.history)
                faults = len(league.told) + sum(len(nemesis.told) for nemesis in nemeses.values())
                tell(f"sites: {max(left, 0):.0f} s left, {done} of {len(outcomes.history)} answered, {faults} faults")
            over.set()
    finally:
        outcomes.troubles = {name: nemesis.told for name, nemesis in nemeses.items()}


async def _come_to_rest(league: League, outcomes: Outcomes, clients: list[Client], tell: Tell) -> None:
    """All is mended, what was asked for is found out, and the sites compare themselves until they are equal."""
    began = time.monotonic()
    league.heal()
    try:
        async with asyncio.timeout(PEACE):
            for site in league.sites.values():
                await until_ready(site)
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(client.settle(within=PEACE))
            async with httpx.AsyncClient(timeout=10.0, trust_env=False) as http:
                while not await _equal(league, outcomes, http):
                    pass
        outcomes.equal_after = time.monotonic() - began
        tell(f"sites: equal {outcomes.equal_after:.1f} s after the last fault")
    except TimeoutError:
        last = {f"{asker} to {told}": reports[-1] for (asker, told), reports in outcomes.reports.items()}
        outcomes.violations.append(f"the sites are not equal {PEACE:g} s after the last fault: {last}")


async def _equal(league: League, outcomes: Outcomes, http: httpx.AsyncClient) -> bool:
    """Whether each, asked to compare itself with each other, finds nothing."""
    equal = True
    for asker, told in league.lines:
        report = await _compared(league.sites[asker], told, http)
        if report is None:
            equal = False
            await asyncio.sleep(0.5)
            continue
        outcomes.reports.setdefault((asker, told), []).append(report)
        equal = equal and not report["differing"] and not report["error"]
    return equal


async def _compared(site: Site, told: str, http: httpx.AsyncClient) -> dict[str, Any] | None:
    with suppress(httpx.HTTPError, KeyError):
        answer = await http.post(f"http://127.0.0.1:{site.machines[0].port}/v1/sync", json={"sites": [told]})
        if answer.status_code == 200:
            found: dict[str, Any] = answer.json()["sites"][told]
            return found
    return None


async def _read_all(league: League) -> list[str]:
    """Every key at every node: it serves what its database has."""
    wrong: list[str] = []
    async with httpx.AsyncClient(timeout=10.0, trust_env=False) as http:
        for name, site in league.sites.items():
            for machine in site.machines:
                for key in KEYS:
                    answer = await http.get(f"http://127.0.0.1:{machine.port}/v1/cache/{key}")
                    row = league.records[name].rows.get(key)
                    has = row.value if row is not None and not row.deleted else None
                    found = answer.content if answer.status_code == 200 else None
                    if found != has:
                        wrong.append(f"{key}: {name}'s {machine.directory.name} serves {found!r}, its database has {has!r}")
    return wrong


class _Counts:
    """What the nodes count of the other sites, although they are killed: what each had when it was looked at last."""

    def __init__(self, league: League) -> None:
        self._league = league
        self._latest: dict[tuple[str, str, str], dict[str, float]] = {}

    async def watch(self, until: asyncio.Event) -> None:
        while not until.is_set():
            await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await until.wait()

    async def look(self) -> None:
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as http:
            for name, site in self._league.sites.items():
                for machine in site.machines:
                    with suppress(httpx.HTTPError, KeyError):
                        stats = (await http.get(f"http://127.0.0.1:{machine.port}/v1/stats")).json()
                        for peer, counts in stats["sites"]["peers"].items():
                            self._latest[name, peer, stats["node"]] = counts

    @property
    def total(self) -> dict[tuple[str, str], Counter[str]]:
        total: dict[tuple[str, str], Counter[str]] = {pair: Counter() for pair in self._league.lines}
        for (name, peer, _), counts in self._latest.items():
            total[name, peer].update({what: int(counts[what]) for what in COUNTED})
        return total


def replay(outcomes: Outcomes) -> str:
    """The command that carries out the same plan again."""
    return f"make faults SCENARIO=sites SEED={outcomes.seed} SECONDS={outcomes.seconds:g}"


def report(outcomes: Outcomes) -> str:
    """What came of a run, as Markdown."""
    verdict = outcomes.verdict
    faults = sorted(
        chain(
            ((start, end, f"{one.fault} ({one.asker}, {one.told})") for start, end, one in outcomes.lines),
            (
                (start, end, f"{name}: {trouble.fault}")
                for name, told in outcomes.troubles.items()
                for start, end, trouble in told
            ),
        )
    )
    lines = [
        f"# Faults of sites, seed {outcomes.seed}, {outcomes.seconds:g} s",
        "",
        f"{len(outcomes.names)} sites, {len(outcomes.history)} operations, {len(faults)} faults,"
        f" {len(outcomes.violations)} violations; equal {outcomes.equal_after:.1f} s after the last fault;"
        f" {outcomes.took:.0f} s in all.",
        "",
        f"The same plan again: `{replay(outcomes)}`",
        "",
        *ended_table(outcomes.history, (Kind.READ, Kind.SET, Kind.DELETE, Kind.INCREMENT)),
        "",
        f"Of the acknowledged sets and deletions {verdict.replaced} were replaced by writes that knew of them, {verdict.stands}"
        f" stand, {verdict.loser} are kept beside what stands.",
        "",
        "## What was moved",
        "",
        "All bytes of the lines, both ways; the counts as the nodes had them when last looked at, before they were killed.",
        "",
        "| who asks whom | bytes | " + " | ".join(what.replace("_", " ") for what in COUNTED) + " |",
        "|---|---|" + "---|" * len(COUNTED),
        *(
            f"| {asker} → {told} | {outcomes.carried[asker, told]:,} | "
            + " | ".join(str(outcomes.counts[asker, told][what]) for what in COUNTED)
            + " |"
            for asker, told in outcomes.carried
        ),
        "",
        "Compared when all was mended:",
        "",
        "| who asks whom | entries | differing | repaired | rounds | bytes | seconds | error |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {asker} → {told} | {one['entries']} | {one['differing']} | {one['repaired']} | {one['rounds']} |"
            f" {one['sentBytes'] + one['receivedBytes']:,} | {one['seconds']:.3f} | {one['error'] or ''} |"
            for (asker, told), reports in outcomes.reports.items()
            for one in reports
        ),
        "",
        "## Violations",
        "",
        *([f"- {text}" for text in outcomes.violations] or ["None."]),
        "",
        "## Faults",
        "",
        "```",
        *(f"{start:7.1f} s to {end:6.1f} s  {text}" for start, end, text in faults),
        "```",
        "",
    ]
    return "\n".join(lines)
