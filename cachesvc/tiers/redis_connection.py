"""The connection to Redis, behind a few calls: here to one server, in `redis_cluster` to the masters of a Cluster.

A dead Redis costs its caller at most one time limit: whoever calls does so within `limited()`, and nothing in here waits or
retries beyond it. Opening connects to nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files
from itertools import chain, islice
from typing import Any, Final, NamedTuple

import hiredis
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from cachesvc.errors import TierUnavailable

Argument = bytes | str | int
Command = tuple[Argument, ...]

_SCAN_COUNT: Final = 512
DRIVER_ERRORS: Final = (RedisError, RedisClusterException, OSError)  # the second is not of the first


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


Missed = tuple[object, int]  # a server, and how many calls it did not answer


@asynccontextmanager
async def limited_to(seconds: float) -> AsyncIterator[None]:
    """The time limit of a call; whatever the driver raises inside becomes `TierUnavailable`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as exc:
        raise TierUnavailable("redis", f"no answer within {seconds:g} s") from exc
    except DRIVER_ERRORS as exc:
        raise TierUnavailable("redis", str(exc) or type(exc).__name__) from exc
    except RuntimeError as exc:
        if not _was_reset(exc):
            raise
        raise TierUnavailable("redis", "the connection was reset") from exc


@dataclass
class Connection:
    """Commands to one server. Over a Cluster (`redis_cluster`) an answer is None where its master did not answer."""

    client: Redis
    timeout: float
    slots: asyncio.Semaphore  # how many calls at once: redis-py's pools refuse instead of waiting, so the wait is here
    idle: list[AbstractConnection] = field(default_factory=list)  # the one used last is used next

    @property
    def masters(self) -> int:
        """How many servers share the keys."""
        return 1

    @property
    def masters_away(self) -> int:
        """How many of them are left alone since they did not answer, while others may."""
        return 0

    def missed(self, key: bytes) -> Missed | None:
        """Whose a key is, and how many calls that one has missed: the same before and after, and it missed none between.

        None where it is nobody's.
        """
        return None, 0

    def limited(self) -> AbstractAsyncContextManager[None]:
        """The time limit of a call, within which all of it is done."""
        return limited_to(self.timeout)

    async def read(self, groups: Sequence[list[bytes]], *, probing: bool = False) -> list[list[bytes | None] | None]:
        """The values under the keys of each group; a group is read in one atomic step.

        Whoever is `probing` may wait for a master that was left alone.
        """
        values: list[bytes | None] = (await self.send([("MGET", *chain.from_iterable(groups))]))[0]
        return by_group(values, groups)

    async def run(self, script: Script, head: Sequence[Argument], groups: Sequence[Group]) -> list[Any]:
        """The answer of a script for each group; each group is one atomic step."""
        keys = [key for group in groups for key in group.keys]
        arguments = [argument for group in groups for argument in group.arguments]
        answers: list[Any] = (await self._evaluate(script, [(len(keys), *keys, *head, *arguments)]))[0]
        return answers

    async def _evaluate(self, script: Script, calls: Sequence[Command]) -> list[Any]:
        answers = await self.send([("EVALSHA", script.sha, *call) for call in calls], keep=NoScriptError)
        # the server forgot its scripts (a restart, SCRIPT FLUSH): EVAL tells it again
        unknown = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            again = await self.send([("EVAL", script.text, *calls[place]) for place in unknown])
            for place, answer in zip(unknown, again, strict=True):
                answers[place] = answer
        return answers

    async def send(
        self, commands: Sequence[Command], *, keep: type[ResponseError] | None = None, probing: bool = False
    ) -> list[Any]:
        """The answers to commands, in one round trip; an error is raised unless it is of the type to `keep`."""
        answers = await self._exchange(self.client.connection_pool, packed(commands), len(commands))
        for answer in answers:
            if isinstance(answer, Exception) and not (keep is not None and isinstance(answer, keep)):
                raise answer
        return answers

    async def _exchange(self, pool: ConnectionPool, sent: bytes, count: int) -> list[object]:
        """The answers of the one server, by a connection of redis-py's; what its client does around a call takes as long."""
        async with self.slots:
            line = self.idle.pop() if self.idle else pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                try:
                    return await exchanged(line, sent, count)
                except RedisConnectionError:  # it may only have been idle while the server restarted
                    return await exchanged(line, sent, count)
            finally:
                self.idle.append(line)  # where anything went wrong, redis-py has disconnected it

    async def everywhere(self, commands: Sequence[Command]) -> list[list[Any]]:
        """The answers of every server to the same commands. Raises `TierUnavailable` where one does not answer."""
        return [await self.send(commands)]

    async def scan(self, match: bytes) -> AsyncIterator[list[bytes]]:
        """The keys that match, step by step, on every master; each step has the time limit for itself. May repeat a key."""

        async def step(commands: Sequence[Command]) -> list[Any]:
            async with self.limited():
                return await self.send(commands)

        async for keys in scanned(step, match):
            yield keys

    async def close(self) -> None:
        """Disconnect from everything."""
        for line in self.idle:
            await line.disconnect()
        await self.client.aclose()


async def scanned(ask: Callable[[Sequence[Command]], Awaitable[list[Any] | None]], match: bytes) -> AsyncIterator[list[bytes]]:
    """The keys of one server that match, until it has told all or does not answer."""
    cursor = b"0"
    while True:
        answers = await ask([("SCAN", cursor, "MATCH", match, "COUNT", _SCAN_COUNT)])
        if answers is None:
            return
        [(cursor, keys)] = answers
        if keys:
            yield keys
        if cursor == b"0":
            return


def by_group(values: Sequence[bytes | None], groups: Sequence[list[bytes]]) -> list[list[bytes | None] | None]:
    """The values of all groups, in order, cut into those of each."""
    rest = iter(values)
    return [list(islice(rest, len(group))) for group in groups]


def packed(commands: Sequence[Command]) -> bytes:
    """Put together in C: in Python a script call of 64 entries costs 1 ms."""
    return b"".join(map(hiredis.pack_command, commands))  # type: ignore[arg-type] # its stub says: a tuple of one


async def exchanged(line: AbstractConnection, packed: bytes, count: int) -> list[object]:
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


def packing(kind: type[AbstractConnection]) -> type[AbstractConnection]:
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
