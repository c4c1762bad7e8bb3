"""A full disk: writes are refused and leave nothing, reads go on, and with room again so do writes.

A limit on the size of the worker's files stands for it: to SQLite it looks the same.
"""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import psutil

from tests.e2e.services import NO_REDIS, kill_at_once, put, started
from tests.processes.services import LIMIT

VALUE = {"Content-Type": "application/octet-stream"}
FULL = 500_000  # bytes of a file


async def test_a_full_disk_refuses_writes_only(tmp_path: Path) -> None:
    settings = {"levels__memory__max_size": "1", **NO_REDIS}  # what is read comes from the database
    values = {f"key:{number}": os.urandom(20_000) for number in range(40)}
    with started(tmp_path, **settings) as (service, url):
        async with httpx.AsyncClient(base_url=url, timeout=LIMIT) as client:
            worker = service.child("cachesvc.node")
            worker.rlimit(psutil.RLIMIT_FSIZE, (FULL, psutil.RLIM_INFINITY))
            written = [key for key, value in values.items() if await write(client, key, value)]
            assert 0 < len(written) < len(values)
            await check(client, values, written)
            worker.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
            await put(client, "room", "again")
            late = next(key for key in values if key not in written)
            assert await write(client, late, values[late])
            written.append(late)
        kill_at_once(service.process.pid)
    with started(tmp_path, **settings) as (_, url):
        async with httpx.AsyncClient(base_url=url, timeout=LIMIT) as client:
            await check(client, values, written)


async def write(client: httpx.AsyncClient, key: str, value: bytes) -> bool:
    answer = await client.put(f"/v1/cache/{key}", content=value, headers=VALUE)
    assert answer.status_code in (201, 503), answer.text
    if answer.status_code == 503:
        assert answer.json()["code"] == "UNAVAILABLE"
        assert answer.headers["Retry-After"]
    return answer.status_code == 201


async def check(client: httpx.AsyncClient, values: dict[str, bytes], written: list[str]) -> None:
    """What was written is there; what was refused left nothing."""
    for key, value in values.items():
        answer = await client.get(f"/v1/cache/{key}")
        assert (answer.status_code, answer.content == value) == ((200, True) if key in written else (404, False)), key
