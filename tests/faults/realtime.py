"""The scenario "realtime": two nodes over PostgreSQL and a Valkey that restart, and clients of their sockets that lose their
connections and come back to the other node. In the end each view is what is stored: nothing was told twice, nothing is missing.

The plan is a function of the seed; how it falls together is the machine's doing.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx
import orjson

from cachesvc.client import live
from cachesvc.client.errors import ClientError, Unknown
from cachesvc.client.live import LiveClient
from cachesvc.client.options import SessionOptions
from cachesvc.protocol.api import Invalidate
from tests import servers
from tests.faults import proxy
from tests.faults.audience import COUNTER, KEYS, KINDS, NEWS, NOTES, TASKS, Listener, Stored
from tests.faults.proxy import Proxy
from tests.faults.site import Machine

NODES: Final = 2
WRITERS: Final = 4
PEACE: Final = 60.0  # seconds after the last fault in which every view is to be whole
DROPS: Final = 6.0  # seconds from one drop of a client to its next, on average
AWAY: Final = 0.02  # of the drops: the client stays away, so long that it may find the log trimmed
LONGEST_AWAY: Final = 120.0  # seconds
PATIENCE: Final = LONGEST_AWAY + PEACE  # seconds for which a writer waits, who may be away himself
RESTARTS: Final = 8.0  # seconds from the return of a node to the next one's end
OPTIONS: Final = SessionOptions(first_pause=0.1, longest_pause=2.0)
SETTINGS: Final = {
    "cluster__heartbeat": "0.3",
    "cluster__lease": "1",
    "realtime__drain_spread": "1",
    "log__max_count": "1000",
    "levels__database__timeout": "1.5",
    "engine__request_timeout": "2.5",
}
Tell = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    seed: int
    seconds: float
    clients: int
    written: int = 0
    unknown: int = 0
    told: int = 0
    missed: int = 0
    drops: int = 0
    restarts: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    took: float = 0.0


@dataclass(slots=True)
class Stage:
    """Everything of a run: machines, the clients before them, and what was written."""

    outcome: Outcome
    machines: list[Machine]
    listeners: list[Listener]
    writers: list[tuple[LiveClient, Proxy]]
    http: httpx.AsyncClient
    over: asyncio.Event = field(default_factory=asyncio.Event)
    news: set[int] = field(default_factory=set)  # sequences of publications that were acknowledged
    added: int = 0  # increments that were acknowledged
    perhaps: int = 0  # that may have been carried out

    @property
    def proxies(self) -> list[Proxy]:
        return [*(listener.proxy for listener in self.listeners), *(before for _, before in self.writers)]

    async def stored(self) -> Stored:
        """What the authority has, by any node that is there."""
        while True:
            for machine in self.machines:
                with suppress(httpx.HTTPError, KeyError):
                    return await self._stored(f"http://127.0.0.1:{machine.port}")
            await asyncio.sleep(0.1)

    async def head(self) -> int:
        """Up to where any node that is there has applied the log."""
        found: list[int] = []
        while not found:
            for machine in self.machines:
                with suppress(httpx.HTTPError, KeyError):
                    answer = await self.http.get(f"http://127.0.0.1:{machine.port}/v1/stats")
                    found.append(orjson.loads(answer.content)["log"]["applied"])
            await asyncio.sleep(0.0 if found else 0.1)
        return max(found)

    async def _stored(self, url: str) -> Stored:
        found: dict[str, tuple[int, Any]] = {}
        for key in KEYS:
            answer = await self.http.get(f"{url}/v1/cache/{key}", headers={"Cache-Control": "no-cache"})
            if answer.status_code == 200:
                found[key] = int(answer.headers["ETag"].strip('"')), orjson.loads(answer.content)
            elif answer.status_code != 404:
                raise httpx.HTTPError(f"{answer.status_code}")
        return found


def run(seed: int, seconds: float, directory: Path, *, clients: int, rate: float, tell: Tell = lambda _: None) -> Outcome:
    """Start everything, drop and restart for `seconds` while `rate` changes a second are made, and check."""
    began = time.monotonic()
    outcome = Outcome(seed, seconds, clients)
    with ExitStack() as stack:
        postgres = stack.enter_context(servers.postgres())
        valkey = stack.enter_context(servers.valkey())
        settings = SETTINGS | {
            "levels__database__url": f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres",
            "levels__redis__url": f"redis://127.0.0.1:{valkey.port}",
        }
        machines = [Machine(directory / f"node-{number}", (), settings) for number in range(NODES)]
        tell(f"realtime: the stores are up after {time.monotonic() - began:.1f} s")
        try:
            asyncio.run(_run(machines, outcome, rate, tell))
        finally:
            for machine in machines:
                machine.kill()
                outcome.said += machine.said
    outcome.took = time.monotonic() - began
    return outcome


async def _run(machines: list[Machine], outcome: Outcome, rate: float, tell: Tell) -> None:
    async with asyncio.TaskGroup() as group:
        for machine in machines:
            group.create_task(asyncio.to_thread(machine.start))
    async with _staged(machines, outcome) as stage, asyncio.TaskGroup() as group:
        listening = [group.create_task(listener.listen()) for listener in stage.listeners]
        async with asyncio.timeout(PEACE):
            for listener in stage.listeners:
                await listener.ready.wait()
        tell(f"realtime: {len(machines)} nodes serve, {len(listening)} clients follow")
        await _disturb(stage, rate, tell)
        await _judge(stage)
        for task in listening:
            task.cancel()


@asynccontextmanager
async def _staged(machines: list[Machine], outcome: Outcome) -> AsyncIterator[Stage]:
    rng = Random(f"{outcome.seed} sockets")
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=5.0, trust_env=False))
        stage = Stage(outcome, machines, [], [], http)
        for number in range(outcome.clients + WRITERS):
            before = await stack.enter_async_context(proxy.opened(machines[number % len(machines)].port))
            client = await stack.enter_async_context(
                live.connected(f"http://127.0.0.1:{before.port}", options=OPTIONS, random=Random(rng.random()))
            )
            if number < outcome.clients:
                stage.listeners.append(Listener(number, client, before, stage.stored, stage.head))
            else:
                stage.writers.append((client, before))
        yield stage


async def _disturb(stage: Stage, rate: float, tell: Tell) -> None:
    """Writes, drops and restarts at once, for as long as the run is to last."""
    outcome = stage.outcome
    async with asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            group.create_task(_write(stage, number, pause=WRITERS / rate))
        for number, before in enumerate(stage.proxies):
            group.create_task(_drop(stage, number, before))
        group.create_task(_restart(stage))
        left = outcome.seconds
        while left > 0:
            await asyncio.sleep(min(left, 10.0))
            left -= 10.0
            told = sum(listener.told for listener in stage.listeners)
            missed = sum(listener.missed for listener in stage.listeners)
            tell(
                f"realtime: {max(left, 0):.0f} s left, {outcome.written} written, {told} told, {missed} told to read again,"
                f" {outcome.drops} drops, {len(outcome.restarts)} restarts"
            )
        stage.over.set()


async def _pause(stage: Stage, seconds: float) -> bool:
    """Whether the run goes on after so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stage.over.wait()
    return not stage.over.is_set()


