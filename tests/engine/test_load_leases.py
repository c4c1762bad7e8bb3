"""Leases of keys to load: all that are asked for together are taken, or none is."""

from __future__ import annotations

import asyncio

import pytest

from cachesvc.breaker import Breaker
from cachesvc.engine.load_leases import LoadLeases
from cachesvc.errors import Overloaded
from cachesvc.model.keys import Key
from tests.engine.stores import FakeLeases
from tests.fakes import FakeClock


async def test_where_there_is_no_room_for_all_none_is_taken() -> None:
    clock = FakeClock()
    place = FakeLeases(clock.now)
    leases = LoadLeases([(place, Breaker(clock))], holder="n1", most=10, pending=2, lanes=1)
    with pytest.raises(Overloaded):
        await leases.take([Key("a:1"), Key("a:2"), Key("a:3")], 5.0)
    async with asyncio.TaskGroup() as group:
        group.create_task(leases.stage.serve())
        leases.stage.close()
    assert place.held == {}
    assert place.asked == []
