"""The Redis server that an authority stands on: commands and scripts within a time limit, and its wake-ups.

A command that changes more when it is sent twice is sent once; who sent it finds out what became of it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from cachesvc.errors import SettingsError, TierUnavailable
from cachesvc.model.position import MAX_SEQ
from cachesvc.ports import Clock

Argument = str | bytes | int | float
_Answer = TypeVar("_Answer")

_SCRIPTS: Final = {
    **dict.fromkeys(("append", "begin", "trim", "sweep", "bury", "forget", "unrevoke", "job_add", "job_move"), "cachesvc.logs"),
    **dict.fromkeys(("acquire", "draw", "release"), "cachesvc.tiers"),  # shared with Redis as a tier
}
_FREEING: Final = "append_freeing"  # the append script, for what a Redis that is full is to take all the same
_IDLE: Final = 30.0  # seconds without a wake-up after which the listening connection is tried
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Server:
    """A connection pool and the scripts. Every call is over within `timeout`; it raises `TierUnavailable`."""

    client: Redis
    timeout: float
    scripts: dict[str, AsyncScript]

    async def ask(self, *command: Argument) -> Any:
        """The answer of a command that may be carried out twice."""
        async with limited(self.timeout):
            return await _twice(lambda: self.client.execute_command(*command))  # type: ignore[no-untyped-call]

    async def time(self) -> float:
        """Unix seconds, as the server has them."""
        seconds, micros = await self.ask("TIME")
        return float(seconds + micros / 1_000_000)

    async def once(self, *command: Argument) -> Any:
        """The answer of a command that is sent once."""
        async with limited(self.timeout):
            return await self.client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def together(self, *commands: Sequence[Argument]) -> list[Any]:
        """The answers of commands, as `ask`s, carried out in one step that nobody else comes between."""

        async def execute() -> list[Any]:
            async with self.client.pipeline(transaction=True) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return await pipeline.execute()

        async with limited(self.timeout):
            return await _twice(execute)

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Any:
        """What a script of `lua/` answers."""
        async with limited(self.timeout):
            return await self.scripts[script](keys=keys, args=arguments)


async def _twice(send: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Once more, when the connection turns out to be one that a restart of the server left behind."""
    try:
        return await send()
    except RedisConnectionError:
        return await send()


@asynccontextmanager
async def limited(seconds: float) -> AsyncIterator[None]:
    """A time limit; what the driver raises becomes `TierUnavailable`, with the driver's error as its cause."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as exc:
        raise TierUnavailable("redis", f"no answer within {seconds:g} s") from exc
    except (RedisError, OSError) as exc:
        answered = isinstance(exc, ResponseError)  # it is there, and says no: out of memory, read-only
        raise TierUnavailable("redis", str(exc) or type(exc).__name__, answered=answered) from exc


@asynccontextmanager
async def connected(
    url: str, *, timeout: float, max_connections: int, channel: str, wake: Callable[[int], None], clock: Clock
) -> AsyncIterator[Server]:
    """The server of a URL, which is to answer now. `wake` is called with what is published to `channel`: a sequence.

    Raises `SettingsError` for a URL that is none.
    """
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=max_connections + 1,  # one of them listens
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )
        pool.make_connection()  # type: ignore[no-untyped-call] # which refuses a parameter that is none
    except (ValueError, TypeError) as exc:
        raise SettingsError("levels.redis.url", f"{url.partition(':')[0]}://…", f"is not a Redis URL: {exc}") from exc
    client = Redis.from_pool(pool)
    texts = {name: files(package).joinpath("lua", f"{name}.lua").read_bytes() for name, package in _SCRIPTS.items()}
    texts[_FREEING] = texts["append"].replace(b"#!lua", b"#!lua flags=allow-oom", 1)
    scripts = {name: client.register_script(text) for name, text in texts.items()}
    failed: Exception | None = None
    try:
        server = Server(client, timeout, scripts)
        await server.ask("PING")
        async with asyncio.TaskGroup() as tasks:
            ready = asyncio.Event()
            listening = tasks.create_task(_listen(client, channel, wake, clock, ready))
            try:
                async with limited(timeout):
                    await ready.wait()
                yield server
            except Exception as exc:  # noqa: BLE001 - raised again below: here it would be put into a group
                failed = exc
            finally:
                while not listening.done():  # more than once: Python 3.11's `wait_for`, used by the driver, can lose it
                    listening.cancel()
                    await asyncio.wait({listening}, timeout=_FIRST_PAUSE)
    finally:
        await client.aclose()
    if failed is not None:
        raise failed


async def _listen(client: Redis, channel: str, wake: Callable[[int], None], clock: Clock, ready: asyncio.Event) -> None:
    """Listen for ever, on a connection of the pool that is replaced when it is lost."""
    pause = _FIRST_PAUSE
    while True:
        try:
            async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                await pubsub.subscribe(channel)
                ready.set()
                pause = _FIRST_PAUSE
                wake(MAX_SEQ)  # for what was published while nobody listened
                while True:
                    message = await pubsub.get_message(timeout=_IDLE)
                    if message is None:
                        await pubsub.ping()
                    else:
                        told = message["data"]
                        wake(int(told) if told.isdigit() and len(told) <= 16 else MAX_SEQ)  # anyone may publish anything
        except (RedisError, OSError) as exc:
            if pause == _FIRST_PAUSE:
                _log.warning("wake-ups are not heard until Redis is back: %s", exc)
            await clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


async def check(server: Server, url: str, *, durable: bool) -> None:
    """Refuse a server that cannot be the authority: a Cluster, or one that forgets what it acknowledged."""

    def refuse(needed: str) -> SettingsError:
        return SettingsError("levels.redis.url", re.sub(r"(?<=:)[^:@/]+(?=@)", "***", url), needed)

    cluster = await server.ask("INFO", "cluster")
    if int(cluster.get("cluster_enabled", 0)):
        raise refuse("a Cluster cannot be the authority: enable levels.database, or use a standalone server")
    if not durable:
        return
    try:
        found = await server.ask("CONFIG", "GET", "*")
    except TierUnavailable as exc:
        if not isinstance(exc.__cause__, ResponseError):
            raise
        _log.warning("Redis does not tell whether it is durable, as the authority has to be: %s", exc)
        return
    said = {name.decode(): value.decode() for name, value in found.items()}
    if said["maxmemory"] != "0" and said["maxmemory-policy"] != "noeviction":
        raise refuse(f"as the authority it needs maxmemory-policy noeviction; it has {said['maxmemory-policy']}")
    for name, needed in (("appendonly", "yes"), ("appendfsync", "always")):
        if said[name] != needed:
            raise refuse(f"as the authority it needs {name} {needed}; it has {name} {said[name]}")
