"""The connection to a Cluster: each master is asked, and left alone, by itself.

The rule that must not break: what a master did not answer is told as not answered, never as absent. It costs one time limit
once: from then on only what looks at all partitions asks that master again, and reads and writes wait for the others alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import repeat
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from cachesvc.breaker import Breaker
from cachesvc.errors import TierUnavailable
from cachesvc.ports import Clock
from cachesvc.tiers.redis_connection import Command, Connection, Group, Missed, Script, exchanged, limited_to, packed, scanned

_log = logging.getLogger(__name__)

_REDIRECTIONS = (MovedError, AskError, TryAgainError)
_CANNOT = (ClusterDownError, ReadOnlyError)  # the errors of a master that is none any more


class Master:
    """One master behind its breaker. `missed` counts the calls that it did not answer, or was not asked."""

    def __init__(self, node: ClusterNode, clock: Clock, timeout: float, most: int, failed: Callable[[], None]) -> None:
        self.node = node
        self.missed = 0
        self._breaker = Breaker(clock, threshold=1)
        self._timeout = timeout
        self._slots = asyncio.Semaphore(most)
        self._failed = failed

    @property
    def away(self) -> bool:
        return self._breaker.state != "closed"

    async def ask(
        self, commands: Sequence[Command], *, keep: type[ResponseError] | None = None, probing: bool = False
    ) -> list[Any] | None:
        """The answers, redirections among them; None where it did not answer, or is left alone. Only probing ends that."""
        if not (self._breaker.allows() if probing else not self.away):
            return self._miss()
        try:
            async with limited_to(self._timeout), self._slots:
                if self.away and not probing:  # found out while this waited for its turn
                    return self._miss()
                answers = await self._exchange(commands)
                kept = (*_REDIRECTIONS, keep) if keep is not None else _REDIRECTIONS
                wrong = next((a for a in answers if isinstance(a, Exception) and not isinstance(a, kept)), None)
                if isinstance(wrong, _CANNOT):
                    raise wrong
        except TierUnavailable as exc:
            if not self.away:
                _log.warning("a master of the Cluster is left alone: %s", exc, extra={"master": self.node.name})
            self._breaker.failed()
            self._failed()
            return self._miss()
        except BaseException:
            if probing:
                self._breaker.abandoned()
            raise
        if self.away:
            _log.info("a master of the Cluster answers again", extra={"master": self.node.name})
        self._breaker.succeeded()
        if wrong is not None:  # it says no, as where its memory is full: it is there
            _log.debug("a master of the Cluster refused: %s", wrong, extra={"master": self.node.name})
            return self._miss()
        return answers

    def _miss(self) -> list[Any] | None:
        self.missed += 1
        return None

    async def _exchange(self, commands: Sequence[Command]) -> list[object]:
        """By a connection of redis-py's, once more where it was lost: it may only have been idle while the master restarted."""
        line = self.node.acquire_connection()
        try:
            await self.node.disconnect_if_needed(line)
            try:
                return await exchanged(line, packed(commands), len(commands))
            except RedisConnectionError:
                return await exchanged(line, packed(commands), len(commands))
        finally:
            self.node.release(line)


