"""The connection to Redis: standalone or Cluster, plain or TLS, behind three calls.

A dead Redis costs its caller at most one time limit: whoever calls does so within `limited()`, and nothing in here waits or
retries beyond it. Opening connects to nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files
from itertools import chain
from typing import Final, NamedTuple

import hiredis
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    ClusterDownError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cachesvc.errors import SettingsError, TierUnavailable

Argument = bytes | str | int
Command = tuple[Argument, ...]

_SCAN_COUNT: Final = 512
_DRIVER_ERRORS: Final = (RedisError, RedisClusterException, OSError)  # the second is not of the first
# what a Cluster answers when a node is gone or its slots have moved
_LAYOUT_ERRORS: Final = (RedisConnectionError, RedisTimeoutError, RedisClusterException, ClusterDownError, OSError)


@dataclass(frozen=True, slots=True)
class Script:
    """A script of `lua/`, by the hash under which the server keeps it."""

    text: bytes
    sha: str


def load_script(name: str) -> Script:
    text = files("cachesvc.tiers").joinpath("lua", f"{name}.lua").read_bytes()
    return Script(text, sha1(text, usedforsecurity=False).hexdigest())


class Group(NamedTuple):
    """What one script call does in one partition: its keys share a slot."""

    keys: list[bytes]
    arguments: list[Argument]


@dataclass(slots=True)
class Connection:
    """Commands to one server, or to a Cluster, where keys of different slots go separately but in one round trip."""

    client: Redis | RedisCluster
    timeout: float
    slots: asyncio.Semaphore  # how many calls at once: redis-py's pools refuse instead of waiting, so the wait is here
    idle: list[AbstractConnection] = field(default_factory=list)  # to the one server; the one used last is used next
    stale: bool = field(default=False)  # the Cluster's layout may have changed

    @asynccontextmanager
    async def limited(self) -> AsyncIterator[None]:
        """The time limit of a call; whatever the driver raises inside becomes `TierUnavailable`."""
        try:
            async with asyncio.timeout(self.timeout):
                yield
        except TimeoutError as exc:
            self.stale = True
            raise TierUnavailable("redis", f"no answer within {self.timeout:g} s") from exc
        except _DRIVER_ERRORS as exc:
            self.stale = isinstance(
                exc, (RedisConnectionError, RedisTimeoutError, RedisClusterException, ClusterDownError, OSError)
            )
            raise TierUnavailable("redis", str(exc) or type(exc).__name__) from exc
        except RuntimeError as exc:
            if not _was_reset(exc):
                raise
            self.stale = True
            raise TierUnavailable("redis", "the connection was reset") from exc

    async def read(self, groups: Sequence[list[bytes]]) -> list[bytes | None]:
        """The values under the keys of all groups, in order; a group is read in one atomic step."""
        if isinstance(self.client, RedisCluster):
            answers = await self.send([("MGET", *group) for group in groups])
            return list(chain.from_iterable(answers))
        values: list[bytes | None] = (await self.send([("MGET", *chain.from_iterable(groups))]))[0]
        return values

    async def run(self, script: Script, head: Iterable[Argument], groups: Sequence[Group]) -> list[object]:
        """The answer of a script for each group; each group is one atomic step."""
        if isinstance(self.client, RedisCluster):
            calls = [(len(group.keys), *group.keys, *head, *group.arguments) for group in groups]
            answers = await self._evaluate(script, calls)
            return [answer[0] for answer in answers]
        keys = [key for group in groups for key in group.keys]
        arguments = [argument for group in groups for argument in group.arguments]
        return (await self._evaluate(script, [(len(keys), *keys, *head, *arguments)]))[0]

    async def _evaluate(self, script: Script, calls: Sequence[Command]) -> list[list[object]]:
        answers = await self.send([("EVALSHA", script.sha, *call) for call in calls], keep=NoScriptError)
        # the server forgot its scripts (a restart, SCRIPT FLUSH): EVAL tells it again
        unknown = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            again = await self.send([("EVAL", script.text, *calls[place]) for place in unknown])
            for place, answer in zip(unknown, again, strict=True):
                answers[place] = answer
        return answers

    async def send(self, commands: Sequence[Command], *, keep: type[ResponseError] | None = None) -> list:  # type: ignore[type-arg]
        """The answers to commands, in one round trip; an error is raised unless it is of the type to `keep`."""
        if isinstance(self.client, RedisCluster):
            async with self.slots:
                if self.stale:
                    self.stale = False
                    await self.client.nodes_manager.initialize()
                pipeline = self.client.pipeline()
                for command in commands:
                    pipeline.execute_command(*command)
                answers = await pipeline.execute(raise_on_error=False)
        else:
            packed = b"".join(map(hiredis.pack_command, commands))  # type: ignore[arg-type] # its stub says: a tuple of one
            answers = await self._exchange(self.client.connection_pool, packed, len(commands))
        for answer in answers:
            if isinstance(answer, Exception) and not (keep is not None and isinstance(answer, keep)):
                raise answer
        return answers

    async def _exchange(self, pool: ConnectionPool, packed: bytes, count: int) -> list[object]:
        """The answers of the one server, by a connection of redis-py's; what its client does around a call takes as long."""
        async with self.slots:
            line = self.idle.pop() if self.idle else pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                try:
                    return await _exchanged(line, packed, count)
                except RedisConnectionError:  # it may only have been idle while the server restarted
                    return await _exchanged(line, packed, count)
            finally:
                self.idle.append(line)  # where anything went wrong, redis-py has disconnected it

    async def close(self) -> None:
        """Disconnect from everything."""
        for line in self.idle:
            await line.disconnect()
        await self.client.aclose()

    async def servers(self) -> Sequence[Redis | ClusterNode]:
        """The one server, or every master of the Cluster."""
        if not isinstance(self.client, RedisCluster):
            return [self.client]
        await self.client.initialize()
        return [*self.client.get_primaries()]

    async def scan(self, match: bytes) -> AsyncIterator[list[bytes]]:
        """The keys that match, step by step, on every master; each step has the time limit for itself. May repeat a key."""
        async with self.limited():
            servers = await self.servers()
        for server in servers:
            cursor = 0
            while True:
                async with self.limited():
                    cursor, keys = await server.execute_command("SCAN", cursor, "MATCH", match, "COUNT", _SCAN_COUNT)
                if keys:
                    yield keys
                if cursor == 0:
                    break


