"""The socket of the service as a user runs it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.services import NO_REDIS, started
from tests.web.sockets import Frame, connected


async def test_a_restart_is_no_stampede(tmp_path: Path) -> None:
    with started(tmp_path, **NO_REDIS) as (service, url):
        port = urlsplit(url).port
        assert port is not None
        async with connected(port) as one, connected(port) as two:
            written = await one.ask("cache:update", {"key": "task:1", "operation": "set", "value": 1, "distribute": True})
            assert written["type"] == "ack"
            assert (await two.ask("cache:get", {"key": "task:1"}))["payload"]["version"] == written["payload"]["version"]
            service.process.terminate()
            ends = [await one.closed(), await two.closed()]
            assert [code for code, _ in ends] == [4001, 4001]
            waits = sorted(socket.seen[-1]["payload"]["nextReconnectIn"] for socket in (one, two))
            assert waits == [2500, 5000]
        assert service.ended() == 0


async def test_who_loses_the_connection_again_and_again_misses_nothing(tmp_path: Path) -> None:
    """Over two workers: sometimes the one that knows the session answers, sometimes the other."""
    with started(tmp_path, "--workers", "2", **NO_REDIS) as (_, url):
        port = urlsplit(url).port
        assert port is not None
        view: dict[str, tuple[int, int]] = {}  # by key: version and value
        place: dict[str, object] = {}
        written = newest = 0

        def take(frame: Frame) -> None:
            payload = frame["payload"]
            if frame["version"] > view.get(payload["key"], (0, 0))[0]:
                view[payload["key"]] = frame["version"], payload["task"]

        async with connected(port) as writer:

            async def write(count: int) -> int:
                nonlocal written
                version = 0
                for _ in range(count):
                    written += 1
                    payload = {"key": f"task:{written % 7}", "operation": "set", "value": written, "distribute": True}
                    version = (await writer.ask("cache:update", payload))["payload"]["version"]
                return version

            for _ in range(8):
                async with connected(port) as reader:
                    await reader.ask("subscribe", {"resources": ["task"]})
                    if place:
                        await reader.send("recovery:request", place, requestId="recovery")
                        complete = False
                        while not complete:
                            frame = await reader.next()
                            if frame["type"] == "recovery:response":
                                assert "error" not in frame["payload"]
                                complete = frame["payload"]["isComplete"]
                                for message in frame["payload"]["data"]:
                                    take(message)
                            elif frame["type"] == "task:update":
                                take(frame)
                    newest = await write(5)
                    last = await reader.until(lambda frame: frame.get("version") == newest)  # noqa: B023
                    for frame in reader.seen:
                        if frame["type"] == "task:update":
                            take(frame)
                    session = reader.seen[0]["payload"]["sessionId"]
                    place = {
                        "lastSequenceNumber": last["seq"],
                        "sessionId": session,
                        "epoch": last["epoch"],
                        "position": last["position"],
                    }
                    await write(1)
                    reader.connection.transport.abort()
                newest = await write(20)
            async with connected(port) as reader:
                await reader.ask("subscribe", {"resources": ["task"]})
                await reader.send("recovery:request", place, requestId="recovery")
                complete = False
                # a node recovers up to what it has applied, and tells live what it applies later
                while not complete or newest not in (version for version, _ in view.values()):
                    frame = await reader.next()
                    if frame["type"] == "recovery:response":
                        complete = frame["payload"]["isComplete"]
                        for message in frame["payload"]["data"]:
                            take(message)
                    elif frame["type"] == "task:update":
                        take(frame)
        assert {key: value for key, (_, value) in view.items()} == {f"task:{n % 7}": n for n in range(written - 6, written + 1)}
