"""A run: a site, its clients and its nemesis; then peace, the last reads, and the verdict.

The verdict is of the history alone; that nodes come back at all within `PEACE` seconds is demanded here.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from tests.faults import site as sites
from tests.faults.checker import Violation, Wrong, check, repaired
from tests.faults.client import Client
from tests.faults.connection import Connection, Lost, NotSent
from tests.faults.history import Kind, Mode, Op, Outcome, ended
from tests.faults.nemesis import Nemesis
from tests.faults.plan import CLIENTS, KEYS, Action, Stores, Trouble, Wish, troubles, wishes
from tests.faults.site import Machine, Site

PEACE: Final = 60.0  # seconds after the last fault in which every node is ready and every outcome found out
_CONNECTS: Final = 400  # until each worker of a service has accepted one
Tell = Callable[[str], None]


@dataclass(slots=True)
class Result:
    """What came of a run."""

    stores: Stores
    seed: int
    seconds: float
    history: list[Op] = field(default_factory=list)
    troubles: list[tuple[float, float, Trouble]] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # by the services
    audited: Counter[str] = field(default_factory=Counter)  # entries at rest, by tier
    took: float = 0.0

    def outcomes(self) -> Counter[tuple[Kind, Outcome]]:
        return ended(self.history)


def run(stores: Stores, seed: int, seconds: float, directory: Path, *, rate: float, tell: Tell = lambda _: None) -> Result:
    """Start everything, let clients and nemesis at it for `seconds`, and check. `rate`: operations a second, of all clients."""
    began = time.monotonic()
    result = Result(stores, seed, seconds)
    with ExitStack() as stack:
        started = stack.enter_context(sites.started_stores(stores))
        tell(f"{stores}: the stores are up after {time.monotonic() - began:.1f} s")
        asyncio.run(_run(started, result, directory, rate, tell))
    result.violations += check(result.history)
    result.violations += repaired(result.said)
    result.took = time.monotonic() - began
    return result


async def _run(started: sites.Servers, result: Result, directory: Path, rate: float, tell: Tell) -> None:
    site: Site | None = None
    try:
        async with sites.opened(started, directory) as site:
            tell(f"{result.stores}: {len(site.lives())} nodes serve")
            await _over(site, result, Nemesis(site, directory, time.monotonic(), record=result.history.append), rate, tell)
    finally:
        result.said = [line for machine in site.machines for line in machine.said] if site is not None else []


async def _over(site: Site, result: Result, nemesis: Nemesis, rate: float, tell: Tell) -> None:
    """War, and peace."""
    try:
        await witnessed(site, result, rate, lambda: _disturb(result, nemesis, tell))
    finally:
        result.troubles = sorted(nemesis.told, key=lambda told: told[0])
    tell(f"{result.stores}: at rest, {len(result.history)} operations")


async def witnessed(site: Site, result: Result, rate: float, trouble: Callable[[], Awaitable[None]]) -> None:
    """Clients at work until the trouble is over, then the last reads and audits, all into the result."""
    clients = await _clients(site, result)
    over = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            for client in clients:
                asked = wishes(result.seed, client.number, len(site.nodes), pause=len(clients) / rate)
                group.create_task(client.work(asked, over))
            await trouble()
            over.set()
        await until_ready(site)
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.settle(within=PEACE))
        await _read_all(site, result)
        await _audit_all(site, result)
    except TimeoutError as exc:
        result.violations.append(Violation(Wrong.AWAY, f"not every node was ready within {PEACE:g} s: {exc}"))
    finally:
        for client in clients:
            client.close()


async def _clients(site: Site, result: Result) -> list[Client]:
    probe = Connection(site.machines[0].port, site.machines[0].whose)
    answer = await probe.ask(
        "POST", "/v1/invalidate", {"Content-Type": "application/json"}, orjson.dumps({"pattern": "none:*"}), within=10.0
    )
    probe.close()
    word = secrets.token_hex(4)
    return [
        Client(
            number,
            [Connection(machine.port, machine.whose) for machine, _ in site.nodes],
            result.history.append,
            run=word,
            invalidates=answer.status < 300,
        )
        for number in range(CLIENTS)
    ]


async def _disturb(result: Result, nemesis: Nemesis, tell: Tell) -> None:
    """All that the nemesis has planned, for as long as the run is to last."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for lane in troubles(result.seed, result.stores, result.seconds):
            group.create_task(nemesis.work(lane, over))
        left = result.seconds
        while left > 0:
            await asyncio.sleep(min(left, 10.0))
            left -= 10.0
            done = sum(op.outcome is Outcome.OK for op in result.history)
            answered = f"{done} of {len(result.history)} answered"
            tell(f"{result.stores}: {max(left, 0):.0f} s left, {answered}, {len(nemesis.told)} faults")
        over.set()


