"""A crowd of bare connections, a process of its own; what it found is printed as one line of JSON.

    python -m tests.bench.crowd fanout --port 8080 --pid 17 --connections 1000 --seconds 2
    python -m tests.bench.crowd get --port 8080 --pid 17 --connections 16 --depth 1 --seconds 2
    python -m tests.bench.crowd idle --port 8080 --pid 17 --connections 5000
    python -m tests.bench.crowd storm --port 8080 --pid 17 --connections 2000

`--pid` is the server, whose CPU and memory are asked for; `--peer` says that it is not ours: a broadcaster, or Valkey.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import cycle

import psutil
import uvloop

from tests.bench.wire import Resp, Socket, Wire, framed, opened

KEYS = 1_000
VALUE = (
    b'{"id":"%06d","status":"open","assignee":{"id":17},"title":"a title of usual length","tags":["alpha","beta"],"rank":%d}'
)
LIMIT = 120.0
Found = dict[str, float]


class Server:
    """The process that is measured."""

    def __init__(self, pid: int) -> None:
        """It has one core from here on, and the crowd another."""
        self._process = psutil.Process(pid)
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            for thread in self._process.threads():
                os.sched_setaffinity(thread.id, cores[:1])
            os.sched_setaffinity(0, cores[1:2])

    def cpu(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def resident(self) -> int:
        return int(self._process.memory_info().rss)


def message(kind: str, asked: str, payload: dict[str, object]) -> bytes:
    return framed(json.dumps({"type": kind, "requestId": asked, "payload": payload}, separators=(",", ":")).encode())


async def asked(socket: Wire, sent: bytes) -> bytes:
    """The next message after one was sent."""
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    before, socket.heard = socket.heard, lambda _, text: None if answer.done() else answer.set_result(text)
    socket.write(sent)
    try:
        async with asyncio.timeout(LIMIT):
            return await answer
    finally:
        socket.heard = before


async def fanout(options: argparse.Namespace) -> Found:
    """One update after another to all subscribers; the next one when all of them have it."""
    server = Server(options.pid)
    left = 0
    everyone = asyncio.Event()

    def heard(_: Wire, text: bytes) -> None:
        nonlocal left
        left -= 1
        if not left:
            everyone.set()

    def ignored(_: Wire, text: bytes) -> None:
        pass

    subscribers = await opened(Socket, options.port, options.connections, ignored)
    [publisher] = await opened(Socket, options.port, 1, ignored)
    if not options.peer:
        await asyncio.sleep(0.5)
        for subscriber in subscribers:
            await asked(subscriber, message("subscribe", "s", {"resources": ["task"], "filters": {}, "throttle": 0}))
    for subscriber in subscribers:
        subscriber.heard = heard
    number = 0

    async def update() -> None:
        nonlocal left, number
        number += 1
        everyone.clear()
        left = len(subscribers)
        value = json.loads(VALUE % (number, number))
        if options.peer:  # as long as what ours makes of it
            payload = {"action": "updated", "task": value, "source": "internal", "key": "task:1"}
            text: dict[str, object] = {"type": "task:update", "payload": payload, "timestamp": "2024-01-15T10:30:00.000Z"}
            text |= dict.fromkeys(("version", "epoch", "seq", "position"), number)
            publisher.write(framed(json.dumps(text, separators=(",", ":")).encode()))
        else:
            wanted = {"key": "task:1", "operation": "set", "value": value, "distribute": True}
            publisher.write(message("cache:update", f"u-{number}", wanted))
        async with asyncio.timeout(LIMIT):
            await everyone.wait()

    for _ in range(5):
        await update()
    began, cpu = time.perf_counter(), server.cpu()
    before = number
    while time.perf_counter() - began < options.seconds:
        await update()
    deliveries = (number - before) * len(subscribers)
    seconds = time.perf_counter() - began
    return {"deliveries": deliveries, "seconds": seconds, "cpu": server.cpu() - cpu}


async def get(options: argparse.Namespace) -> Found:
    """Reads of entries that are there, `depth` of them under way on each connection."""
    server = Server(options.pid)
    names = [f"product:{number}" for number in range(KEYS)]
    if options.peer:
        kind: type[Wire] = Resp
        asks = [b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name.encode()) for name in names]
    else:
        kind = Socket
        asks = [message("cache:get", f"g-{name}", {"key": name}) for name in names]
    answered = 0
    stopping = False
    requests = cycle(asks)

    def heard(wire: Wire, text: bytes) -> None:
        nonlocal answered
        answered += 1
        owed[wire] -= 1
        if not owed[wire] and not stopping:  # a window of requests goes out at once, as pipelines do
            owed[wire] = options.depth
            wire.write(next(requests) if options.depth == 1 else b"".join(next(requests) for _ in range(options.depth)))

    connections = await opened(kind, options.port, options.connections, lambda *_: None)
    await asyncio.sleep(0.2)
    owed = dict.fromkeys(connections, 1)
    for wire in connections:
        wire.heard = heard
        wire.write(next(requests))
    await asyncio.sleep(0.2)
    began, cpu, before = time.perf_counter(), server.cpu(), answered
    own = time.process_time()
    await asyncio.sleep(options.seconds)
    seconds = time.perf_counter() - began
    found = {"answers": answered - before, "seconds": seconds, "cpu": server.cpu() - cpu, "own": time.process_time() - own}
    stopping = True
    return found


async def idle(options: argparse.Namespace) -> Found:
    """What so many connections that do nothing weigh; some came before, so that nothing of the first ones counts."""
    server = Server(options.pid)
    first = await opened(Socket, options.port, 100, lambda *_: None)
    await asyncio.sleep(1.0)
    before = server.resident()
    await opened(Socket, options.port, options.connections, lambda *_: None)
    await asyncio.sleep(2.0)
    return {"bytes": (server.resident() - before) / options.connections, "connections": options.connections + len(first)}


class Client:
    """A subscriber that comes back: connects, subscribes, and recovers what it missed."""

    def __init__(self, port: int) -> None:
        self.session = ""
        self.epoch = self.position = self.seq = 0
        self.recovered = asyncio.Event()
        self._port = port
        self.wire: Wire | None = None

    async def come(self) -> None:
        """Until all that was missed is here."""
        async with asyncio.timeout(LIMIT):
            loop = asyncio.get_running_loop()
            self.recovered.clear()
            while True:
                try:
                    _, self.wire = await loop.create_connection(lambda: Socket(self._heard), "127.0.0.1", self._port)
                    await self.wire.opened
                    break
                except ConnectionError:
                    await asyncio.sleep(random.random())  # as Retry-After: 1 asks, spread
            await self.recovered.wait()

    def _heard(self, wire: Wire, text: bytes) -> None:
        frame = json.loads(text)
        kind, payload = frame["type"], frame["payload"]
        if kind == "connection:established":
            subscribe = {"resources": ["task"], "filters": {}, "throttle": 0}
            wire.write(message("subscribe", "s", subscribe))
            if self.session:
                known = {"lastSequenceNumber": self.seq, "missingRanges": [], "sessionId": self.session}
                wire.write(message("recovery:request", "r", known | {"epoch": self.epoch, "position": self.position}))
            self.session, self.epoch = payload["sessionId"], payload["epoch"]
            self.position, self.seq = payload["position"], 0
        elif kind == ("recovery:response" if self.recovering else "ack") and payload.get("isComplete", True):
            self.recovered.set()
        elif kind == "error":
            raise RuntimeError(text)
        if "seq" in frame:
            self.seq, self.position = frame["seq"], frame["position"]

    recovering = False


async def storm(options: argparse.Namespace) -> Found:
    """All subscribers lose their connection at once and come back at once, while others read and one writes."""
    loop = asyncio.get_running_loop()
    clients = [Client(options.port) for _ in range(options.connections)]
    for at in range(0, len(clients), 20):
        await asyncio.gather(*(client.come() for client in clients[at : at + 20]))
    others = await opened(Socket, options.port, 10, lambda *_: None)
    [publisher] = await opened(Socket, options.port, 1, lambda *_: None)
    await asyncio.sleep(1.0)
    taken: list[float] = []

    async def reading(wire: Wire) -> None:
        request = message("cache:get", "g", {"key": "product:1"})
        while True:
            began = loop.time()
            await asked(wire, request)
            taken.append(loop.time() - began)
            await asyncio.sleep(0.02)

    async def writing() -> None:
        number = 0
        while True:
            number += 1
            update = {"key": f"task:{number % 50}", "operation": "set", "value": number, "distribute": True}
            publisher.write(message("cache:update", "w", update))
            await asyncio.sleep(0.2)

    work = [asyncio.create_task(one) for one in (*map(reading, others), writing())]
    await asyncio.sleep(2.0)
    calm, taken[:] = percentile(taken), []
    for client in clients:
        client.recovering = True
        assert client.wire is not None
        client.wire.abort()
    began = loop.time()
    await asyncio.gather(*(client.come() for client in clients))
    seconds = loop.time() - began
    busy = percentile(taken)
    for task in work:
        task.cancel()
    return {"seconds": seconds, "calm": calm, "busy": busy}


def percentile(taken: list[float]) -> float:
    return sorted(taken)[int(len(taken) * 0.99)]


KINDS: dict[str, Callable[[argparse.Namespace], Awaitable[Found]]] = {
    "fanout": fanout,
    "get": get,
    "idle": idle,
    "storm": storm,
}


async def run(options: argparse.Namespace) -> Found:
    return await KINDS[options.what](options)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.crowd", description=__doc__)
    parser.add_argument("what", choices=list(KINDS))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--peer", action="store_true")
    print(json.dumps(uvloop.run(run(parser.parse_args()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
