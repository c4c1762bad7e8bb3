"""Offered load: requests sent by the clock, whether the earlier ones were answered or not, as a crowd sends them.

    python -m tests.bench.offered --port 8080 --rate 5000 --seconds 5 --keys 20000 [--hot 1000] [--misses 0.1] [--writes 0.05]

With `--closed N` instead of a rate, N clients each send the next request when they have the answer to the one before.

Each request has its moment from the start, and its latency counts from there, also when it was sent late. A client gives up
after `--patience` seconds and closes its connection; while all connections are taken the next request opens another, up to
`--connections`, and past that it fails. An answer is good when it is 200 or 201 and came in time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Any, cast

import uvloop

TICK = 0.001


@dataclass(frozen=True, slots=True)
class Mix:
    """What is asked for: reads of `hot` keys that memory holds, a share of reads of any of `keys`, a share of writes."""

    keys: int = 20_000
    hot: int = 1_000
    misses: float = 0.1
    writes: float = 0.05
    value: bytes = b'{"status":"open","assignee":{"id":17},"title":"a title of usual length","tags":["a","b"]}'

    def request(self, number: int, rng: random.Random) -> bytes:
        kind = rng.random()
        if kind < self.writes:
            head = f"PUT /v1/cache/task:{rng.randrange(self.keys)} HTTP/1.1\r\nHost: bench\r\n"
            return f"{head}Content-Type: application/json\r\nContent-Length: {len(self.value)}\r\n\r\n".encode() + self.value
        if kind < self.writes + self.misses:
            return f"GET /v1/cache/task:{rng.randrange(self.keys)} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        return f"GET /v1/cache/hot:{rng.randrange(self.hot)} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


@dataclass(slots=True)
class Told:
    """What came of it. Seconds; `late` is how long after its moment a request was sent, at worst in 99 of 100."""

    offered: int = 0
    good: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    good_p50: float = 0.0
    good_p99: float = 0.0
    shed_p50: float = 0.0
    shed_p99: float = 0.0
    late: float = 0.0
    connections: int = 0

    @property
    def goodput(self) -> float:
        return self.good / self.seconds


class Connection(asyncio.Protocol):
    """One request at a time. `done(connection, status)` tells of its answer; status 0 is a lost connection."""

    def __init__(self, done: Callable[[Connection, int], None]) -> None:
        self.moment = 0.0
        self.busy = False
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, moment: float) -> None:
        assert self._transport is not None
        self.moment = moment
        self.busy = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return
        at = received.lower().find(b"content-length:", 0, end)
        length = int(received[at + 15 : received.index(b"\r", at)]) if at >= 0 else 0
        if len(received) < end + 4 + length:
            return
        self._received = b""
        self.busy = False
        self._done(self, int(received[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.busy:
            self.busy = False
            self._done(self, 0)

    def abort(self) -> None:
        self.busy = False
        if self._transport is not None:
            self._transport.abort()

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()


class Crowd:
    """The clients."""

    def __init__(self, port: int, mix: Mix, *, patience: float, most: int) -> None:
        self._port = port
        self._mix = mix
        self._patience = patience
        self._most = most
        self._idle: list[Connection] = []
        self._waiting: deque[tuple[float, Connection]] = deque()  # by moment, or nearly; also what was answered since
        self._opening: set[asyncio.Task[None]] = set()
        self._count = 0
        self._largest = 0
        self._outcomes: Counter[str] = Counter()
        self._good: list[float] = []
        self._shed: list[float] = []
        self._late: list[float] = []
        self._counted_from = 0.0
        self._next: Callable[[], bytes] | None = None  # of clients that ask again as soon as they are answered

    async def offer(self, rate: float, seconds: float, *, seed: int, settle: float = 0.0) -> Told:
        """Offer so many a second. What came in the first `settle` seconds, which come before the others, is not counted."""
        rng = random.Random(seed)
        requests = [self._mix.request(n, rng) for n in range(min(20_000, int(rate * seconds)))]  # made beforehand
        offered = int(rate * (settle + seconds))
        start = time.perf_counter() + TICK
        self._counted_from = start + settle
        sent = 0
        while sent < offered:
            now = time.perf_counter()
            due = min(offered, int((now - start) * rate) + 1 if now >= start else 0)
            for number in range(sent, due):
                self._send(requests[number % len(requests)], start + number / rate, now)
            sent = max(sent, due)
            self._give_up(now)
            await asyncio.sleep(max(0.0, min(TICK, start + sent / rate - time.perf_counter())))
        until = time.perf_counter() + self._patience
        while (self._waiting or self._opening) and time.perf_counter() < until + 0.1:
            await asyncio.sleep(0.01)
            self._give_up(time.perf_counter())
        for connection in self._idle:
            connection.abort()
        return Told(
            int(rate * seconds),
            len(self._good),
            dict(self._outcomes),
            seconds,
            good_p50=_share(self._good, 0.5),
            good_p99=_share(self._good, 0.99),
            shed_p50=_share(self._shed, 0.5),
            shed_p99=_share(self._shed, 0.99),
            late=_share(self._late, 0.99),
            connections=self._largest,
        )

    async def loop(self, clients: int, seconds: float, *, seed: int) -> Told:
        """What so many clients get done who wait for each answer."""
        rng = random.Random(seed)
        requests = cycle([self._mix.request(n, rng) for n in range(20_000)])
        self._next = lambda: next(requests)
        until = time.perf_counter() + seconds
        for _ in range(clients):
            self._send(self._next(), time.perf_counter(), time.perf_counter())
        while (now := time.perf_counter()) < until:
            self._give_up(now)
            await asyncio.sleep(0.01)
        self._next = None
        done = len(self._good)
        for _, connection in self._waiting:
            connection.abort()
        return Told(
            sum(self._outcomes.values()),
            done,
            dict(self._outcomes),
            seconds,
            good_p50=_share(self._good, 0.5),
            good_p99=_share(self._good, 0.99),
            connections=clients,
        )

    def _outcome(self, what: str, moment: float) -> bool:
        """Count what became of the request of that moment; whether it counts."""
        counts = moment >= self._counted_from
        if counts:
            self._outcomes[what] += 1
        return counts

    def _send(self, request: bytes, moment: float, now: float) -> None:
        self._late.append(now - moment)
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                connection.send(request, moment)
                self._waiting.append((moment, connection))
                return
            self._count -= 1
        if self._count >= self._most:
            self._outcome("no connection", moment)
            return
        self._count += 1
        self._largest = max(self._largest, self._count)
        task = asyncio.get_running_loop().create_task(self._open(request, moment))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, request: bytes, moment: float) -> None:
        try:
            async with asyncio.timeout(self._patience):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._answered), "127.0.0.1", self._port
                )
        except OSError:
            self._count -= 1
            self._outcome("no connection", moment)
            return
        connection.send(request, moment)
        self._waiting.append((moment, connection))

    def _answered(self, connection: Connection, status: int) -> None:
        took = time.perf_counter() - connection.moment
        if self._outcome(str(status or "lost"), connection.moment):
            if status in (200, 201):
                if took <= self._patience:
                    self._good.append(took)
            elif status == 503:
                self._shed.append(took)
        if status and connection.open and self._next is not None:
            now = time.perf_counter()
            connection.send(self._next(), now)
            self._waiting.append((now, connection))
        elif status and connection.open:
            self._idle.append(connection)
        else:
            self._count -= 1

    def _give_up(self, now: float) -> None:
        waiting = self._waiting
        while waiting:
            moment, connection = waiting[0]
            answered = not connection.busy or connection.moment != moment
            if not answered and now - moment <= self._patience:
                return
            waiting.popleft()
            if not answered:
                connection.abort()
                self._count -= 1
                self._outcome("given up", moment)


def _share(times: Sequence[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * share))] if times else 0.0


async def run(options: argparse.Namespace) -> Told:
    mix = Mix(options.keys, options.hot, options.misses, options.writes)
    crowd = Crowd(options.port, mix, patience=options.patience, most=options.connections)
    if options.closed:
        return await crowd.loop(options.closed, options.seconds, seed=options.seed)
    return await crowd.offer(options.rate, options.seconds, seed=options.seed, settle=options.settle)


def told(text: str) -> Told:
    """What a run printed."""
    read: dict[str, Any] = json.loads(text)
    return Told(**read)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.offered", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--rate", type=float)
    how.add_argument("--closed", type=int, metavar="N")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--settle", type=float, default=0.0, help="seconds before those, which do not count")
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--hot", type=int, default=1_000)
    parser.add_argument("--misses", type=float, default=0.1)
    parser.add_argument("--writes", type=float, default=0.05)
    parser.add_argument("--patience", type=float, default=1.0)
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    print(json.dumps(asdict(uvloop.run(run(parser.parse_args())))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
