"""Nodes whose clocks are twenty minutes apart: how long an entry lives is a matter of the authority's clock."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from tests.e2e.services import NO_REDIS, connected, started
from tests.processes.services import LIMIT


def life(answer: httpx.Response) -> int:
    """Seconds that the entry has left, as its answer tells."""
    found = re.search(r"ttl=(-?\d+)", answer.headers["Cache-Status"])
    assert found is not None
    return int(found[1])


async def test_clocks_that_are_wrong(tmp_path: Path, postgres_url: str) -> None:
    async with AsyncExitStack() as stack:
        clients = []
        for name, ahead in (("fast", "600"), ("slow", "-600")):
            directory, url = tmp_path / name, {"levels__database__url": postgres_url}
            _, address = stack.enter_context(started(directory, clock_ahead=ahead, **NO_REDIS, **url))
            clients.append(await stack.enter_async_context(connected(address)))
        for writer in clients:
            written = await writer.put("/v1/cache/k", params={"ttl": "300"}, json=1)
            for reader in clients:
                answer = await reader.get("/v1/cache/k", headers={"Min-Version": written.headers["ETag"].strip('"')})
                assert answer.status_code == 200
                assert 300 - LIMIT <= life(answer) <= 300
                assert int(answer.headers["Age"]) <= LIMIT
            await writer.put("/v1/cache/short", params={"ttl": "0.5"}, json=1)
            async with asyncio.timeout(LIMIT):
                for reader in clients:
                    while (await reader.get("/v1/cache/short")).status_code != 404:
                        await asyncio.sleep(0.02)
