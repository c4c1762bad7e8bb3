"""What tests of loads have in common: an origin that can be held, and waiting for what is to come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cachesvc.engine.load_terms import Loading, LoadTerms
from cachesvc.errors import Unavailable
from cachesvc.model.keys import Key
from cachesvc.model.policy import Policy
from cachesvc.ports import Loaded
from tests.engine.stores import Gate

JSON = "application/json"


class Origin:
    """A loader that counts. Its value is how often it was asked; `gate` holds it; keys in `gone` are not there."""

    def __init__(self) -> None:
        self.calls: list[list[Key]] = []
        self.under_way = 0
        self.most = 0
        self.gate = Gate()
        self.gone: set[Key] = set()
        self.broken: set[Key] = set()
        self.away = False

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Loaded | Unavailable]:
        self.calls.append(list(keys))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.gate()
        finally:
            self.under_way -= 1
        if self.away:
            raise Unavailable("loader a: the origin is away")
        value = Loaded(b"%d" % len(self.calls), JSON, ttl=10.0)
        there = {key: value for key in keys if key not in self.gone}
        return there | {key: Unavailable(f"loader a: {key} is broken") for key in keys if key in self.broken}


def terms(*, policy: Policy | None = None, **more: Any) -> Loading:
    return Loading({"a": LoadTerms(policy=policy or Policy(), **more)})


async def until(true: Callable[[], object]) -> None:
    """Let the others run until it is true."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0)
