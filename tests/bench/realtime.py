"""The socket: fan-out, reads, memory and a storm of returning clients, the crowd a process of its own.

Where there is a peer both sides are asked in turns by the same client, and what counts is what the server's own CPU did:
deliveries, or answers, in a second of it. The rates by the clock are printed beside it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import redis

from tests import servers
from tests.bench.crowd import KEYS, VALUE
from tests.bench.sides import Bounded, Row, Side
from tests.e2e.services import NO_REDIS, started

SUBSCRIBERS = 1_000
IDLE = 5_000
RETURNING = 2_000
MOST = 32 << 10  # bytes of an idle connection


@dataclass(slots=True)
class Target:
    """A server under test: its port, its process, whether it is a peer; and what the crowds found of it, by what was asked."""

    port: int
    pid: int
    peer: bool = False
    found: list[dict[str, float]] = field(default_factory=list)

    async def crowd(self, what: str, *options: str) -> dict[str, float]:
        command = ["-m", "tests.bench.crowd", what, "--port", str(self.port), "--pid", str(self.pid), *options]
        if self.peer:
            command.append("--peer")
        process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        found: dict[str, float] = json.loads(output)
        return found


@contextmanager
def ours() -> Iterator[Target]:
    """The service as a user starts it, on SQLite and without Redis: neither is asked for a hit in memory."""
    with TemporaryDirectory(prefix="cachesvc-bench-") as name:
        settings = NO_REDIS | {"levels__memory__max_size": "10000"}
        with started(Path(name), **settings) as (service, url):
            operations = [
                {"operation": "set", "key": f"product:{number}", "value": json.loads(VALUE % (number, number))}
                for number in range(KEYS)
            ]
            httpx.post(f"{url}/v1/batch", json={"operations": operations}, timeout=60.0, trust_env=False).raise_for_status()
            yield Target(int(url.rsplit(":", 1)[1]), service.child("cachesvc.node").pid)


@contextmanager
def broadcaster() -> Iterator[Target]:
    port = servers.free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.broadcaster", str(port)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield Target(port, process.pid, peer=True)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def valkey() -> Iterator[Target]:
    with servers.valkey() as server:
        with redis.Redis(port=server.port) as client:
            for number in range(KEYS):
                client.set(f"product:{number}", VALUE % (number, number))
        assert server.process is not None
        yield Target(server.port, server.process.pid, peer=True)


async def fanout(rounds: int, seconds: float) -> list[Row]:
    with ours() as mine, broadcaster() as theirs:
        work = f"fan-out of one update to {SUBSCRIBERS:,} subscribers, deliveries a second of the server's CPU"
        row = Row(work, Side("cachesvc", _never), Side("`websockets`' broadcast", _never), 1.3)
        for _ in range(rounds):
            for target, side in ((mine, row.ours), (theirs, row.theirs)):
                told = await target.crowd("fanout", "--connections", str(SUBSCRIBERS), "--seconds", str(seconds))
                side.rates.append(told["deliveries"] / told["cpu"])
        each = [f"{side.name} {1e6 / side.rate:.1f} µs" for side in (row.ours, row.theirs)]
        print(f"CPU a delivery: {', '.join(each)}")
        return [row]


async def get(rounds: int, seconds: float) -> list[Row]:
    """Ours in a window of one and of 16, each against Valkey's `GET` in a window of one."""
    rows: list[Row] = []
    shapes = (("16 connections, unpipelined", "16", "1", 0.5), ("4 connections of 16 pipelined", "4", "16", 0.8))
    with ours() as mine, valkey() as theirs:
        for name, connections, depth, goal in shapes:
            clock = Row(f"`cache:get` over the socket, {name}", Side("cachesvc", _never), Side("Valkey `GET`", _never), goal)
            cpu = Row("the same, by a second of the server's CPU", Side("cachesvc", _never), Side("Valkey", _never), goal)
            for _ in range(rounds):
                sides = (
                    (mine, clock.ours, cpu.ours, (connections, depth)),
                    (theirs, clock.theirs, cpu.theirs, (connections if depth == "1" else "16", "1")),
                )
                for target, by_clock, by_cpu, (many, deep) in sides:
                    options = ("--connections", many, "--depth", deep, "--seconds", str(seconds))
                    told = await target.crowd("get", *options)
                    by_clock.rates.append(told["answers"] / told["seconds"])
                    by_cpu.rates.append(told["answers"] / told["cpu"])
            rows += [clock, cpu]
    return rows


async def idle() -> Bounded:
    with ours() as mine:
        told = await mine.crowd("idle", "--connections", str(IDLE))
    name = f"memory of an idle connection, {IDLE:,} of them"
    return Bounded(name, f"{told['bytes'] / 1024:.1f} KiB", "32 KiB", MOST / told["bytes"])


async def storm(rounds: int) -> Bounded:
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        with ours() as mine:
            found.append(await mine.crowd("storm", "--connections", str(RETURNING)))
    seconds, calm, busy = (statistics.median(told[name] for told in found) for name in ("seconds", "calm", "busy"))
    says = f"{seconds:.2f} s ({min(t['seconds'] for t in found):.2f} to {max(t['seconds'] for t in found):.2f})"
    others = f"reads of others meanwhile p99 {busy * 1e3:.0f} ms, before {calm * 1e3:.1f} ms"
    return Bounded(f"{RETURNING:,} clients lose their connection at once: until all have recovered", says, others, 1.0, 0.0)


async def _never(_: float) -> int:
    raise AssertionError("the crowd is a process of its own")


async def realtime(_: Path | None, rounds: int, seconds: float) -> Sequence[Row | Bounded]:
    return [*await fanout(rounds, seconds), *await get(rounds, seconds), await idle(), await storm(min(rounds, 3))]
