"""The door: what was in flight when the node was frozen is not sent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from cachesvc.engine.leash import Leash
from cachesvc.observability.metrics import Metrics
from cachesvc.web.door import Door
from cachesvc.web.routes import TEMPLATE
from tests.fakes import FakeClock


@pytest.mark.parametrize(("method", "status"), [("GET", 503), ("HEAD", 503), ("PUT", 200)])
async def test_an_answer_that_was_in_flight(method: str, status: int) -> None:
    """A read may be old by now; what a write says is true."""
    clock = FakeClock(1_000.0)
    leash = Leash(clock)
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        leash.renew(clock.monotonic())  # it has run out
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"old"})

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    service: Any = SimpleNamespace(
        cache=SimpleNamespace(leash=leash),
        metrics=Metrics(),
        clock=clock,
        rates=None,
        doorman=SimpleNamespace(greet=lambda _: SimpleNamespace(unrestricted=True)),
    )
    scope = {"type": "http", "method": method, "path": "/v1/cache/k", "headers": [], TEMPLATE: "/v1/cache/{key}"}
    await Door(app, service=service)(scope, receive, send)
    assert [message["status"] for message in sent if message["type"] == "http.response.start"] == [status]
    if status == 503:
        assert orjson.loads(sent[-1]["body"])["retryAfter"] == 1.0
