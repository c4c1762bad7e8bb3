"""Rates over HTTP and the socket: who asks for too much is told so, hot or not, and the example of the page is what happens."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.protocol.messages import FROM_SERVER
from cachesvc.realtime.rates import ADDRESS, USER, Rate, RateLimits, Rates
from cachesvc.settings.rates import COSTS
from cachesvc.web.app import create_app
from cachesvc.web.live import Live, LiveLimits
from tests.realtime.test_rates import FakeQuotas, running
from tests.web.both import both
from tests.web.examples import shows
from tests.web.site import Site, opened
from tests.web.sockets import connected
from tests.web.test_hot import PLAIN, answered

__all__ = ["answered"]  # a fixture
PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "secure.md").read_text()
(EXAMPLE,) = re.findall(r"^```frames rates\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@asynccontextmanager
async def limited(live_limits: LiveLimits | None = None, **scopes: Rate) -> AsyncIterator[Site]:
    async with opened() as site:
        await site.cache.write(Draft(Operation.SET, Key("a:1"), b'{"a": 1}'))
        rates = Rates(RateLimits(scopes, COSTS), site.clock)
        site.service = replace(site.service, rates=rates)
        site.live = Live(site.service, live_limits)
        site.app = create_app(site.service, site.live)
        yield site


async def counted(site: Site) -> tuple[int, int]:
    """Hits in memory, and refusals: each once, whoever looked first."""
    assert site.service.rates is not None
    return (await site.cache.memory.stats()).hits, sum(site.service.rates.refused.values())


@pytest.mark.parametrize("scope", [USER, ADDRESS])
async def test_who_asks_for_too_much_is_told_when_to_come_back(scope: str) -> None:
    async with limited(None, **{scope: Rate(0.5, 3.0)}) as site, site.client() as http:
        assert [(await http.get("/v1/cache/a:1")).status_code for _ in range(4)] == [200, 200, 200, 429]
        answer = await http.get("/v1/cache/a:1")
        problem = answer.json()
        assert (problem["status"], problem["code"], problem["recoverable"]) == (429, "TOO_MANY_REQUESTS", True)
        assert (problem["retryAfter"], answer.headers["retry-after"]) == (2.0, "2")
        assert answer.headers["ratelimit-policy"] == f'"{scope}";q=3;w=6'
        assert answer.headers["ratelimit"] == f'"{scope}";r=0;t=2'
        assert answer.headers["x-request-id"] == problem["requestId"]
        for path in ("/healthz", "/readyz", "/asyncapi.json"):
            assert (await http.get(path)).status_code == 200
        site.clock.advance(2.0)
        ok = await http.get("/v1/cache/a:1")
        assert (ok.status_code, "ratelimit" in ok.headers) == (200, False)
        assert site.service.rates is not None
        assert site.service.rates.refused[scope] == 2


async def test_what_is_more_work_costs_more() -> None:
    async with limited(user=Rate(1.0, 22.0)) as site, site.client() as http:
        assert (await http.post("/v1/batch", json={"operations": [{"operation": "get", "key": "a:1"}]})).status_code == 200
        assert (await http.get("/v1/keys")).status_code == 429
        assert (await http.get("/v1/cache/a:1")).status_code == 200


async def test_a_guess_at_a_token_is_paid_for_by_its_address() -> None:
    async with limited(address=Rate(1.0, 3.0)) as site:

        class Shut:
            def greet(self, token: str | None) -> None:
                return None

        site.service = replace(site.service, doorman=Shut())  # type: ignore[arg-type]
        site.app = create_app(site.service, site.live)
        async with site.client() as http:
            assert [(await http.get("/v1/cache/a:1")).status_code for _ in range(4)] == [401, 401, 401, 429]


@pytest.mark.parametrize("scope", [USER, ADDRESS])
@pytest.mark.parametrize("request_", [PLAIN, PLAIN.replace(b"GET", b"HEAD"), PLAIN * 3])
async def test_hot_and_plain_answer_alike(answered: list[int], scope: str, request_: bytes) -> None:
    count = request_.count(b"HTTP/1.1\r\n")
    async with limited(None, **{scope: Rate(0.5, 2.0 * count + 1.0)}) as site, both(site) as pair:
        answered.clear()  # of the trial before it is taken up
        for refused in (0, count):  # by both, one after the other; then one is left
            told = await pair.ask_each(request_)
            assert told[0] == told[1]
            assert told[0].count(b"HTTP/1.1 429") == refused
            if not refused:
                await pair.ask_each(PLAIN)
        assert len(answered) == count + 1
        assert await counted(site) == (2 * count + 1, 2 * count + 1)


async def test_who_is_behind_a_proxy_pays_alone_on_both_paths() -> None:
    async with limited(None, address=Rate(0.01, 2.0)) as site, both(site) as pair:
        for address, status in ((b"10.0.0.1", b"200"), (b"10.0.0.1", b"429"), (b"10.0.0.2", b"200")):
            told = await pair.ask_each(PLAIN.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: %b\r\n\r\n" % address))
            assert [answer[9:12] for answer in told] == [status, status]


async def test_the_example_of_the_page_is_what_happens() -> None:
    async with limited(connection=Rate(10 / 60, 10.0)) as site, site.served() as port, connected(port) as socket:
        for _ in range(7):
            await socket.ask("ping", {})
        for line in EXAMPLE.splitlines():
            shown: dict[str, Any] = json.loads(line[2:])
            if line.startswith("→"):
                await socket.connection.send(json.dumps(shown))
                continue
            said = await socket.next()
            assert shows(shown, said), (shown, said)
            FROM_SERVER[said["type"]].model_validate(said)


async def test_a_flood_over_the_socket_is_closed_and_others_are_not() -> None:
    limits = LiveLimits()
    limits = replace(limits, session=replace(limits.session, max_refusals=20))
    async with (
        limited(limits, connection=Rate(1.0, 50.0)) as site,
        site.served() as port,
        connected(port) as flood,
        connected(port) as other,
    ):
        for _ in range(200):
            await flood.send("cache:get", {"key": "a:1"})
        assert (await flood.closed())[0] == 4029
        assert (await other.ask("cache:get", {"key": "a:1"}))["type"] == "cache:value"


async def test_the_whole_burst_is_there_over_http_and_the_socket_where_it_is_drawn_in_chunks() -> None:
    async with opened() as site:
        await site.cache.write(Draft(Operation.SET, Key("a:1"), b"1"))
        rates = Rates(RateLimits({USER: Rate(0.001, 60.0)}), site.clock, FakeQuotas(site.clock))
        site.service = replace(site.service, rates=rates)
        site.live = Live(site.service)
        site.app = create_app(site.service, site.live)
        async with running(rates), site.served() as port, connected(port) as socket:
            for _ in range(30):
                await socket.send("cache:get", {"key": "a:1"})
            assert [(await socket.next())["type"] for _ in range(30)] == ["cache:value"] * 30
            url = f"http://127.0.0.1:{port}/v1/cache/a:1"
            async with httpx.AsyncClient() as http:
                statuses = [(await http.get(url)).status_code for _ in range(31)]
            assert statuses == [200] * 30 + [429]


async def test_handshakes_are_paid_for_by_their_address() -> None:
    async with limited(address=Rate(0.001, 2.0)) as site, site.served() as port:
        async with connected(port), connected(port):
            with pytest.raises(Exception, match="429"):
                async with connected(port):
                    pass
        assert site.live.stats()["refused"] == 1


async def test_connections_are_counted_by_their_own() -> None:
    async with limited(connection=Rate(0.001, 2.0)) as site, site.served() as port:
        for _ in range(3):
            async with connected(port) as socket:
                kinds = [(await socket.ask("cache:get", {"key": "a:1"}))["type"] for _ in range(3)]
                assert kinds == ["cache:value", "cache:value", "error"]
        assert await counted(site) == (6, 3)
