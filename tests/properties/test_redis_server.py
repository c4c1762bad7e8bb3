"""The fake Redis does what the real scripts do: the same calls, in the same order, leave and answer the same."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from cachesvc.tiers.redis_connection import Argument, Group
from tests.properties.loop import Time
from tests.properties.redis_server import RealServer, RedisServer, Server
from tests.properties.rules import RULES, Rule
from tests.servers import Server as Process

STATE, RECENT = b"{0}:state", b"{0}:recent"
KEYS = (b"a", b"b", b"c", b"d")
EPOCH = 7


@pytest.fixture
def real(valkey_server: Process, valkey_url: str) -> Iterator[RealServer]:
    server = RealServer(valkey_server.port)
    yield server
    server.close()


def stored(version: int) -> bytes:
    return b"\x20" + version.to_bytes(7) + b"x" * 12


class Calls:
    """Calls at random, as two servers are to take them: a generation is named by its place, since each gives its own."""

    def __init__(self, random: Random, servers: tuple[Server, Server]) -> None:
        self.random = random
        self.servers = servers
        self.generations: list[tuple[bytes, bytes]] = [(b"0", b"0")]

    def step(self) -> None:
        random = self.random
        act = random.choice([self.put, self.put, self.replay, self.replay, self.retire, self.restart, self.evict])
        act()

    def both(self, name: str, head: list[Argument], arguments: list[Argument], members: list[bytes], count_at: int = 1) -> None:
        generations = self.random.choice(self.generations[-2:])
        answers = []
        for server, generation in zip(self.servers, generations, strict=True):
            keys = [STATE, RECENT, *(b"{0}:" + generation + b":" + member for member in members)]
            answers.append(server.run(name, head, [Group(keys, [generation, *arguments])]))
        assert self.told(0, answers[0]) == self.told(1, answers[1])

    def put(self) -> None:
        members = self.random.sample(KEYS, self.random.randint(1, 3))
        offers: list[Argument] = []
        for member in members:
            version = self.random.randint(1, 40)
            offers += [member, version, self.random.choice((0, 1_000_000)), stored(version)]
        self.both("put", [EPOCH, self.random.randint(0, 40)], [len(members), *offers], members)

    def replay(self) -> None:
        state = self.servers[0].read([[STATE]])[0]
        cursor = int(state.split()[1]) if state is not None else 0
        expected = cursor if self.random.random() < 0.8 else cursor + 1
        upto = cursor + self.random.randint(1, 4)
        members = self.random.sample(KEYS, self.random.randint(0, 3))
        changes: list[Argument] = []
        for member in members:
            changes += [member, self.random.randint(cursor + 1, upto)]
        least = self.random.choice((0, 0, 0, self.random.randint(0, 40)))
        self.both("replay", [EPOCH, upto, 2, least, f"id{upto}"], [expected, len(members), *changes], members)

    def retire(self) -> None:
        members = self.random.sample(KEYS, self.random.randint(0, 3))
        self.both("retire", [EPOCH, self.random.randint(1, 40)], [len(members)], members)

    def restart(self) -> None:
        if self.random.random() < 0.7:
            return
        at = self.random.randint(0, 20)
        answers = [server.run("restart", [EPOCH, at, f"id{at}"], [Group([STATE, RECENT], [])])[0] for server in self.servers]
        first, second = (bytes(answer).split()[3] for answer in answers)  # type: ignore[call-overload]
        self.generations.append((first, second))

    def evict(self) -> None:
        names = self.servers[0].names()
        if names and self.random.random() < 0.4:
            place = self.random.randrange(len(names))
            for server in self.servers:
                server.evict(server.names()[place])

    def told(self, place: int, said: Any) -> Any:
        """What a server says, with its generations by their place."""
        if isinstance(said, dict):
            return {self.told(place, name): self.told(place, value) for name, value in said.items()}
        if isinstance(said, list | tuple):
            return [self.told(place, one) for one in said]
        if isinstance(said, bytes):
            for number, generations in enumerate(self.generations[1:], start=1):
                said = said.replace(generations[place], b"g%d" % number)
        return said


def compare(seed: int, fake: Server, real: Server) -> None:
    real.restore({})
    calls = Calls(Random(seed), (fake, real))
    for _ in range(80):
        calls.step()
        assert calls.told(0, fake.dump()) == calls.told(1, real.dump())


@pytest.mark.parametrize("seed", range(20))
def test_the_same_calls_come_to_the_same(seed: int, real: RealServer) -> None:
    compare(seed, RedisServer(Time()), real)


@pytest.mark.parametrize("rule", [rule for rule in RULES.values() if rule.script is not None], ids=lambda rule: rule.name)
def test_a_fake_without_a_rule_is_found_out(rule: Rule, real: RealServer) -> None:
    def compare_all() -> None:
        for seed in range(20):
            compare(seed, RedisServer(Time(), without=rule.name), real)

    with pytest.raises(AssertionError):
        compare_all()
