"""The socket of the service as a user runs it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.services import NO_REDIS, started
from tests.web.sockets import connected


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
