"""Goodput against offered load, up to four times what saturates a node, with Redis healthy, slow and dead.

The node is a process over PostgreSQL and Valkey, the crowd another one, and what they tell is compared within one run. Only the
proxy in front of Valkey is in this process; memory hits do not pass through it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from tests import servers
from tests.bench.offered import Mix, Told, told
from tests.bench.sides import Bounded
from tests.e2e.services import started
from tests.faults import proxy
from tests.faults.proxy import Proxy
from tests.processes.services import Service

LIMIT = 0.25  # seconds: the time limit of a call to Redis
SLOW = 2.0  # seconds that each answer of a slow Redis takes
STEPS = (0.5, 1.0, 2.0, 4.0)  # of what saturates
# Reads of any key, of which hardly one is in memory: of what costs nothing more would be answered the more is asked for.
LOAD = ("--misses", "0.9", "--writes", "0.1")
MEMORY = 1_200  # entries: what the reads of hits are of, and little more
HITS = ("--misses", "0", "--writes", "0")


def slow(redis: Proxy) -> None:
    redis.delay = SLOW


def dead(redis: Proxy) -> None:
    redis.refusing = True
    redis.cut()


def silent(redis: Proxy) -> None:
    redis.hold()


STATES: dict[str, Callable[[Proxy], None]] = {"healthy": Proxy.heal, "slow (2 s)": slow, "dead": dead}


@dataclass(slots=True)
class Node:
    """The node under load."""

    service: Service
    url: str
    redis: Proxy
    peak: float = 0.0
    told: dict[float, Told] = field(default_factory=dict)

    @property
    def resident(self) -> float:
        """MiB of the worker."""
        return float(self.service.child("cachesvc.node").memory_info().rss) / (1 << 20)

    def cpu(self) -> float:
        """Seconds of a CPU that the worker had so far."""
        times = self.service.child("cachesvc.node").cpu_times()
        return float(times.user + times.system)

    async def crowd(self, *options: str, seconds: float) -> Told:
        port = self.url.rsplit(":", 1)[1]
        command = ("-m", "tests.bench.offered", "--port", port, "--seconds", str(seconds), *options)
        process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        return told(output.decode())


async def overload(_: Path | None, rounds: int, seconds: float) -> list[Bounded]:
    """The rows of each state of Redis; those of goodput with a curve above them."""
    rows: list[Bounded] = []
    with TemporaryDirectory(prefix="cachesvc-bench-") as name, servers.postgres() as postgres, servers.valkey() as valkey:
        async with proxy.opened(valkey.port) as redis:
            with started(
                Path(name),
                levels__database__url=postgres.url,
                levels__redis__url=f"redis://127.0.0.1:{redis.port}",
                levels__redis__timeout=str(LIMIT),
                levels__memory__max_size=str(MEMORY),
            ) as (service, url):
                node = Node(service, url, redis)
                await _fill(url)
                for state, switch in STATES.items():
                    redis.heal()
                    await _ready(url)
                    switch(redis)
                    rows += await _curve(node, state, seconds)
                redis.heal()
                await _ready(url)
                rows.append(await _hits(node, rounds, seconds))
                for what, switch in (("dead", dead), ("silent", silent)):
                    redis.heal()
                    await _ready(url)
                    rows.append(await _first_miss(url, redis, what, switch))
                redis.heal()
    return rows


async def _fill(url: str) -> None:
    mix = Mix()
    async with httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as client:
        keys = [*(f"task:{n}" for n in range(mix.keys)), *(f"hot:{n}" for n in range(mix.hot))]
        for at in range(0, len(keys), 1_000):
            operations = [{"operation": "set", "key": key, "value": json.loads(mix.value)} for key in keys[at : at + 1_000]]
            (await client.post("/v1/batch", json={"operations": operations})).raise_for_status()


async def _ready(url: str) -> None:
    """Wait until Redis is believed again."""
    async with httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as client, asyncio.timeout(60):
        while (await client.get("/readyz")).json()["tiers"].get("redis") != "ok":
            await asyncio.sleep(0.1)


async def _curve(node: Node, state: str, seconds: float) -> list[Bounded]:
    """What saturates the node, then goodput at shares and multiples of it."""
    rate = 1_000.0
    peak = 0.0
    while True:
        got = await node.crowd("--rate", str(rate), *LOAD, seconds=seconds)
        peak = max(peak, got.goodput)
        if got.goodput < 0.9 * rate:
            break
        rate *= 1.5
    before = node.resident
    measured, had = {}, {}
    for step in STEPS:
        began = node.cpu()
        measured[step] = await node.crowd("--rate", str(step * peak), "--settle", "2", *LOAD, seconds=2 * seconds)
        had[step] = (node.cpu() - began) / (2 + 2 * seconds)
        peak = max(peak, measured[step].goodput)
        await asyncio.sleep(0.5)
    for step, got in measured.items():
        says = (
            f"good p50 {got.good_p50 * 1000:.1f} ms, p99 {got.good_p99 * 1000:.1f} ms, refused p99 {got.shed_p99 * 1000:.1f} ms"
        )
        late = f"sent late by {got.late * 1000:.1f} ms at p99"
        cpu = f"the node had {had[step]:.2f} of a CPU: {got.goodput / had[step]:,.0f} good a second of it"
        offered = f"Redis {state}, offered {got.offered / got.seconds:,.0f}/s ({step:g} ×)"
        print(f"{offered}: {got.goodput:,.0f}/s good; {says}; {late}; {got.by_status}; {cpu}")
    twice, most = measured[2.0].goodput, measured[4.0].goodput
    grown = node.resident / before
    return [
        Bounded(
            f"goodput at twice the saturating load, Redis {state}", f"{twice:,.0f}", f"peak: {peak:,.0f}", twice / peak, 0.8
        ),
        Bounded(f"the same at four times, Redis {state}", f"{most:,.0f}", f"peak: {peak:,.0f}", most / peak, 0.8),
        Bounded(
            f"memory of the node over that, Redis {state}",
            f"{node.resident:,.0f} MiB after",
            f"{before:,.0f} MiB before, + 10 %",
            1.1 / grown,
        ),
    ]


async def _hits(node: Node, rounds: int, seconds: float) -> Bounded:
    """Memory hits of 32 clients with Redis dead and healthy in turns, while a few other reads miss.

    By the second of CPU that the node had, so that what others on the machine take does not count.
    """
    rates: dict[str, list[float]] = {"healthy": [], "dead": []}
    async with httpx.AsyncClient(base_url=node.url, timeout=60.0, trust_env=False) as client:
        for number in range(2 * rounds):
            state = "dead" if number % 2 else "healthy"
            node.redis.heal()
            await _ready(node.url)
            STATES[state](node.redis)
            missing = asyncio.create_task(_miss(client))
            began = node.cpu()
            got = await node.crowd("--closed", "32", *HITS, seconds=seconds)
            rates[state].append(got.good / (node.cpu() - began))
            missing.cancel()
    node.redis.heal()
    ratios = sorted(a / b for a, b in zip(rates["dead"], rates["healthy"], strict=True))
    ours, theirs = (sorted(rates[state])[rounds // 2] for state in ("dead", "healthy"))
    return Bounded(
        "memory hits with a dead Redis, a second of the node's CPU",
        f"{ours:,.0f}",
        f"healthy: {theirs:,.0f}",
        ratios[rounds // 2],
        0.9,
    )


async def _miss(client: httpx.AsyncClient) -> None:
    number = 0
    while True:
        number += 1
        await client.get(f"/v1/cache/absent:{number}")
        await asyncio.sleep(0.02)


async def _first_miss(url: str, redis: Proxy, what: str, switch: Callable[[Proxy], None]) -> Bounded:
    """The first read that needs a Redis that has just gone away."""
    async with httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as client:
        await client.get("/healthz")
        switch(redis)
        began = time.perf_counter()
        answer = await client.get(f"/v1/cache/absent:{what}")  # in no tier, so each is asked
        took = time.perf_counter() - began
        assert answer.status_code == 404
    bound = f"its time limit and 50 ms: {(LIMIT + 0.05) * 1000:.0f} ms"
    return Bounded(f"first miss of a Redis that is {what}", f"{took * 1000:.0f} ms", bound, (LIMIT + 0.05) / took)
