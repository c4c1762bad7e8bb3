"""Rates as two nodes share them, over Valkey, and over PostgreSQL alone: what one would let through, and a chunk each."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.services import NO_REDIS, connected, put, started
from tests.processes.services import LIMIT

BURST, CHUNK = 100, 10


@pytest.mark.parametrize("over", ["valkey", "postgres"])
async def test_two_nodes_hold_an_address_to_one_rate(tmp_path: Path, over: str, valkey_url: str, postgres_url: str) -> None:
    patience = "20s"  # a node that is not answered for so long takes its share alone
    redis = {"levels__redis__url": valkey_url, "levels__redis__timeout": patience}
    settings: dict[str, Any] = redis if over == "valkey" else NO_REDIS
    settings = settings | {
        "levels__database__url": postgres_url,
        "levels__database__timeout": patience,
        "rates__enabled": "true",
        "rates__user_rate": "0",
        "rates__address_rate": "0.01",  # a token in a hundred seconds: what fills meanwhile is next to nothing
        "rates__address_burst": str(BURST),
        "rates__chunk": str(CHUNK / BURST),
    }
    with started(tmp_path / "a", **settings) as (_, first), started(tmp_path / "b", **settings) as (_, second):
        async with connected(first) as here, connected(second) as there:
            await put(here, "task:1", 1)
            passed = 1
            refused: dict[httpx.AsyncClient, int] = {here: 0, there: 0}
            async with asyncio.timeout(LIMIT):
                # until both have none left, and were given none for a while
                while min(refused.values()) < 50 or passed < BURST - 2 * CHUNK:
                    for http in (here, there):
                        answer = await http.get("/v1/cache/task:1")
                        if answer.status_code == 429:
                            refused[http] += 1
                            assert float(answer.headers["retry-after"]) >= 1
                        else:
                            assert answer.status_code == 200
                            passed += 1
                            refused[http] = 0
            assert passed <= BURST + 2 * CHUNK + 5
