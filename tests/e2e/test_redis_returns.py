"""Redis goes away and comes back under a running service: reads and writes go on, and nothing old is ever served.

What it comes back with is held against it by its own cursor: the nodes have forgotten the floors of most keys by then.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import redis

from tests import servers
from tests.e2e.services import connected_to_each, put, started, version_of
from tests.processes.services import LIMIT

KEYS = [f"kept:{number}" for number in range(30)]
DELETED = [f"deleted:{number}" for number in range(5)]
FLOORS = 1_000  # what a node remembers: fewer than are written while Redis is away

SMALL = {"levels__memory__max_size": "4", "engine__max_floors": str(FLOORS), "levels__redis__ttl": "10m"}


class Site:
    """Two nodes, and the version that each key was last answered to have."""

    def __init__(self, nodes: list[httpx.AsyncClient]) -> None:
        self.nodes = nodes
        self.versions: dict[str, int] = dict.fromkeys(DELETED, 0)
        self._number = 0

    async def write(self, keys: list[str]) -> None:
        """Write keys on the nodes in turn, and wait until both have seen it."""
        for key in keys:
            self._number += 1
            self.versions[key] = await put(self.nodes[self._number % 2], key, {"number": self._number})
        await self.settle()

    async def delete(self, keys: list[str]) -> None:
        for key in keys:
            await self.nodes[0].delete(f"/v1/cache/{key}")
            self.versions[key] = 0
        await self.settle()

    async def write_others(self) -> None:
        """So many other keys that the floors of those that are read are forgotten."""
        for start in range(0, 2 * FLOORS, 500):
            operations = [{"operation": "set", "key": f"other:{start + n}", "value": n} for n in range(500)]
            results = (await self.nodes[0].post("/v1/batch", json={"operations": operations})).json()["results"]
            assert {result["status"] for result in results} <= {200, 201}
        await self.settle()

    async def settle(self) -> None:
        """Until both nodes have applied all that was written: the log is in order, so its last write tells."""
        last = max(self.versions.values(), default=0)
        marker = await put(self.nodes[0], "marker", last)
        for node in self.nodes:
            async with asyncio.timeout(LIMIT):
                while await version_of(node, "marker") < marker:
                    await asyncio.sleep(0.01)

    async def read(self) -> Counter[str]:
        """Read all on both nodes: what is served is the newest. Which tiers answered, how often."""
        tiers: Counter[str] = Counter()
        for node in self.nodes:
            for key, version in self.versions.items():
                answer = await node.get(f"/v1/cache/{key}")
                assert answer.status_code == (200 if version else 404), answer.text
                if version:
                    tier = answer.headers["Cache-Status"].rpartition("detail=")[2]
                    assert (key, answer.headers["ETag"]) == (key, f'"{version}"'), tier
                    tiers[tier] += 1
        return tiers

    async def read_until_redis_answers(self) -> None:
        """For every key, on both nodes; a few that were read just now may be in memory."""
        async with asyncio.timeout(LIMIT):
            while (await self.read())["redis"] < 2 * (len(KEYS) - 4):
                await asyncio.sleep(0.1)

    async def go_on_without_redis(self) -> None:
        """What happens while it is away: half of the keys are written, some are deleted, all are read."""
        await self.write(KEYS[::2])
        await self.delete(DELETED)
        await self.write_others()
        assert (await self.read())["redis"] == 0


async def check_return(site: Site, leave: Callable[[], None], come_back: Callable[[], None]) -> None:
    await site.write(KEYS + DELETED)
    await site.read_until_redis_answers()
    leave()
    await site.go_on_without_redis()
    come_back()
    await site.read_until_redis_answers()
    await site.write(KEYS[1::2])
    await site.read_until_redis_answers()


async def test_redis_comes_back(tmp_path: Path) -> None:
    with servers.valkey() as valkey, started(tmp_path, "--workers", "2", levels__redis__url=valkey.url, **SMALL) as (_, url):
        snapshot = tmp_path / "snapshot.rdb"

        def save_and_kill() -> None:
            """It will come back with what it has now, and was written to since."""
            with redis.Redis(port=valkey.port) as client:
                client.save()
            shutil.copy(valkey.directory / "dump.rdb", snapshot)

        def kill() -> None:
            valkey.kill()

        def start_empty() -> None:
            (valkey.directory / "dump.rdb").unlink(missing_ok=True)
            valkey.start()

        def start_from_snapshot() -> None:
            shutil.copy(snapshot, valkey.directory / "dump.rdb")
            valkey.start()

        async with connected_to_each(url, 2) as nodes:
            site = Site(nodes)
            await check_return(site, kill, start_empty)
            await check_return(site, valkey.freeze, valkey.thaw)
            await site.write(KEYS + DELETED)
            await site.read_until_redis_answers()
            save_and_kill()
            await check_return(site, kill, start_from_snapshot)
            valkey.stop(signal.SIGTERM)