async def _write(stage: Stage, number: int, *, pause: float) -> None:
    rng = Random(f"{stage.outcome.seed} writer {number}")
    client = stage.writers[number][0]
    count = 0
    while await _pause(stage, rng.expovariate(1 / pause)):
        count += 1
        key = rng.choice((*TASKS, *NOTES))
        value = {"kind": key[5] if key.startswith("task:") else KINDS[0], "by": number, "count": count}
        done = rng.random()
        try:
            if done < 0.6:
                await client.set(key, value, timeout=PATIENCE)
            elif done < 0.7:
                await client.delete(key, timeout=PATIENCE)
            elif done < 0.75:
                await client.invalidate(Invalidate(keys=rng.sample((*TASKS, *NOTES), 3)), timeout=PATIENCE)
            elif done < 0.85:
                await client.increment(COUNTER, timeout=PATIENCE)
                stage.added += 1
            else:
                stage.news.add(await client.publish(NEWS, value, timeout=PATIENCE))
            stage.outcome.written += 1
        except Unknown:
            stage.outcome.unknown += 1
            stage.perhaps += 0.75 <= done < 0.85
        except ClientError as error:
            stage.outcome.violations.append(f"writer {number}: {error!r}")


async def _drop(stage: Stage, number: int, before: Proxy) -> None:
    """A connection is lost again and again, at once or after a silence, and made anew to either node, now or later."""
    rng = Random(f"{stage.outcome.seed} drops {number}")
    while await _pause(stage, rng.expovariate(1 / DROPS)):
        if rng.random() < 0.3:
            before.hold()
            await _pause(stage, rng.uniform(0.1, 2.0))
        before.target = rng.choice(stage.machines).port
        before.refusing = rng.random() < AWAY
        before.cut()
        stage.outcome.drops += 1
        if before.refusing:
            await _pause(stage, rng.uniform(0.0, min(LONGEST_AWAY, stage.outcome.seconds / 2)))
        before.heal()


