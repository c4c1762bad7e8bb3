"""Redis of an interleaving: the server in a dict, its four scripts in Python, and a node's connection to it.

The rule that must not break: the scripts here do what `cachesvc/tiers/lua` does; `test_redis_server.py` holds them against it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, cast

import redis

from cachesvc.errors import TierUnavailable
from cachesvc.tiers.redis_connection import Argument, Command, Connection, Group, Script, by_group, load_script
from tests.properties.loop import Time
from tests.properties.wire import Caller, Wire

PAGE: Final = 2  # keys that one step of a scan finds
NAMES: Final = {load_script(name).sha: name for name in ("put", "replay", "restart", "retire")}
_STATE: Final = re.compile(rb"(\d+) (\d+) (\d+) ([0-9a-f]+) (\S+)")

Value = bytes | dict[bytes, float]


class Server(Protocol):
    """What a connection asks of a server: each call is one step. A server that is `away` answers nothing."""

    away: bool

    def read(self, groups: Sequence[list[bytes]]) -> list[bytes | None]: ...

    def run(self, name: str, head: Sequence[Argument], groups: Sequence[Group]) -> list[object]: ...

    def send(self, commands: Sequence[Command]) -> list[Any]: ...

    def scan(self, after: bytes, match: bytes) -> tuple[bytes, list[bytes]]: ...

    def names(self) -> list[bytes]: ...

    def dump(self) -> dict[bytes, Value]: ...

    def restore(self, held: dict[bytes, Value]) -> None: ...

    def evict(self, name: bytes) -> None: ...


class RedisServer:
    """One server in a dict. `without` names the rule that its scripts leave out."""

    def __init__(self, time: Time, *, without: str = "") -> None:
        self.held: dict[bytes, Value] = {}
        self.ends: dict[bytes, float] = {}
        self.away = False
        self._without = without
        self._time = time
        self._generation = 1 << 40

    def read(self, groups: Sequence[list[bytes]]) -> list[bytes | None]:
        return [self._get(name) for group in groups for name in group]

    def run(self, name: str, head: Sequence[Argument], groups: Sequence[Group]) -> list[object]:
        script = {"put": self._put, "replay": self._replay, "restart": self._restart, "retire": self._retire}[name]
        return [script(head, group) for group in groups]

    def send(self, commands: Sequence[Command]) -> list[Any]:
        answers: list[Any] = []
        for command, *arguments in commands:
            name = cast(bytes, arguments[0])
            if command == "GETRANGE":
                start, end = cast(int, arguments[1]), cast(int, arguments[2])
                answers.append((self._get(name) or b"")[start : end + 1])
            elif command == "UNLINK":
                self.evict(name)
                answers.append(1)
            else:
                raise NotImplementedError(command)
        return answers

    def scan(self, after: bytes, match: bytes) -> tuple[bytes, list[bytes]]:
        found = sorted(name for name in self.held if name > after)[:PAGE]
        return (found[-1] if len(found) == PAGE else b""), found

    def live(self) -> dict[bytes, Value]:
        """What is not past its time."""
        now = self._time.seconds
        return {name: value for name, value in self.held.items() if self.ends.get(name, now + 1) > now}

    def names(self) -> list[bytes]:
        return sorted(self.held)

    def dump(self) -> dict[bytes, Value]:
        return {name: dict(value) if isinstance(value, dict) else value for name, value in self.held.items()}

    def restore(self, held: dict[bytes, Value]) -> None:
        self.held = {name: dict(value) if isinstance(value, dict) else value for name, value in held.items()}
        self.ends = {name: end for name, end in self.ends.items() if name in held}

    def evict(self, name: bytes) -> None:
        self.held.pop(name, None)
        self.ends.pop(name, None)

    def _get(self, name: bytes) -> bytes | None:
        value = self.held.get(name)
        if value is None or isinstance(value, dict):
            return None
        if self.ends.get(name, self._time.seconds + 1) <= self._time.seconds:
            self.evict(name)
            return None
        return value

    def _version(self, name: bytes) -> int:
        value = self._get(name)
        return int.from_bytes(value[1:8]) if value is not None and len(value) >= 8 else -1

    def _recent(self, name: bytes) -> dict[bytes, float]:
        recent = self.held.setdefault(name, {})
        assert isinstance(recent, dict)
        return recent

    # the scripts, each for one partition

    def _put(self, head: Sequence[Argument], group: Group) -> list[object]:
        epoch, token = (int(word) for word in head)
        state_key, recent_key, *names = group.keys
        generation, count, *offers = group.arguments
        state = self._get(state_key)
        answer: list[object] = [state]
        found = _STATE.fullmatch(state or b"")
        if found is None or int(found[1]) != epoch or found[4] != generation or not count:
            return answer
        cursor, low = int(found[2]), int(found[3])
        recent = self._recent(recent_key)
        if b"" not in recent and self._without != "evicted":
            low = cursor
            answer[0] = self._write_state(state_key, epoch, cursor, low, found[4], found[5])
            recent[b""] = float("inf")
        for place, name in enumerate(names):
            member, version, ttl, stored = cast(tuple[bytes, int, int, bytes], offers[4 * place : 4 * place + 4])
            answer.append(
                self._put_one(name, version, ttl, stored, too_old=max(token, version) < low, known=recent.get(member))
            )
        return answer

    def _put_one(self, name: bytes, version: int, ttl: int, stored: bytes, *, too_old: bool, known: float | None) -> object:
        if too_old and self._without != "low":
            return 0
        if known is not None and known > version and self._without != "recent":
            return 0
        held = self._version(name) if self._without != "merge" else -1
        if held > version:
            return self._get(name)
        if ttl == 0:
            if held < version:
                self.evict(name)
        elif held < version:
            self.held[name] = stored
            self.ends[name] = self._time.seconds + ttl / 1000
        return 1

    def _replay(self, head: Sequence[Argument], group: Group) -> object:
        *numbers, change_id = head
        epoch, upto, limit, least = map(int, numbers)
        state_key, recent_key, *names = group.keys
        generation, expected, _, *changes = group.arguments
        found = _STATE.fullmatch(self._get(state_key) or b"")
        if found is None or int(found[1]) != epoch or found[4] != generation:
            return 0
        if int(found[2]) != expected and self._without != "order":
            return 0
        low = int(found[3])
        if low < least and self._without != "swept":
            return 0
        if names:
            recent = self._recent(recent_key)
            for place, name in enumerate(names):
                member, version = cast(bytes, changes[2 * place]), cast(int, changes[2 * place + 1])
                if self._version(name) < version and self._without != "replay":
                    self.evict(name)
                recent[member] = max(recent.get(member, 0.0), version)
            over = len(recent) - 1 - limit
            if over > 0:
                dropped = sorted(recent, key=lambda member: (recent[member], member))[:over]
                low = max(low, int(recent[dropped[-1]]))
                for member in dropped:
                    del recent[member]
        self._write_state(state_key, epoch, upto, low, found[4], str(change_id).encode())
        return 1

    def _restart(self, head: Sequence[Argument], group: Group) -> object:
        epoch, sequence = map(int, head[:2])
        if self._without != "generation":
            self._generation += 1
        self.evict(group.keys[1])
        self._recent(group.keys[1])[b""] = float("inf")
        return self._write_state(
            group.keys[0], epoch, sequence, sequence, b"%x" % self._generation, str(list(head)[2]).encode()
        )

    def _retire(self, head: Sequence[Argument], group: Group) -> object:
        epoch, sequence = (int(word) for word in head)
        state_key, recent_key, *names = group.keys
        state = self._get(state_key)
        found = _STATE.fullmatch(state or b"")
        if found is None or int(found[1]) != epoch or found[4] != group.arguments[0]:
            return state
        if int(found[3]) < sequence and self._without != "fence":
            state = self._write_state(state_key, epoch, int(found[2]), sequence, found[4], found[5])
            recent = self._recent(recent_key)
            for member in [member for member, version in recent.items() if version <= sequence]:
                del recent[member]
            if not recent:
                self.evict(recent_key)
        for name in names:
            if 0 <= self._version(name) < sequence:
                self.evict(name)
        return state

    def _write_state(self, name: bytes, epoch: int, cursor: int, low: int, generation: bytes, change_id: bytes) -> bytes:
        state = b"%d %d %d %b %b" % (epoch, cursor, low, generation, change_id)
        self.held[name] = state
        return state


class RealServer:
    """A Valkey, asked in steps too. `texts` are its scripts by name: what a rule left out of one does is seen there."""

    def __init__(self, port: int, texts: dict[str, bytes] | None = None) -> None:
        self.away = False
        self._client = redis.Redis(port=port)
        self._texts = {name: load_script(name).text for name in NAMES.values()} | (texts or {})

    def read(self, groups: Sequence[list[bytes]]) -> list[bytes | None]:
        return cast(list[bytes | None], self._client.mget([name for group in groups for name in group]))

    def run(self, name: str, head: Sequence[Argument], groups: Sequence[Group]) -> list[object]:
        keys = [key for group in groups for key in group.keys]
        arguments = [argument for group in groups for argument in group.arguments]
        text = self._texts[name].decode()
        return cast(list[object], self._client.eval(text, len(keys), *keys, *head, *arguments))

    def send(self, commands: Sequence[Command]) -> list[Any]:
        return [self._client.execute_command(*command) for command in commands]  # type: ignore[no-untyped-call]

    def scan(self, after: bytes, match: bytes) -> tuple[bytes, list[bytes]]:
        return b"", sorted(self._client.scan_iter(match))

    def names(self) -> list[bytes]:
        return sorted(self._client.scan_iter())

    def dump(self) -> dict[bytes, Value]:
        held: dict[bytes, Value] = {}
        for name in self.names():
            if self._client.type(name) == b"zset":
                held[name] = dict(cast(list[tuple[bytes, float]], self._client.zrange(name, 0, -1, withscores=True)))
            else:
                held[name] = cast(bytes, self._client.get(name))
        return held

    def restore(self, held: dict[bytes, Value]) -> None:
        self._client.flushdb()
        for name, value in held.items():
            if isinstance(value, dict):
                self._client.zadd(name, value)
            else:
                self._client.set(name, value)

    def evict(self, name: bytes) -> None:
        self._client.unlink(name)

    def close(self) -> None:
        self._client.close()


class NodeConnection(Connection):
    """A node's connection: every command is a call on the wire."""

    def __init__(self, server: Server, wire: Wire, node: Caller) -> None:
        self.timeout = 1.0
        self._server = server
        self._wire = wire
        self._node = node

    @asynccontextmanager
    async def limited(self) -> AsyncIterator[None]:
        yield

    async def _ask(self, method: str, name: str, *arguments: Any) -> Any:
        def step() -> Any:
            if self._server.away:
                raise TierUnavailable("redis", "away")
            return getattr(self._server, method)(*arguments)

        return await self._wire.call(self._node, "redis", name, step)

    async def read(self, groups: Sequence[list[bytes]], *, probing: bool = False) -> list[list[bytes | None] | None]:
        return by_group(await self._ask("read", "read", groups), groups)

    async def run(self, script: Script, head: Sequence[Argument], groups: Sequence[Group]) -> list[object]:
        name = NAMES[script.sha]
        return cast(list[object], await self._ask("run", name, name, list(head), groups))

    async def send(self, commands: Sequence[Command], *, keep: Any = None, probing: bool = False) -> list[Any]:
        return cast(list[Any], await self._ask("send", "send", commands))

    async def scan(self, match: bytes) -> AsyncIterator[list[bytes]]:
        after = b""
        while True:
            after, keys = await self._ask("scan", "scan", after, match)
            if keys:
                yield keys
            if not after:
                return
