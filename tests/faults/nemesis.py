"""The nemesis: brings about the troubles of a plan, and takes each back before the next of its lane."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson
import psutil
import redis

from tests import servers
from tests.faults.connection import Connection, Lost, NotSent
from tests.faults.history import Op, Restored, restore
from tests.faults.plan import Fault, Trouble
from tests.faults.proxy import Link, Proxy
from tests.faults.site import Machine, Site
from tests.servers import Server

_SYNCED: Final = 5.0  # seconds that a replica may take to begin with
_NOTICED: Final = 20.0  # seconds in which every node is to know that the database was set back
_OUTRUN: Final = 3  # batches of 900 writes: more than `log__max_count`
_ROOM: Final = 100 << 10  # bytes that an evicting Redis has beyond what it holds at that moment


@dataclass(slots=True)
class Nemesis:
    """Works on a site from `began` (of the monotonic clock) on. `told`: what it brought about, with beginning and end."""

    site: Site
    directory: Path
    began: float
    told: list[tuple[float, float, Trouble]] = field(default_factory=list)
    saved: bool = False  # there is a snapshot of every Valkey
    record: Callable[[Op], None] = lambda _: None  # of what the checker is to know

    async def work(self, lane: Sequence[Trouble], until: asyncio.Event) -> None:
        """The troubles of a lane, each at its time or as soon after it as the one before it is over."""
        for trouble in lane:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self.began + trouble.at - time.monotonic())):
                    await until.wait()
            if until.is_set():
                return
            start = time.monotonic() - self.began
            async with self._brought_about(trouble):
                with suppress(TimeoutError):
                    async with asyncio.timeout(trouble.seconds):
                        await until.wait()
            self.told.append((start, time.monotonic() - self.began, trouble))

    def _brought_about(self, trouble: Trouble) -> AbstractAsyncContextManager[None]:
        return WAYS[trouble.fault](self, trouble)

    # Redis

    @asynccontextmanager
    async def redis_gone(self, trouble: Trouble) -> AsyncIterator[None]:
        """Some of the servers end; they come back empty, or with what they had when this was last called."""
        valkeys = self.site.valkeys
        if trouble.fault is Fault.REDIS_HALF:
            first = trouble.victim % len(valkeys)
            valkeys = [valkeys[(first + more) % len(valkeys)] for more in range(1 + trouble.victim // 7 % 2)]
        old = trouble.fault is Fault.REDIS_OLD and self.saved
        keep = {} if old else await asyncio.to_thread(self._save)
        for valkey in valkeys:
            await asyncio.to_thread(valkey.stop if trouble.fault is Fault.REDIS_STOPPED else valkey.kill)
        try:
            yield
        finally:
            for valkey in valkeys:
                dump = valkey.directory / "dump.rdb"
                dump.unlink(missing_ok=True)
                if old:
                    shutil.copy(self._snapshot(valkey), dump)
                await asyncio.to_thread(valkey.start)
            self.saved = self.saved or bool(keep)

    def _save(self) -> list[Path]:
        """Take a snapshot of every server, for a later return; what it was called with is kept where one does not answer."""
        copies = []
        for valkey in self.site.valkeys:
            try:
                with redis.Redis(port=valkey.port, socket_timeout=2) as client:
                    client.save()
            except redis.RedisError:
                return []
            copies.append(Path(shutil.copy(valkey.directory / "dump.rdb", self._snapshot(valkey))))
        return copies

    def _snapshot(self, valkey: Server) -> Path:
        return self.directory / f"{valkey.port}.rdb"

    @asynccontextmanager
    async def redis_failed_over(self, trouble: Trouble) -> AsyncIterator[None]:
        """To a replica that heard nothing for half of the time; then back to the one before, which has heard nothing since."""
        (master,) = self.site.valkeys
        with servers.valkey("--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0") as replica:
            with redis.Redis(port=replica.port, socket_timeout=2) as client:
                with suppress(TimeoutError, redis.RedisError):
                    async with asyncio.timeout(_SYNCED):
                        while (await asyncio.to_thread(client.info, "replication"))["master_link_status"] != "up":
                            await asyncio.sleep(0.05)
                await asyncio.to_thread(client.replicaof, "NO", "ONE")
            await asyncio.sleep(trouble.seconds / 2)
            self._reach(replica.port)
            try:
                yield
            finally:
                self._reach(master.port)

    def _reach(self, port: int) -> None:
        for proxy in self.site.redis:
            proxy.target = port
            proxy.cut()

    @asynccontextmanager
    async def redis_frozen(self, trouble: Trouble) -> AsyncIterator[None]:
        for valkey in self.site.valkeys:
            valkey.freeze()
        try:
            yield
        finally:
            for valkey in self.site.valkeys:
                valkey.thaw()

    @asynccontextmanager
    async def redis_flushed(self, trouble: Trouble) -> AsyncIterator[None]:
        await asyncio.to_thread(self._tell_redis, "FLUSHALL")
        yield

    @asynccontextmanager
    async def redis_evicting(self, trouble: Trouble) -> AsyncIterator[None]:
        await asyncio.to_thread(self._tell_redis, "CONFIG", "SET", "maxmemory-policy", "allkeys-random")
        await asyncio.to_thread(self._limit_memory)
        try:
            yield
        finally:
            await asyncio.to_thread(self._tell_redis, "CONFIG", "SET", "maxmemory", "0")

    def _limit_memory(self) -> None:
        for valkey in self.site.valkeys:
            with redis.Redis(port=valkey.port, socket_timeout=2) as client:
                client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + _ROOM)

    def _tell_redis(self, *command: str) -> None:
        for valkey in self.site.valkeys:
            with redis.Redis(port=valkey.port, socket_timeout=2) as client:
                client.execute_command(*command)

    # connections

    def _proxies(self, trouble: Trouble) -> Sequence[Proxy]:
        machine = self.site.machines[trouble.victim % len(self.site.machines)]
        match trouble.fault:
            case Fault.REDIS_CUT_ONE:
                return machine.redis
            case Fault.DATABASE_CUT_ONE:
                return machine.database
            case Fault.REDIS_CUT | Fault.REDIS_HELD | Fault.REDIS_SLOW:
                return self.site.redis
            case _:
                return self.site.database

    @asynccontextmanager
    async def connections(self, trouble: Trouble) -> AsyncIterator[None]:
        proxies = self._proxies(trouble)
        for proxy in proxies:
            _DO[trouble.fault](proxy)
        try:
            yield
        finally:
            for proxy in proxies:
                if trouble.fault in (Fault.REDIS_HELD, Fault.DATABASE_HELD) and trouble.victim % 2:
                    proxy.cut()  # else what was held arrives
                proxy.heal()

    @asynccontextmanager
    async def wake_ups_lost(self, trouble: Trouble) -> AsyncIterator[None]:
        """Over PostgreSQL: connections that listen hear nothing, or break. Over SQLite the sockets lose their names."""
        if self.site.postgres is None:
            for path in (self.site.machines[0].directory / "wake").glob("*.sock"):
                path.unlink(missing_ok=True)
            yield
            return
        for proxy in self.site.database:
            proxy.deafen() if trouble.victim % 2 else proxy.cut(_listens)
        try:
            yield
        finally:
            for proxy in self.site.database:
                proxy.cut(_listens)  # a wake-up that was held back is lost now
                proxy.heal()

    # the database

    @asynccontextmanager
    async def database_restarted(self, trouble: Trouble) -> AsyncIterator[None]:
        assert self.site.postgres is not None
        await asyncio.to_thread(self.site.postgres.stop, signal.SIGQUIT)
        await asyncio.to_thread(self.site.postgres.start)
        yield

    @asynccontextmanager
    async def database_restored(self, trouble: Trouble) -> AsyncIterator[None]:
        """A copy of its files is taken, and later put back: what was acknowledged in between is lost; all nodes are to know."""
        postgres = self.site.postgres
        assert postgres is not None
        copy = self.directory / "backup"
        first = time.monotonic()
        await asyncio.to_thread(_copied, postgres, postgres.directory, copy)
        last = time.monotonic()
        try:
            yield
        finally:
            await self._ask(self.site.machines[0], "PUT", "/v1/cache/lost", b'"so that there is a loss"')
            gone, wall = time.monotonic(), time.time()
            await asyncio.to_thread(_copied, postgres, copy, postgres.directory)
            with suppress(TimeoutError):
                async with asyncio.timeout(_NOTICED):
                    for machine in self.site.machines:
                        while await self._epoch(machine) < int(wall * 1_000_000):
                            await asyncio.sleep(0.05)
            self.record(restore(Restored(first, last, gone, time.monotonic())))

    async def _epoch(self, machine: Machine) -> int:
        told = await self._ask(machine, "GET", "/v1/stats")
        return int(orjson.loads(told)["log"]["epoch"]) if told else 0

    async def _ask(self, machine: Machine, method: str, path: str, body: bytes = b"") -> bytes:
        """What a node answers, b"" where it does not."""
        connection = Connection(machine.port, machine.whose)
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            answer = await connection.ask(method, path, headers, body, within=3.0)
        except (NotSent, Lost):
            return b""
        finally:
            connection.close()
        return answer.body if answer.status < 300 else b""

    @asynccontextmanager
    async def database_busy(self, trouble: Trouble) -> AsyncIterator[None]:
        file = next(self.site.machines[0].directory.glob("*.db"))
        with closing(sqlite3.connect(file, timeout=10, isolation_level=None, check_same_thread=False)) as connection:
            await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")

    # nodes

    def _victim(self, trouble: Trouble) -> psutil.Process | None:
        machine, place = self.site.nodes[trouble.victim % len(self.site.nodes)]
        workers = machine.workers()
        return workers[place] if place < len(workers) else None

    @asynccontextmanager
    async def node_killed(self, trouble: Trouble) -> AsyncIterator[None]:
        """Its supervisor starts another."""
        victim = self._victim(trouble)
        if victim is not None:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        yield

    @asynccontextmanager
    async def node_frozen(self, trouble: Trouble) -> AsyncIterator[None]:
        victim = self._victim(trouble)
        if victim is None:
            yield
            return
        with suppress(psutil.NoSuchProcess):
            victim.suspend()
        try:
            yield
        finally:
            with suppress(psutil.NoSuchProcess):
                victim.resume()

    @asynccontextmanager
    async def node_outrun(self, trouble: Trouble) -> AsyncIterator[None]:
        """It is frozen while others write more than the log keeps, and then for a while."""
        async with self.node_frozen(trouble):
            others = [machine for machine in self.site.machines if machine is not self._machine(trouble)] or self.site.machines
            for number in range(_OUTRUN):
                operations = [{"operation": "set", "key": f"flood:{number}:{n}", "value": n} for n in range(900)]
                await self._ask(others[0], "POST", "/v1/batch", orjson.dumps({"operations": operations}))
            yield

    def _machine(self, trouble: Trouble) -> Machine:
        return self.site.nodes[trouble.victim % len(self.site.nodes)][0]

    @asynccontextmanager
    async def service_killed(self, trouble: Trouble) -> AsyncIterator[None]:
        machine = self.site.machines[trouble.victim % len(self.site.machines)]
        await asyncio.to_thread(machine.kill)
        await asyncio.to_thread(machine.start)
        yield


def _copied(server: servers.Server, source: Path, target: Path) -> None:
    """Stop it, copy all files with their owners, and start it."""
    server.stop(signal.SIGINT)
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(("cp", "-a", source, target), check=True)
    server.start()


def _listens(link: Link) -> bool:
    return link.listens


def _refuse(proxy: Proxy) -> None:
    proxy.refusing = True
    proxy.cut()


def _slow(seconds: float) -> Callable[[Proxy], None]:
    def slow(proxy: Proxy) -> None:
        proxy.delay = seconds

    return slow


def _cut_commits_before(proxy: Proxy) -> None:
    proxy.commits = "before"


def _cut_commits_after(proxy: Proxy) -> None:
    proxy.commits = "after"


_DO: Final[dict[Fault, Callable[[Proxy], None]]] = {
    Fault.REDIS_CUT: _refuse,
    Fault.REDIS_CUT_ONE: _refuse,
    Fault.REDIS_HELD: Proxy.hold,
    Fault.REDIS_SLOW: _slow(2.0),
    Fault.DATABASE_CUT: _refuse,
    Fault.DATABASE_CUT_ONE: _refuse,
    Fault.DATABASE_HELD: Proxy.hold,
    Fault.DATABASE_SLOW: _slow(0.3),
    Fault.COMMIT_CUT_BEFORE: _cut_commits_before,
    Fault.COMMIT_CUT_AFTER: _cut_commits_after,
}

WAYS: Final[dict[Fault, Callable[[Nemesis, Trouble], AbstractAsyncContextManager[None]]]] = {
    **dict.fromkeys(_DO, Nemesis.connections),
    Fault.REDIS_STOPPED: Nemesis.redis_gone,
    Fault.REDIS_KILLED: Nemesis.redis_gone,
    Fault.REDIS_OLD: Nemesis.redis_gone,
    Fault.REDIS_HALF: Nemesis.redis_gone,
    Fault.REDIS_FAILED_OVER: Nemesis.redis_failed_over,
    Fault.REDIS_FROZEN: Nemesis.redis_frozen,
    Fault.REDIS_FLUSHED: Nemesis.redis_flushed,
    Fault.REDIS_EVICTING: Nemesis.redis_evicting,
    Fault.WAKE_UPS_LOST: Nemesis.wake_ups_lost,
    Fault.DATABASE_RESTARTED: Nemesis.database_restarted,
    Fault.DATABASE_RESTORED: Nemesis.database_restored,
    Fault.DATABASE_BUSY: Nemesis.database_busy,
    Fault.NODE_KILLED: Nemesis.node_killed,
    Fault.NODE_FROZEN: Nemesis.node_frozen,
    Fault.NODE_OUTRUN: Nemesis.node_outrun,
    Fault.SERVICE_KILLED: Nemesis.service_killed,
}