async def _restart(stage: Stage) -> None:
    """One node after the other is stopped as an operator does it, or killed, and started anew."""
    rng = Random(f"{stage.outcome.seed} restarts")
    began = time.monotonic()
    while await _pause(stage, rng.uniform(0.25, 1.0) * min(RESTARTS, stage.outcome.seconds / 3)):
        machine = rng.choice(stage.machines)
        way = rng.choice(("stopped", "killed"))
        at = time.monotonic() - began
        if way == "stopped" and machine.service is not None:
            machine.service.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(machine.service.process.wait, PEACE)
        await asyncio.to_thread(machine.kill)
        await _pause(stage, rng.uniform(0.0, 2.0))
        await asyncio.to_thread(machine.start)
        stage.outcome.restarts.append(f"{at:7.1f} s to {time.monotonic() - began:6.1f} s  {machine.directory.name} {way}")


async def _judge(stage: Stage) -> None:
    """All is mended: every view comes to be what is stored."""
    outcome = stage.outcome
    for before in stage.proxies:
        before.heal()
    stage.news.add(await stage.writers[0][0].publish(NEWS, "the end", timeout=PEACE))
    stored = await stage.stored()
    sum_ = stored.get(COUNTER, (0, 0))[1]
    if not stage.added <= sum_ <= stage.added + stage.perhaps:
        outcome.violations.append(f"increments are not exact: {sum_}, of {stage.added} and perhaps {stage.perhaps} more")
    lacking: Sequence[str] = ()
    try:
        async with asyncio.timeout(PEACE):
            for listener in stage.listeners:
                while lacking := listener.lacks(stored, stage.news):
                    listener.moved.clear()
                    await listener.moved.wait()
    except TimeoutError:
        outcome.violations += [text for listener in stage.listeners for text in listener.lacks(stored, stage.news)] or lacking
    for listener in stage.listeners:
        outcome.violations += listener.wrong
        outcome.told += listener.told
        outcome.missed += listener.missed


def replay(outcome: Outcome) -> str:
    """The command that carries out the same plan again."""
    return f"make faults SCENARIO=realtime SEED={outcome.seed} SECONDS={outcome.seconds:g} CLIENTS={outcome.clients}"


def report(outcome: Outcome) -> str:
    """What came of a run, as Markdown."""
    lines = [
        f"# Faults of the socket, seed {outcome.seed}, {outcome.seconds:g} s",
        "",
        f"{outcome.clients} clients, {outcome.written} changes ({outcome.unknown} of unknown outcome), {outcome.told} messages,"
        f" {outcome.missed} times told to read again, {outcome.drops} drops, {len(outcome.restarts)} restarts,"
        f" {len(outcome.violations)} violations; {outcome.took:.0f} s in all.",
        "",
        f"The same plan again: `{replay(outcome)}`",
        "",
        "## Violations",
        "",
        *([f"- {text}" for text in outcome.violations] or ["None."]),
        "",
        "## Restarts",
        "",
        "```",
        *outcome.restarts,
        "```",
        "",
    ]
    return "\n".join(lines)
