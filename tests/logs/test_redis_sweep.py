"""The Redis authority's sweep of tombstones, with a write between its two looks."""

from __future__ import annotations

from typing import Any

import pytest

from cachesvc.clock import SystemClock
from cachesvc.logs.redis import opened
from cachesvc.logs.redis_server import Server
from cachesvc.model.change import Draft, Operation
from cachesvc.model.fold_state import Terms
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Position, Seq

A = Key("a:1")


async def test_a_row_written_since_it_was_found_past_its_time_stays(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    async with opened(
        valkey_url,
        key_prefix="sweep",
        terms=Terms(tombstone_ttl=0.001),
        timeout=5.0,
        max_connections=4,
        poll_interval=0.25,
        clock=clock,
        durable=False,
    ) as authority:
        await authority.append([Draft(Operation.SET, A, b"1")], batch="0" * 32)
        await authority.append([Draft(Operation.DELETE, A)], batch="1" * 32)
        ended = await authority.time() + 0.001
        while await authority.time() <= ended:
            pass
        together = Server.together
        written = False

        async def after_a_write(server: Server, *commands: Any) -> Any:
            nonlocal written
            if commands[0][0] == "GETRANGE" and not written:
                written = True
                await authority.append([Draft(Operation.SET, A, b"acknowledged")], batch="2" * 32)
            return await together(server, *commands)

        monkeypatch.setattr(Server, "together", after_a_write)
        await authority.sweep(limit=100)
        assert written
        found = await authority.get([A], horizon=Position(Epoch(0), Seq(0)))
        assert found[A].value == b"acknowledged"
