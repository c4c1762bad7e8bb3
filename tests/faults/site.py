"""A site under test: real stores, a proxy before each, and services as a user starts them.

Over PostgreSQL each node is a service with proxies of its own; over SQLite the nodes are the workers of one. All masters of
a Cluster announce the port of their proxy, which its nodes share.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import psutil

from tests import servers
from tests.e2e.services import kill_at_once
from tests.faults import proxy
from tests.faults.plan import Stores
from tests.faults.proxy import Proxy
from tests.processes.services import REAL, Service

SETTINGS = {
    "levels__memory__max_size": "16",  # so few that Redis is asked
    "levels__redis__max_recent": "32",
    "levels__database__timeout": "1.5",
    "levels__database__sweep_interval": "0.5",
    "engine__max_floors": "1000",
    "engine__request_timeout": "2.5",
    "log__max_count": "2000",  # a frozen node finds it trimmed
    "cluster__heartbeat": "0.3",
    "cluster__lease": "1",
    "audit__interval": "0.5",
    "audit__sample": "200",
}


_CLOCKS: Final = ("", "600", "-600")  # seconds by which those of the machines are wrong


@dataclass(slots=True)
class Machine:
    """One `cachesvc serve`, which can be killed and started anew on its port and its data."""

    directory: Path
    options: tuple[str, ...]
    settings: dict[str, str]
    redis: list[Proxy] = field(default_factory=list)  # its own alone
    database: list[Proxy] = field(default_factory=list)
    clock_ahead: str = ""  # seconds by which its clock is wrong
    port: int = 0
    service: Service | None = None
    said: list[str] = field(default_factory=list)  # by those that were killed

    def start(self) -> None:
        options = ("--port", str(self.port), *self.options)
        self.service = Service(self.directory, *options, program=REAL, clock_ahead=self.clock_ahead, **self.settings)
        self.port = int(self.service.ready().rpartition(":")[2])

    def workers(self) -> list[psutil.Process]:
        """Its nodes, the oldest first."""
        if self.service is None or self.service.process.poll() is not None:
            return []
        found = []
        with suppress(psutil.NoSuchProcess):  # killed meanwhile
            for process in self.service.children():
                with suppress(psutil.NoSuchProcess):
                    if "cachesvc.node" in process.cmdline():
                        found.append((process.create_time(), process))
        return [process for _, process in sorted(found, key=lambda one: one[0])]

    def whose(self, port: int) -> str:
        """Which life is at the other end of a connection from this local port, "" when it is not there any more."""
        for process in self.workers():
            with suppress(psutil.Error):
                if any(c.raddr[1:] == (port,) for c in process.net_connections("tcp4")):
                    return life_of(process)
        return ""

    def kill(self) -> None:
        """All of its processes at once."""
        if self.service is not None:
            if self.service.process.poll() is None:
                kill_at_once(self.service.process.pid)
            self.service.ended()
            self.said += self.service.lines
            self.service.close()
            self.service = None


def life_of(process: psutil.Process) -> str:
    """A name for this process which no other has, although numbers are used again."""
    return f"{process.pid}@{process.create_time():.2f}"


@dataclass(slots=True)
class Site:
    """Everything of a run that can be broken."""

    stores: Stores
    machines: list[Machine]
    valkeys: list[servers.Server]
    postgres: servers.Server | None
    redis: list[Proxy]
    database: list[Proxy]

    @property
    def nodes(self) -> list[tuple[Machine, int]]:
        """Each node as the machine it is on and its place there."""
        if self.stores is Stores.SQLITE:
            return [(self.machines[0], worker) for worker in range(Stores.SQLITE.nodes)]
        return [(machine, 0) for machine in self.machines]

    def lives(self) -> set[str]:
        return {life_of(process) for machine in self.machines for process in machine.workers()}


@dataclass(slots=True)
class Servers:
    """The stores, started before anything else."""

    stores: Stores
    valkeys: list[servers.Server]
    postgres: servers.Server | None
    announced: list[int]  # the ports that the masters of a Cluster say they have


@contextmanager
def started_stores(stores: Stores) -> Iterator[Servers]:
    with ExitStack() as stack:
        announced: list[int] = []
        if stores is Stores.CLUSTER:
            announced = [servers.free_port() for _ in range(3)]
            valkeys = stack.enter_context(servers.valkey_cluster(announced=announced))
        else:
            valkeys = [stack.enter_context(servers.valkey())]
        postgres = None if stores is Stores.SQLITE else stack.enter_context(servers.postgres())
        yield Servers(stores, valkeys, postgres, announced)


@asynccontextmanager
async def opened(stores: Servers, directory: Path) -> AsyncIterator[Site]:
    """The site, every node of it serving."""
    async with laid_out(stores, directory) as site:
        await all_started(site.machines)
        yield site


@asynccontextmanager
async def laid_out(
    stores: Servers,
    directory: Path,
    *,
    nodes: int | None = None,
    options: Sequence[str] = (),
    others: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Site]:
    """The site before its services have started; those that run at the end are killed.

    `options` are of each of them, and what is set otherwise than in `SETTINGS`.
    """
    async with AsyncExitStack() as stack:
        shared = [
            await stack.enter_async_context(proxy.opened(valkey.port, port))
            for valkey, port in zip(stores.valkeys, stores.announced, strict=False)
        ]
        machines: list[Machine] = []
        redis, database = list(shared), []
        for number in range(1 if stores.stores is Stores.SQLITE else nodes or stores.stores.nodes):
            settings = {**SETTINGS, **others}
            machine = Machine(directory / f"node-{number}", tuple(options), settings)
            if shared:
                settings["levels__redis__url"] = f"redis+cluster://127.0.0.1:{shared[0].port}"
            else:
                own = await stack.enter_async_context(proxy.opened(stores.valkeys[0].port))
                settings["levels__redis__url"] = f"redis://127.0.0.1:{own.port}"
                machine.redis.append(own)
                redis.append(own)
            if stores.postgres is None:
                machine.options = (*options, "--workers", str(Stores.SQLITE.nodes))
            else:
                own = await stack.enter_async_context(proxy.opened(stores.postgres.port))
                machine.clock_ahead = _CLOCKS[number]
                settings["levels__database__url"] = f"postgresql://postgres@127.0.0.1:{own.port}/postgres"
                machine.database.append(own)
                database.append(own)
            machines.append(machine)
        site = Site(stores.stores, machines, stores.valkeys, stores.postgres, redis, database)
        try:
            yield site
        finally:
            for machine in machines:
                await asyncio.to_thread(machine.kill)


async def all_started(machines: Sequence[Machine]) -> None:
    async with asyncio.TaskGroup() as group:
        for machine in machines:
            group.create_task(asyncio.to_thread(machine.start))
