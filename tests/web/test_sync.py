"""An audit asked for over HTTP: what is answered is what was done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from cachesvc.model.keys import Key
from cachesvc.web.service import Limits
from tests.web.site import Site, opened


@pytest.fixture
async def hurried() -> AsyncIterator[Site]:
    """One that answers an audit after a twentieth of a second, done or not."""
    async with opened(limits=Limits(request_timeout=0.1)) as site:
        yield site


async def test_all_of_memory_is_audited(site: Site, http: httpx.AsyncClient) -> None:
    for number in range(300):
        await http.put(f"/v1/cache/task:{number}", json=number)
    held = site.cache.memory.peek(Key("task:7"))
    assert held is not None
    await site.cache.memory.evict([held.key])
    site.cache.memory.store(held._replace(value=b"8"))
    answer = await http.post("/v1/sync")
    told = answer.json()
    assert (answer.status_code, told["node"], told["state"], told["joined"], told["sample"]) == (200, "n1", "done", False, None)
    report = told["tiers"]["memory"]
    assert (report["audited"], report["agreed"], report["repaired"], report["undecided"]) == (300, 299, 1, 0)
    assert report["coherence"] == 299 / 300
    assert report["whole"]
    assert report["bytes"] > 300
    assert (await http.get("/v1/cache/task:7")).json() == 7
    assert (await http.get("/v1/sync")).json() == {
        "running": None,
        "nodes": [{"node": "n1", "address": "", "self": True, "tiers": {"memory": report}, "sites": {}}],
    }


async def test_a_sample(http: httpx.AsyncClient) -> None:
    for number in range(10):
        await http.put(f"/v1/cache/task:{number}", json=number)
    told = (await http.post("/v1/sync", json={"tiers": ["memory"], "sample": 4})).json()
    assert told["sample"] == 4
    assert (told["tiers"]["memory"]["audited"], told["tiers"]["memory"]["whole"]) == (4, False)


async def test_one_at_a_time_and_the_second_joins(hurried: Site) -> None:
    async with hurried.client() as http:
        await http.put("/v1/cache/a", json=1)
        gate = hurried.store.gates["outlines"]
        gate.close()
        first = await http.post("/v1/sync")
        assert (first.status_code, first.json()["state"], first.json()["joined"]) == (202, "running", False)
        second = await http.post("/v1/sync", json={"sample": 1})
        assert (second.status_code, second.json()["joined"], second.json()["sample"]) == (202, True, None)
        running = (await http.get("/v1/sync")).json()["running"]
        assert (running["state"], running["tiers"]["memory"]["audited"]) == ("running", 0)
        order = hurried.node.auditing
        assert order is not None
        gate.open()
        async with asyncio.timeout(20):
            await order.done.wait()
        overview = (await http.get("/v1/sync")).json()
        assert overview["running"] is None
        assert overview["nodes"][0]["tiers"]["memory"]["audited"] == 1


async def test_an_authority_that_is_away_is_told(site: Site, http: httpx.AsyncClient) -> None:
    await http.put("/v1/cache/a", json=1)
    site.store.away = True
    answer = await http.post("/v1/sync")
    assert answer.status_code == 200
    report = answer.json()["tiers"]["memory"]
    assert (report["error"], report["audited"], report["coherence"], report["whole"]) == ("database: away", 0, None, False)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ('{"sample": 0}', 422, "sample"),
        ('{"sample": 1.5}', 422, "sample"),
        ('{"tiers": ["database"]}', 422, "tiers[0]"),
        ('{"tiers": ["memory", "redis"]}', 422, "tiers[1]"),
        ('{"tiers": "memory"}', 422, "tiers"),
        ('{"tier": ["memory"]}', 422, "tier"),
        ("[]", 422, "body"),
        ("{", 400, "body"),
        ('{"tiers": [' + '"memory",' * 500, 413, "body"),
    ],
)
async def test_bad_input(http: httpx.AsyncClient, body: str, status: int, field: str) -> None:
    answer = await http.post("/v1/sync", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["field"]) == (status, field)


async def test_what_does_not_say_that_it_is_json_is_refused(http: httpx.AsyncClient) -> None:
    assert (await http.post("/v1/sync", content="{}")).status_code == 415
    assert (await http.post("/v1/sync?x=1")).status_code == 422
