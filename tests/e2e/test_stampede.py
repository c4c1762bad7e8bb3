"""A crowd that misses one key, on two processes over real stores: the origin is asked once, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import orjson
import redis

from tests import servers
from tests.e2e.services import started
from tests.loaders.origin import HttpOrigin, response
from tests.processes.services import LIMIT

CROWD = 100


async def test_the_origin_is_asked_once_and_once_more_when_the_holder_is_killed(
    tmp_path: Path, postgres_url: str, valkey_server: servers.Server, valkey_url: str
) -> None:
    async with HttpOrigin().served() as origin:
        origin.answer = lambda *_: response(200, b'{"n":1}', Content_Type="application/json")
        loader = {"kind": "http", "url": f"{origin.url}/tasks/{{id}}", "hard_timeout": 3}
        settings = {
            "server__workers": "2",
            "levels__redis__url": valkey_url,
            "levels__redis__timeout": "5",
            "levels__database__url": postgres_url,
            "loaders": orjson.dumps({"task": loader}).decode(),
        }
        with started(tmp_path, **settings) as (_, url):
            limits = httpx.Limits(max_connections=CROWD)
            async with httpx.AsyncClient(base_url=url, limits=limits, timeout=LIMIT, trust_env=False) as client:
                await _crowd_is_one_load(origin, client)
                await _holder_is_killed(origin, client, valkey_server)


async def _crowd_is_one_load(origin: HttpOrigin, client: httpx.AsyncClient) -> None:
    origin.gate.clear()
    crowd = [asyncio.create_task(client.get("/v1/cache/task:1")) for _ in range(CROWD)]
    await _until(lambda: origin.asked)
    origin.gate.set()
    answers = await asyncio.gather(*crowd)
    assert {(answer.status_code, answer.content) for answer in answers} == {(200, b'{"n":1}')}
    assert origin.asked == ["/tasks/1"]


async def _holder_is_killed(origin: HttpOrigin, client: httpx.AsyncClient, valkey_server: servers.Server) -> None:
    origin.asked.clear()
    origin.gate.clear()
    crowd = [asyncio.create_task(client.get("/v1/cache/task:2")) for _ in range(CROWD)]
    await _until(lambda: origin.asked)
    with redis.Redis(port=valkey_server.port) as looking:
        holder = bytes(looking.get("cachesvc:lease:load task:2")).decode()
    os.kill(int(holder.partition("/")[0].rsplit("-", 2)[1]), signal.SIGKILL)
    origin.gate.set()
    answers = await asyncio.gather(*crowd, return_exceptions=True)
    lost = [answer for answer in answers if isinstance(answer, httpx.TransportError)]  # of the node that died
    told = [answer for answer in answers if isinstance(answer, httpx.Response)]
    assert len(lost) + len(told) == CROWD
    assert told
    assert {(answer.status_code, answer.content) for answer in told} == {(200, b'{"n":1}')}
    assert origin.asked == ["/tasks/2", "/tasks/2"]


async def _until(true: object) -> None:
    assert callable(true)
    async with asyncio.timeout(LIMIT):
        while not true():
            await asyncio.sleep(0.01)
