"""A worker: one node behind the socket that the supervisor bound. Started by it as `python -P -m cachesvc.node`.

The first line of standard input is JSON: `settings`, `fd` (the listening socket), `worker` (its number), `notify` (where to
write `ready`). Standard input stays open as long as the supervisor lives; at its end this process ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn

from cachesvc.errors import CacheError, SchemaMismatch, SettingsError
from cachesvc.node.building import opened
from cachesvc.node.doorman import doorman_of
from cachesvc.node.live import live_limits, modules_of
from cachesvc.node.rates import rates_of
from cachesvc.node.restoring import spool_of
from cachesvc.observability.logs import configure
from cachesvc.protocol.warming import WarmLimits
from cachesvc.settings import Settings
from cachesvc.web.accepting import Acceptor
from cachesvc.web.admission import Admission, AdmissionLimits
from cachesvc.web.app import create_app
from cachesvc.web.hot import hot
from cachesvc.web.leaving import PATIENCE, LeavingProtocol, leaving
from cachesvc.web.live import Live
from cachesvc.web.live_protocol import SocketLimits, live_protocol
from cachesvc.web.protocol import HeadLimits, limited
from cachesvc.web.service import Limits, Service

GARBAGE = 20_000, 20, 50  # a write makes dozens of objects that live for a tick: fewer looks at them, 4 to 12 % less CPU
OWN_FILES = 256  # descriptors that are no client's connection
_LOOKED_AFTER = 0.02  # seconds, whether clients have left
EXIT_FAILED = 1
EXIT_SETTINGS = 2
EXIT_SCHEMA = 3


class _Server(uvicorn.Server):
    """Says when it is ready. Signals are the worker's: uvicorn would raise them again before the node is closed."""

    def __init__(self, config: uvicorn.Config, notify: int) -> None:
        super().__init__(config)
        self._notify = notify
        self._acceptors: list[Acceptor] = []
        self.group: asyncio.TaskGroup | None = None
        self.live: Live | None = None
        self._left_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Said before the first connection is accepted: from then on the supervisor refuses none, and what comes waits for us.
        os.write(self._notify, b"ready\n")
        os.close(self._notify)
        await super().startup([])
        assert self.group is not None
        self._acceptors = [Acceptor(sock, self._protocol, self.group) for sock in sockets or []]

    def leave(self) -> None:
        """From here on who connects is refused, and the next answer on each connection is its last."""
        self.should_exit = True
        if self._left_at is not None:
            return
        self._left_at = asyncio.get_running_loop().time()
        for acceptor in self._acceptors:
            acceptor.close()
        for connection in self.server_state.connections:
            if isinstance(connection, LeavingProtocol):
                connection.leave()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.leave()
        if self.live is not None:
            await self.live.drain()
        await self._until_heard_out()
        await super().shutdown(sockets)

    async def _until_heard_out(self) -> None:
        """Until no client is left, or `PATIENCE` is over. What came meanwhile is read before connections are closed."""
        assert self._left_at is not None
        loop = asyncio.get_running_loop()
        while self.server_state.connections and loop.time() < self._left_at + PATIENCE:  # noqa: ASYNC110 - a set tells nobody
            await asyncio.sleep(_LOOKED_AFTER)
        await asyncio.sleep(0)

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        if self._left_at is not None and isinstance(made, LeavingProtocol):
            made.leave()
        return made

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(settings: Settings, listening: socket.socket, *, worker: int, notify: int) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is in flight, close the node, and return."""
    host, port = listening.getsockname()[:2]
    async with opened(settings, address=f"{host}:{port}#{worker}") as node:
        doorman, background = doorman_of(settings.auth, node.clock, node.revocations)
        admission = Admission(node.clock, _admission_limits(settings), writes_delay=node.cache.writes.combiner.delay)
        rates = rates_of(settings, node)
        service = Service(
            cache=node.cache,
            feed=node.feed,
            node=node,
            clock=node.clock,
            jobs=node.jobs,
            limits=Limits(
                max_value_size=settings.server.max_value_size,
                max_batch_operations=settings.server.max_batch_operations,
                max_invalidate_keys=settings.server.max_invalidate_keys,
                max_followers=settings.server.max_followers,
                warming=_warm_limits(settings),
                max_snapshots=settings.jobs.max_snapshots,
                max_job_listeners=settings.jobs.max_listeners,
                request_timeout=settings.engine.request_timeout,
                max_revocations=settings.auth.max_revocations,
                revoked_for=settings.auth.revoked_for,
            ),
            version=node.version,
            spool=spool_of(settings),
            admission=admission,
            doorman=doorman,
            revocations=node.revocations,
            rates=rates,
            sites=node.sites,
        )
        live = Live(
            service,
            live_limits(settings.realtime, settings.auth, service.limits, settings.sites),
            modules=modules_of(settings.realtime),
        )
        session = live.limits.session
        server = _Server(
            uvicorn.Config(
                create_app(service, live),
                http=leaving(
                    await hot(
                        limited(_head_limits(settings), admission),
                        service,
                        at_once=settings.server.hot_path,
                        logged=settings.server.access_log,
                    )
                ),
                log_config=None,
                access_log=settings.server.access_log,
                lifespan="off",
                server_header=False,
                timeout_keep_alive=round(settings.server.header_timeout) or 1,
                timeout_graceful_shutdown=int(settings.server.shutdown_timeout) or 1,
                ws=live_protocol(admission, SocketLimits(settings.server.header_timeout, settings.realtime.send_timeout)),
                ws_max_size=session.max_frame_size,
                ws_ping_interval=session.ping_interval,
                ws_ping_timeout=session.ping_timeout,
                ws_per_message_deflate=False,  # a buffer for each connection; batches compress better, once for all
            ),
            notify,
        )
        server.live = live
        counting = [rates.run()] if rates is not None else []

        def stop() -> None:
            service.closing.set()
            server.leave()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_reader(sys.stdin.fileno(), _supervisor_gone)
        try:
            async with asyncio.TaskGroup() as group:
                server.group = group
                running = [group.create_task(work) for work in (live.run(), *background, *counting)]
                await server.serve(sockets=[listening])
                for task in running:
                    task.cancel()
        finally:
            loop.remove_reader(sys.stdin.fileno())


def _head_limits(settings: Settings) -> HeadLimits:
    server = settings.server
    return HeadLimits(
        server.max_request_line,
        server.max_header_bytes,
        server.max_headers,
        server.header_timeout,
        server.max_pipelined,
        server.stall_timeout,
    )


def _warm_limits(settings: Settings) -> WarmLimits:
    warm = settings.warm
    templates = {name: loader.key for name, loader in settings.loaders.items()}
    called = modules_of(settings.realtime).called
    return WarmLimits(warm.rate, warm.max_rate, warm.concurrency, warm.max_concurrency, warm.max_keys, templates, called)


def _admission_limits(settings: Settings) -> AdmissionLimits:
    """As many connections as are set, or as the system lets this process have beside its own files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = settings.server
    open_files = server.max_connections if most == resource.RLIM_INFINITY else max(1, most - OWN_FILES)
    return AdmissionLimits(server.max_requests, min(server.max_connections, open_files), server.max_delay)


