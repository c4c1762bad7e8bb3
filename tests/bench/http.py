"""HTTP: reads and writes of the whole service, against what others would run behind the same socket.

Every server has the one core and the client, a program in C, the other. All servers are up at once and asked in turns. The
rates are by the clock, as the client counts them; what a second of the servers' own CPU did is printed beside them.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import httpx
import psutil
import redis

from tests import servers
from tests.bench.records import KEYS, name_of, value_of
from tests.bench.rows import fresh_database
from tests.bench.sides import Curve, Missing, Row, Side, on_the_other_core
from tests.e2e.services import NO_REDIS, started

CONNECTIONS: Final = 32
HOT: Final = 1_000  # keys that are read where memory is to hold them
WRK, VALKEY_CLIENT = shutil.which("wrk"), shutil.which("valkey-benchmark") or shutil.which("redis-benchmark")
WEBDIS = os.environ.get("WEBDIS") or shutil.which("webdis")
_NONE: Final = "of Debian's packages `wrk`, `redis-tools` and `webdis`: {} is not here"
_SCRIPT: Final = """
local asked, at, many = {{}}, 0, {many}
if "{method}" == "PUT" then wrk.headers["Content-Type"] = "application/json" end
init = function()
  for number = 0, many - 1 do
    asked[number] = wrk.format("{method}", string.format("{path}", number), nil, {body})
  end
end
request = function()
  at = (at + 1) % many
  return asked[at]
end
"""


@dataclass(slots=True)
class Target:
    """A server: how it is asked, and the processes whose CPU it costs."""

    name: str
    port: int
    processes: Sequence[psutil.Process]
    path: str = "/v1/cache/product:%012d"
    method: str = "GET"
    keys: int = HOT
    resp: bool = False
    connections: int = CONNECTIONS
    rates: list[float] = field(default_factory=list)
    by_cpu: list[float] = field(default_factory=list)

    async def ask(self, seconds: float) -> None:
        before = self._cpu()
        answers, took = await (self._by_resp(seconds) if self.resp else self._by_http(seconds))
        self.rates.append(answers / took)
        self.by_cpu.append(answers / (self._cpu() - before))

    def _cpu(self) -> float:
        times = [process.cpu_times() for process in self.processes]
        return sum(float(time.user + time.system) for time in times)

    async def _by_http(self, seconds: float) -> tuple[int, float]:
        assert WRK is not None
        body = json.dumps(value_of(7).decode()) if self.method == "PUT" else "nil"
        with TemporaryDirectory(prefix="cachesvc-bench-") as name:
            script = Path(name) / "ask.lua"
            script.write_text(_SCRIPT.format(many=self.keys, method=self.method, path=self.path, body=body))
            limit = f"{max(1, round(seconds))}s"
            told = await output(
                WRK, "-t1", f"-c{self.connections}", f"-d{limit}", "-s", str(script), f"http://127.0.0.1:{self.port}"
            )
        if "Non-2xx" in told or "Socket errors" in told:
            raise RuntimeError(f"{self.name}: {told}")
        rate, answers = re.search(r"Requests/sec:\s+([\d.]+)", told), re.search(r"(\d+) requests in", told)
        assert rate is not None
        assert answers is not None
        return int(answers[1]), int(answers[1]) / float(rate[1])

    async def _by_resp(self, seconds: float) -> tuple[int, float]:
        assert VALKEY_CLIENT is not None
        answers = int(seconds * (statistics.median(self.rates) if self.rates else 40_000))
        options = ("-p", str(self.port), "-c", str(CONNECTIONS), "-n", str(answers), "-r", str(self.keys), "--csv")
        told = await output(VALKEY_CLIENT, *options, "GET", "product:__rand_int__")
        return answers, answers / float(told.splitlines()[-1].split(",")[1].strip('"'))


async def output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return told.decode()


async def http(_: Path | None, rounds: int, seconds: float) -> list[Row | Missing]:
    for name, here in (("wrk", WRK), ("redis-tools", VALKEY_CLIENT)):
        if here is None:
            return [Missing("reads and writes over HTTP", _NONE.format(f"`{name}`"))]
    return [*await hits(rounds, seconds), *await misses(rounds, seconds), *await writes(rounds, seconds)]


async def hits(rounds: int, seconds: float) -> list[Row | Missing]:
    """Of what memory holds."""
    work = f"HTTP `GET` of a memory hit, {CONNECTIONS} connections"
    missing: list[Row | Missing] = (
        [] if WEBDIS else [Missing(f"{work}, against Webdis", _NONE.format("`webdis` (nor does `WEBDIS=` name it)"))]
    )
    with ExitStack() as stack:
        with on_the_other_core():
            ours = stack.enter_context(service(**NO_REDIS, levels__memory__max_size="50000"))
            valkey = stack.enter_context(stored())
            peers = [(Target("Valkey `GET`", valkey.port, of(valkey), resp=True), 1.0)]
            if WEBDIS is not None:
                peers.append((stack.enter_context(webdis(WEBDIS, valkey)), 2.5))
            peers.append((stack.enter_context(app("FastAPI over cachebox", "memory")), 8.0))
            peers.append((stack.enter_context(app("raw ASGI over cachebox", "raw")), 0.0))
        await asyncio.to_thread(fill, ours)
        await in_turns([ours, *(peer for peer, _ in peers)], rounds, seconds)
    return [row for peer, goal in peers for row in rows(work, ours, peer, goal)] + missing


async def misses(rounds: int, seconds: float) -> list[Row]:
    """Of what is not in memory, but in Redis."""
    with ExitStack() as stack:
        with on_the_other_core():
            valkey = stack.enter_context(stored())
            settings = {"levels__memory__max_size": "100", "levels__redis__url": f"{valkey.url}/1"}
            ours = stack.enter_context(service(**settings))
            theirs = stack.enter_context(app("FastAPI over redis-py", "redis", valkey.url))
            ours.keys = theirs.keys = KEYS
        await asyncio.to_thread(fill, ours)
        await in_turns([ours, theirs], rounds, seconds)
    return rows(f"HTTP `GET` of a hit in Redis, {CONNECTIONS} connections", ours, theirs)


async def writes(rounds: int, seconds: float) -> list[Row]:
    """Durable, through all three tiers."""
    with ExitStack() as stack:
        with on_the_other_core():
            postgres, valkey = stack.enter_context(servers.postgres()), stack.enter_context(servers.valkey())
            settings = {"levels__database__url": await fresh_database(postgres), "levels__redis__url": f"{valkey.url}/1"}
            ours = stack.enter_context(service(**settings))
            urls = valkey.url, await fresh_database(postgres)
            theirs = stack.enter_context(app("FastAPI, one upsert and one SET each, pool of 16", "writes", *urls))
            ours.method = theirs.method = "PUT"
        await in_turns([ours, theirs], rounds, seconds)
    work = f"HTTP `PUT`, {CONNECTIONS} connections, write-through to PostgreSQL and Redis, durable, with the log"
    return rows(work, ours, theirs)


def rows(work: str, ours: Target, theirs: Target, goal: float = 0.0) -> list[Row]:
    """By the clock, and by what a second of the servers' CPU did."""
    by_cpu = "the same, by a second of the servers' CPU"
    return [
        Row(work, Side(ours.name, _never, ours.rates), Side(theirs.name, _never, theirs.rates), goal),
        Row(by_cpu, Side(ours.name, _never, ours.by_cpu), Side(theirs.name, _never, theirs.by_cpu), goal),
    ]


