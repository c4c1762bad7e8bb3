"""The service as a whole: first the embedded Valkey, then one worker, then the others; stopped in the other direction.

What was accepted is answered: Valkey is stopped only when no worker is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any
from urllib.parse import quote

from cachesvc.errors import StartError
from cachesvc.settings import Settings
from cachesvc.supervisor.child import Child, spawn
from cachesvc.supervisor.places import claimed, listening, socket_path, url_of
from cachesvc.supervisor.standin import StandIn
from cachesvc.supervisor.valkey import SAVING, Valkey, embedded

WORKER = (sys.executable, "-P", "-m", "cachesvc.node")  # -P: nothing of the directory it is started in is a library
_FATAL = frozenset({2, 3})  # a worker's exit codes for settings and schema: starting it again cannot help
_LATE = 2.0  # seconds past server.shutdown_timeout after which a worker is killed
_VALKEY_START = 10.0


def run(settings: Settings, *, worker: Sequence[str] = WORKER) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP; the exit code. Raises `StartError` and `SettingsError`: one line each.

    `worker` is the command of a worker; what it is told is in `Service._start_worker`.
    """
    data_dir = settings.server.data_dir.resolve()
    with claimed(data_dir), listening(settings.server.host, settings.server.port) as sock, ExitStack() as stack:
        valkey = None
        told = settings.model_dump(mode="json")
        told["server"]["data_dir"] = str(data_dir)
        told["levels"]["database"]["url"] = settings.database_url
        if settings.levels.redis.enabled and settings.levels.redis.embedded:
            path = stack.enter_context(socket_path(data_dir))
            valkey = embedded(settings, directory=data_dir / "valkey", path=path)
            told["levels"]["redis"] |= {"url": f"unix://{quote(str(path))}", "embedded": False}
        return asyncio.run(_serve(settings, told, sock, worker, valkey))


async def _serve(
    settings: Settings, told: dict[str, Any], sock: socket.socket, worker: Sequence[str], valkey: Valkey | None
) -> int:
    return await Service(settings, told, sock, worker, valkey).serve()


class Service:
    """The processes of one service, all started from one thread. `told` are the settings as the workers get them."""

    def __init__(
        self, settings: Settings, told: dict[str, Any], sock: socket.socket, worker: Sequence[str], valkey: Valkey | None
    ) -> None:
        self._settings = settings.server
        self._told = told
        self._sock = sock
        self._worker = worker
        self._valkey = valkey
        self._store = Child("the embedded Valkey", self._start_valkey, self._died) if valkey else None
        self._workers = [
            Child(f"worker {i}", partial(self._start_worker, i), self._died) for i in range(self._settings.workers)
        ]
        self._starting: dict[int, Child] = {}  # by the descriptor on which a worker will say that it serves
        self._stand_in = StandIn(sock, self._served)
        self._answered = False  # whether Valkey was ever up: if not, starting it again cannot help
        self._end: asyncio.Future[int] = asyncio.Future()

    async def serve(self) -> int:
        """Until a signal asks to stop, or going on makes no sense; the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked_to_stop, number)
        self._stand_in.begin()
        try:
            async with asyncio.TaskGroup() as group:
                starting = group.create_task(self._start())
                await asyncio.wait([self._end])
                starting.cancel()
            return self._end.result()
        finally:
            await self._stop()

    async def _start(self) -> None:
        try:
            if self._store is not None and self._valkey is not None:
                self._store.start()
                await self._until_answering(self._store, self._valkey)
            # The first alone: it prepares the database, and what is wrong with the settings is said once.
            for workers in (self._workers[:1], self._workers[1:]):
                for worker in workers:
                    worker.start()
                for worker in workers:
                    await worker.ready.wait()
        except StartError as exc:
            self._fail(exc)
        else:
            count = len(self._workers)
            levels = " + ".join(name for name, level in self._told["levels"].items() if level["enabled"])
            print(  # noqa: T201
                f"cachesvc is ready on {url_of(self._sock)} ({count} worker{'s' * (count > 1)}, {levels})", flush=True
            )

    async def _until_answering(self, store: Child, valkey: Valkey) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_VALKEY_START):
                while not store.gone.is_set():
                    if await valkey.answers():
                        self._answered = True
                        return
                    await asyncio.sleep(0.02)
        raise StartError(f"{store.name} did not start; {valkey.log} says why")

    async def _stop(self) -> None:
        if not self._end.done():
            self._end.cancel()
        self._stand_in.close()
        self._sock.close()  # each worker closes its copy; with the last, who connects is refused
        within = self._settings.shutdown_timeout + _LATE
        # Those that only start hold a copy, too, and are gone before the others tell clients to connect anew.
        for ready in (False, True):
            async with asyncio.TaskGroup() as group:
                for worker in self._workers:
                    if worker.ready.is_set() is ready:
                        group.create_task(worker.stop(within=within))
        if self._store is not None:
            await self._store.stop(within=SAVING)

    def _asked_to_stop(self, number: int) -> None:
        if not self._end.done():
            self._end.set_result(0)
            return
        for child in self._children():
            child.signal(signal.SIGKILL)

    def _fail(self, exc: StartError) -> None:
        if not self._end.done():
            self._end.set_exception(exc)

    def _children(self) -> list[Child]:
        return [*self._workers, *([self._store] if self._store is not None else [])]

    def _reap(self) -> None:
        for child in self._children():
            child.reap()
        if not self._end.done() and not self._served():
            self._stand_in.begin()

    def _served(self) -> bool:
        """Whether a worker serves; one that has just said so counts."""
        for told in select.select(list(self._starting), [], [], 0)[0]:
            self._told_ready(told)
        return any(worker.ready.is_set() for worker in self._workers)

    def _died(self, child: Child, code: int, pause: float) -> bool:
        """Whether to start it again."""
        if self._end.done():
            return False
        if child is self._store:
            if not self._answered:
                return False
        elif code in _FATAL and not child.ready.is_set():
            self._end.set_result(code)
            return False
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        print(f"cachesvc: {child.name} {how}; started again in {pause:g} s", file=sys.stderr, flush=True)  # noqa: T201
        return True

    def _start_valkey(self, child: Child) -> subprocess.Popen[bytes]:
        assert self._valkey is not None
        return spawn(self._valkey.command)

    def _start_worker(self, number: int, child: Child) -> subprocess.Popen[bytes]:
        """A worker is told everything in one line of JSON on its standard input, which stays open as long as this process.

        `settings`; `fd`, the listening socket; `worker`, its number; `notify`, where it writes a line before it accepts.
        """
        told, notify = os.pipe()
        try:
            process = spawn(self._worker, stdin=subprocess.PIPE, pass_fds=(self._sock.fileno(), notify))
        except OSError:
            os.close(told)
            raise
        finally:
            os.close(notify)
        self._starting[told] = child
        asyncio.get_running_loop().add_reader(told, self._told_ready, told)
        assert process.stdin is not None
        hello = {"settings": self._told, "fd": self._sock.fileno(), "worker": number, "notify": notify}
        with suppress(BrokenPipeError):  # it died already, which SIGCHLD tells
            process.stdin.write(json.dumps(hello).encode() + b"\n")
        return process

    def _told_ready(self, told: int) -> None:
        asyncio.get_running_loop().remove_reader(told)
        child = self._starting.pop(told)
        if os.read(told, 16) and not child.gone.is_set():  # it may have died since
            child.ready.set()
            self._stand_in.end()
        os.close(told)
