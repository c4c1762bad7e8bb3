"""A job outlives the node that runs it: killed in the middle, another goes on from where it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.services import connected, kill_at_once, node_of, started
from tests.processes.services import LIMIT

KEYS = 120


async def job_of(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    told: dict[str, Any] = (await client.get(f"/v1/jobs/{name}")).json()
    return told


async def test_another_node_goes_on_with_it(tmp_path: Path, postgres_url: str, valkey_url: str) -> None:
    stores = {"levels__redis__url": valkey_url, "levels__database__url": postgres_url, "cluster__lease": "1s"}
    with (
        started(tmp_path / "a", **stores) as (first, url),
        started(tmp_path / "b", **stores) as (second, other),
    ):
        async with connected(url) as a, connected(other) as b:
            services = {await node_of(a): (first, b), await node_of(b): (second, a)}
            operations = [{"operation": "set", "key": f"k:{number}", "value": 1} for number in range(KEYS)]
            assert (await a.post("/v1/batch", json={"operations": operations})).status_code == 200
            begun = (await a.post("/v1/warm", json={"pattern": "k:*", "rate": 100})).json()
            async with asyncio.timeout(LIMIT):
                while (job := await job_of(a, begun["id"]))["done"] < 20:
                    await asyncio.sleep(0.05)
            owner, left = services[job["node"]]
            kill_at_once(owner.process.pid)
            async with asyncio.timeout(2 * LIMIT), left.stream("GET", f"/v1/jobs/{begun['id']}/events") as stream:
                events = [line async for line in stream.aiter_lines() if line.startswith("event")]
            assert events[-1] == "event: end"
            ended = await job_of(left, begun["id"])
            assert (ended["state"], ended["done"], ended["total"]) == ("done", KEYS, KEYS)
            assert ended["node"] == await node_of(left) != job["node"]
            assert ended["errorCount"] == 0