async def until_ready(site: Site) -> None:
    """Until every node follows the log and believes Redis again."""
    async with asyncio.timeout(PEACE):
        for machine in site.machines:
            for connection in await _each_node(machine, _per_machine(site)):
                while not await _is_ready(connection):
                    await asyncio.sleep(0.05)
                connection.close()


def _per_machine(site: Site) -> int:
    return len(site.nodes) // len(site.machines)


async def _is_ready(connection: Connection) -> bool:
    try:
        answer = await connection.ask("GET", "/readyz", within=5.0)
    except (NotSent, Lost):
        return False
    parts: dict[str, str] = orjson.loads(answer.body)["tiers"]
    return answer.status == 200 and set(parts.values()) == {"ok"}


async def _each_node(machine: Machine, count: int) -> list[Connection]:
    """A connection to each worker of a service: the kernel deals them out, so more are opened than are kept."""
    found: dict[str, Connection] = {}
    for _ in range(_CONNECTS):
        connection = Connection(machine.port, machine.whose)
        try:
            answer = await connection.ask("GET", "/healthz", within=5.0)
        except (NotSent, Lost):
            await asyncio.sleep(0.05)
            continue
        if answer.node and answer.status == 200 and answer.node not in found:
            found[answer.node] = connection
        else:
            connection.close()
        if len(found) == count:
            return list(found.values())
    raise TimeoutError(f"only {len(found)} of {count} nodes of a service accepted a connection")


async def _read_all(site: Site, result: Result) -> None:
    """Every key on every node: from the authority, as it comes (twice, so that memory is passed by), and from the authority."""
    readers = []
    for machine in site.machines:
        for connection in await _each_node(machine, _per_machine(site)):
            readers.append(Client(-1, [connection], result.history.append, run="", invalidates=False))
    marker = await readers[0].put("marker")  # who has applied that has applied all
    for mode in (Mode.FRESH, Mode.FINAL, Mode.FINAL, Mode.FRESH):
        for place, reader in enumerate(readers):
            if mode is Mode.FINAL:
                await reader.read(_wish(place, "marker"), Mode.LEAST, least=marker)
            for key in KEYS:
                await reader.read(_wish(place, key), mode)
    for reader in readers:
        reader.close()


async def _audit_all(site: Site, result: Result) -> None:
    """What all tiers of all nodes hold is what the authority has."""
    for machine in site.machines:
        for connection in await _each_node(machine, _per_machine(site)):
            answer = await connection.ask("POST", "/v1/sync", within=PEACE)
            told = orjson.loads(answer.body)
            for tier, report in told.get("tiers", {}).items():
                if report["error"] or report["undecided"] or not report["whole"]:
                    result.violations.append(Violation(Wrong.ODD, f"an audit at rest came to no end: {tier}: {report}"))
                result.audited[tier] += report["audited"]
            connection.close()


def _wish(number: int, key: str) -> Wish:
    return Wish(number, Action.READ, key, 0, False, 0.0)


def replay(stores: Stores, seed: int, seconds: float) -> str:
    """The command that carries out the same plan again."""
    return f"make faults STORES={stores} SEED={seed} SECONDS={seconds:g}"


def plan_text(result: Result) -> Iterator[str]:
    """The faults of a run, a line each."""
    for start, end, trouble in result.troubles:
        yield f"{start:7.1f} s to {end:6.1f} s  {trouble.fault}"