async def _exchanged(line: AbstractConnection, packed: bytes, count: int) -> list[object]:
    """Send commands, and read an answer for each; an error that one is answered with is its answer."""
    await line.send_packed_command(packed)
    answers: list[object] = []
    for _ in range(count):
        try:
            answers.append(await line.read_response())
        except ResponseError as exc:
            answers.append(exc)
    return answers


def _was_reset(error: RuntimeError) -> bool:
    """Whether it is how uvloop tells that a connection was reset before it was written to: it is no OSError there."""
    return "the handler is closed" in str(error)


def _packing(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """The same connection with commands put together in C: in Python a script call of 64 entries costs 1 ms.

    One that was reset while it lay idle is told as any other that was lost, so that it is connected anew.
    """

    class Packing(kind):  # type: ignore[misc, valid-type]
        def pack_command(self, *args: Argument) -> list[bytes]:
            name, *rest = args
            words = name.split() if isinstance(name, str) else (name,)  # redis-py writes `CLIENT SETINFO` as one
            return [hiredis.pack_command((*words, *rest))]

        async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
            try:
                await super().send_packed_command(command, check_health)
            except RuntimeError as exc:
                if not _was_reset(exc):
                    raise
                raise RedisConnectionError("the connection was reset") from exc

    return Packing


@asynccontextmanager
async def connected(url: str, *, timeout: float, max_connections: int) -> AsyncIterator[Connection]:
    """A connection for `redis://`, `rediss://`, `unix://`, `redis+cluster://` and `rediss+cluster://`.

    The URL's query is as redis-py takes it (`?ssl_ca_certs=…`, `?db=1`). Raises `SettingsError` for a URL that is not one.
    """
    client: Redis | RedisCluster
    # RESP2: nothing here needs more, and every proxy speaks it
    options = {"protocol": 2, "socket_timeout": None, "socket_connect_timeout": timeout}
    scheme, separator, rest = url.partition("://")
    try:
        if scheme.endswith("+cluster"):
            client = RedisCluster.from_url(
                scheme.removesuffix("+cluster") + separator + rest,
                max_connections=max_connections,
                retry=Retry(NoBackoff(), 0),
                **options,
            )
        else:
            # once more after a lost connection: it may only have been idle while the server restarted
            retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
            pool = BlockingConnectionPool.from_url(
                url, max_connections=max_connections, timeout=timeout, retry=retry, **options
            )
            pool.connection_class = _packing(pool.connection_class)
            client = Redis.from_pool(pool)
    except (ValueError, TypeError, *_DRIVER_ERRORS) as exc:
        raise SettingsError("levels.redis.url", scheme + separator + "…", f"is not a Redis URL: {exc}") from exc
    connection = Connection(client, timeout, asyncio.Semaphore(max_connections))
    try:
        yield connection
    finally:
        await connection.close()