async def connections(rounds: int, seconds: float) -> Curve:
    """What a hit in memory costs the server, by how many ask."""
    curve = Curve("a hit in memory over HTTP", "connections that ask")
    with ExitStack() as stack:
        with on_the_other_core():
            ours = stack.enter_context(service(**NO_REDIS, levels__memory__max_size="50000"))
        await asyncio.to_thread(fill, ours)
        for many in (10, 100, 1_000):
            ours.connections = many
            await in_turns([ours], rounds, seconds)
            curve.points.append((many, 1e6 / max(ours.by_cpu)))
    return curve


async def in_turns(targets: Sequence[Target], rounds: int, seconds: float) -> None:
    """Each `rounds` times, after a short one that does not count."""
    for target in targets:
        await target.ask(1.0)
        target.rates.clear()
        target.by_cpu.clear()
    for _ in range(rounds):
        for target in targets:
            await target.ask(seconds)


@contextmanager
def service(**settings: str) -> Iterator[Target]:
    """The service as a user starts it, with one worker."""
    with TemporaryDirectory(prefix="cachesvc-bench-") as directory, started(Path(directory), **settings) as (process, url):
        yield Target("cachesvc", int(url.rsplit(":", 1)[1]), [process.child("cachesvc.node")])


@contextmanager
def app(name: str, kind: str, *urls: str) -> Iterator[Target]:
    port = servers.free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.apps", kind, str(port), *urls])
    try:
        path = f"http://127.0.0.1:{port}/v1/cache/none"
        servers.wait_until(lambda: answers(path), process=process)
        yield Target(name, port, [psutil.Process(process.pid)])
    finally:
        process.terminate()
        process.wait()


@contextmanager
def webdis(binary: str, valkey: servers.Server) -> Iterator[Target]:
    """Webdis as its own file has it, but on one thread, since it has one core, and without a log."""
    port = servers.free_port()
    with TemporaryDirectory(prefix="cachesvc-bench-") as directory:
        settings = {"redis_port": valkey.port, "http_port": port, "threads": 1, "daemonize": False, "verbosity": 0}
        file = Path(directory) / "webdis.json"
        file.write_text(
            json.dumps(settings | {"redis_host": "127.0.0.1", "http_host": "127.0.0.1", "logfile": f"{directory}/log"})
        )
        process = subprocess.Popen([binary, str(file)])
        try:
            servers.wait_until(lambda: answers(f"http://127.0.0.1:{port}/PING"), process=process)
            yield Target("Webdis over Valkey", port, [psutil.Process(process.pid), *of(valkey)], path="/GET/product:%012d.txt")
        finally:
            process.terminate()
            process.wait()


@contextmanager
def stored() -> Iterator[servers.Server]:
    """A Valkey that has every key, and keeps nothing on disk."""
    with servers.valkey() as server:
        with redis.Redis(port=server.port) as client:
            client.mset({name_of(number): value_of(number) for number in range(KEYS)})
        yield server


def of(server: servers.Server) -> list[psutil.Process]:
    assert server.process is not None
    return [psutil.Process(server.process.pid)]


def answers(url: str) -> bool:
    try:
        httpx.get(url, trust_env=False)
    except httpx.TransportError:
        return False
    return True


def fill(target: Target) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{target.port}", timeout=60.0, trust_env=False) as client:
        for begin in range(0, KEYS, 1_000):
            numbers = range(begin, begin + 1_000)
            operations = [{"operation": "set", "key": name_of(n), "value": json.loads(value_of(n))} for n in numbers]
            client.post("/v1/batch", json={"operations": operations}).raise_for_status()


async def _never(_: float) -> int:
    raise AssertionError("the client is a program of its own")
