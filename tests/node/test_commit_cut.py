"""The connection to the database is lost around a commit: what became of the write is found out, and it is carried out once."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from cachesvc.engine.answers import Want, Written
from cachesvc.errors import OutcomeUnknown, Unavailable
from cachesvc.model.change import Draft, Idempotency, Operation
from cachesvc.model.keys import Key
from cachesvc.node.building import opened
from cachesvc.node.node import Node
from tests.faults import proxy
from tests.node.conftest import settings

KEY = Key("n:1")
LIMIT = 20.0  # seconds


def add(asked: str) -> Draft:
    return Draft(Operation.INCREMENT, KEY, amount=Decimal(1), idempotency=Idempotency("someone", asked, "same"))


async def again(node: Node, draft: Draft) -> Written:
    """Ask until it is answered, as a client does that was told to come back."""
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                return await node.cache.write(draft)
            except (Unavailable, OutcomeUnknown):
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("commits", ["before", "after"])
async def test_the_same_key_finds_out(tmp_path: Path, postgres_url: str, commits: proxy.Commits) -> None:
    url = make_url(postgres_url)
    assert url.port is not None
    async with proxy.opened(url.port) as between:
        through = url.set(port=between.port).render_as_string()
        async with opened(settings(tmp_path, database={"url": through, "timeout": 2.0})) as node:
            await again(node, add("first"))
            between.commits = commits
            with pytest.raises((OutcomeUnknown, Unavailable)):
                await node.cache.write(add("second"))
            between.heal()
            done = await again(node, add("second"))
            assert done.receipt.value == b"2"
            assert (await again(node, add("second"))).receipt == done.receipt
            entry = (await node.cache.read(KEY, Want(fresh=True))).entry
            assert entry is not None
            assert entry.value == b"2"
        between.cut()
        while between.links:
            await asyncio.sleep(0)