class ClusterConnection(Connection):
    """A `Connection` whose answers are None where the master did not answer. Raises `TierUnavailable` where none does.

    Of redis-py's client it uses what knows the layout, and the connections to each node.
    """

    def __init__(self, cluster: RedisCluster, timeout: float, most: int, clock: Clock) -> None:
        self.timeout = timeout
        self._cluster = cluster
        self._layout = cluster.nodes_manager
        self._stale = True  # the layout may have changed
        self._masters: dict[str, Master] = {}
        self._unowned = 0  # commands whose slot nobody had
        self._master = partial(Master, clock=clock, timeout=timeout, most=most, failed=self._doubt)

    @property
    def masters(self) -> int:
        return len(self._masters)

    @property
    def masters_away(self) -> int:
        return sum(master.away for master in self._masters.values())

    def missed(self, key: bytes) -> Missed | None:
        """See `Connection`."""
        master = self._of(key)
        return (master, master.missed + self._unowned) if master is not None else None

    @asynccontextmanager
    async def limited(self) -> AsyncIterator[None]:
        """Each master has the time limit for itself, so that a silent one takes nothing from the others."""
        yield

    async def read(self, groups: Sequence[list[bytes]], *, probing: bool = False) -> list[list[bytes | None] | None]:
        return await self.send([("MGET", *group) for group in groups], probing=probing)

    async def run(self, script: Script, head: Sequence[bytes | str | int], groups: Sequence[Group]) -> list[Any]:
        calls = [(len(group.keys), *group.keys, *head, *group.arguments) for group in groups]
        return [answer[0] if answer is not None else None for answer in await self._evaluate(script, calls)]

    async def send(
        self, commands: Sequence[Command], *, keep: type[ResponseError] | None = None, probing: bool = False
    ) -> list[Any]:
        await self._lay_out(anew=probing)
        answers: list[Any] = [None] * len(commands)
        todo: Sequence[int] = range(len(commands))
        for _ in range(2):  # what has moved is asked for once more, where it is now
            shares: dict[Master, list[int]] = {}
            for place in todo:
                master = self._of(_key(commands[place]))
                if master is None:
                    self._unowned += 1
                    self._doubt()
                else:
                    shares.setdefault(master, []).append(place)
            todo = []
            asking = [m.ask([commands[n] for n in mine], keep=keep, probing=probing) for m, mine in shares.items()]
            for (master, mine), share in zip(shares.items(), await asyncio.gather(*asking), strict=True):
                for place, answer in zip(mine, share if share is not None else repeat(None), strict=False):
                    if not isinstance(answer, _REDIRECTIONS):
                        answers[place] = answer
                        continue
                    master.missed += 1  # for whoever goes over all of it
                    if isinstance(answer, MovedError):
                        await self._layout.move_slot(answer)
                        todo.append(place)
            if not todo:
                break
        if self.masters_away == self.masters and all(answer is None for answer in answers):
            raise TierUnavailable("redis", "no master of the Cluster answers")
        return answers

    async def everywhere(self, commands: Sequence[Command]) -> list[list[Any]]:
        await self._lay_out()
        told = [await master.ask(commands) for master in list(self._masters.values())]
        answers = [answer for answer in told if answer is not None]
        if len(answers) < len(told):
            raise TierUnavailable("redis", f"{len(told) - len(answers)} of {len(told)} masters did not answer")
        return answers

    async def scan(self, match: bytes) -> AsyncIterator[list[bytes]]:
        """See `Connection`. A master that does not answer is passed over, which `missed` tells."""
        await self._lay_out()
        for master in list(self._masters.values()):
            async for keys in scanned(master.ask, match):
                yield keys

    async def close(self) -> None:
        await self._layout.aclose()
        await self._layout.aclose("startup_nodes")

    def _doubt(self) -> None:
        self._stale = True

    async def _lay_out(self, *, anew: bool = False) -> None:
        """Learn which master has what; where that is known and may have changed, only for whom may wait for it."""
        if self._masters and not (self._stale and anew):
            return
        away = next((name for name, master in self._masters.items() if master.away), None)
        try:
            async with limited_to(self.timeout):
                await self._layout.initialize(last_failed_node_name=away)
        except TierUnavailable:
            if not self._masters:
                raise
            return
        self._stale = False
        found = {node.name: node for node in self._layout.get_nodes_by_server_type("primary")}
        for name in self._masters.keys() - found.keys():
            del self._masters[name]
        for node in found.values():
            self._master_at(node)

    def _of(self, key: bytes) -> Master | None:
        try:
            node = self._layout.get_node_from_slot(self._cluster.keyslot(key))
        except (KeyError, RedisClusterException):  # nobody has that slot
            return None
        return self._master_at(node)

    def _master_at(self, node: ClusterNode) -> Master:
        master = self._masters.get(node.name)
        if master is None:
            master = self._masters[node.name] = self._master(node)
        master.node = node
        return master


def _key(command: Command) -> bytes:
    """The first key of a command, which all its others share a slot with."""
    key = command[3] if command[0] in ("EVALSHA", "EVAL") else command[1]
    assert isinstance(key, bytes)
    return key
