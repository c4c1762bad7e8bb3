"""A node that was frozen for longer than its lease does not serve what it held, whatever it does first when it goes on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import psutil

from tests.e2e.services import NO_REDIS, connected_to_each, node_of, put, started
from tests.processes.services import LIMIT

LEASE = 0.3  # seconds
SETTINGS = {
    **NO_REDIS,
    "cluster__lease": str(LEASE),
    "engine__min_version_wait": str(LIMIT),
    "log__max_count": "1000",
    "levels__database__sweep_interval": "0.1",
    "levels__database__timeout": "2",
}
FLOOD = {"operations": [{"operation": "set", "key": f"flood:{number}", "value": number} for number in range(1_000)]}
HOT: dict[str, str] = {}  # of a request, by which route it is answered
PLAIN = {"Accept-Language": "en", "Cache-Control": "max-age=0"}


async def check_frozen(frozen: httpx.AsyncClient, writer: httpx.AsyncClient, headers: dict[str, str]) -> None:
    process = psutil.Process(int((await node_of(frozen)).split("-")[-2]))
    old = await put(frozen, "k", "old")
    assert (await frozen.get("/v1/cache/k", headers=headers)).headers["ETag"] == f'"{old}"'
    process.suspend()
    try:
        asked = asyncio.create_task(frozen.get("/v1/cache/k", headers=headers))  # lies in the node's socket meanwhile
        stopped = time.monotonic()
        new = 0
        while time.monotonic() < stopped + 3 * LEASE or new < old + 2_000:  # past what is kept of the log as well
            await writer.post("/v1/batch", json=FLOOD)
            answer = await writer.put("/v1/cache/k", json="new")
            if answer.status_code == 200:  # else the frozen node has the log's lock, which it loses after a while
                new = int(answer.json()["version"])
    finally:
        process.resume()
    answer = await asked
    assert answer.status_code == 200, answer.text
    assert answer.headers["ETag"] == f'"{new}"'
    stats = (await frozen.get("/v1/stats")).json()
    assert stats["log"]["frozen"] >= 1


async def test_a_frozen_node_catches_up_before_it_serves(tmp_path: Path, postgres_url: str) -> None:
    with started(tmp_path, "--workers", "2", levels__database__url=postgres_url, **SETTINGS) as (_, url):
        async with connected_to_each(url, 2) as (one, other):
            for headers in (HOT, PLAIN, HOT, PLAIN):
                await check_frozen(one, other, headers)