def _supervisor_gone() -> None:
    if not os.read(sys.stdin.fileno(), 1):
        os._exit(EXIT_FAILED)


def main() -> int:
    """Exit codes: 0 asked to stop, 1 failed, 2 settings, 3 a schema of a newer version."""
    hello = json.loads(_first_line(sys.stdin.fileno()))
    settings = Settings(**hello["settings"])
    configure()
    logging.getLogger("uvicorn.error").setLevel(
        logging.ERROR
    )  # its warnings are of what clients send: that must not fill the log
    gc.set_threshold(*GARBAGE)
    listening = socket.socket(fileno=hello["fd"])
    failed: CacheError | None = None
    try:
        with asyncio.Runner(loop_factory=uvicorn.Config(app="", log_config=None).get_loop_factory()) as runner:
            runner.run(run(settings, listening, worker=hello["worker"], notify=hello["notify"]))
    except* CacheError as group:
        failed = _first_of(group)
    if failed is None:
        return 0
    sys.stderr.write(f"cachesvc: {failed}\n")
    return {SettingsError: EXIT_SETTINGS, SchemaMismatch: EXIT_SCHEMA}.get(type(failed), EXIT_FAILED)


def _first_of(group: BaseExceptionGroup[CacheError]) -> CacheError:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _first_line(fd: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            break
        line += byte
    return line


if __name__ == "__main__":
    sys.exit(main())
