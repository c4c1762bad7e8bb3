"""Tokens that are revoked: refused over HTTP, their streams ended and their sockets closed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import jwt
import pytest

from cachesvc.model.change import Change, Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.model.revocation import Revocations
from cachesvc.web.app import create_app
from cachesvc.web.live import Live
from cachesvc.web.tokens import Tokens, own_keys
from tests.web.site import Site, opened
from tests.web.sockets import connected

SECRET = "a secret that is long enough for its hash"


def bearer(sub: str, jti: str, scope: str = "read:*", **claims: Any) -> dict[str, str]:
    now = time.time()
    said = {"sub": sub, "iss": "us", "aud": "cache", "exp": now + 600, "iat": now - 10, "scope": scope, "jti": jti}
    return {"Authorization": f"Bearer {jwt.encode(said | claims, SECRET)}"}


ROOT = bearer("root", "r-1", "admin", exp=time.time() + 86_400)  # made when the run begins


@pytest.fixture
async def guarded() -> AsyncIterator[Site]:
    async with opened() as site:
        site.clock._now = time.time()  # PyJWT asks the system's clock
        await site.cache.write(Draft(Operation.SET, Key("task:1"), b"1"))
        revocations = Revocations((), site.clock.now)
        keys = own_keys(["HS256"], [SECRET], [])
        doorman = Tokens(keys, issuer="us", audience="cache", leeway=5.0, most=100, clock=site.clock, revocations=revocations)
        service = replace(site.service, doorman=doorman, revocations=revocations)
        live = Live(service)
        site.service, site.live, site.app = service, live, create_app(service, live)
        apply = site.cache.apply

        def applied(changes: list[Change]) -> None:
            apply(changes)
            revocations.add([change.revocation for change in changes if change.revocation is not None])

        site.cache.apply = applied  # type: ignore[method-assign,assignment]
        yield site


async def revoke(site: Site, **body: Any) -> httpx.Response:
    async with site.client() as http:
        return await http.post("/v1/revocations", json=body, headers=ROOT)


async def status(site: Site, headers: dict[str, str]) -> int:
    async with site.client() as http:
        return (await http.get("/v1/cache/task:1", headers=headers)).status_code


async def test_one_token(guarded: Site) -> None:
    one, other = bearer("ann", "t-1"), bearer("ann", "t-2")
    assert [await status(guarded, one), await status(guarded, other)] == [200, 200]
    answer = await revoke(guarded, jti="t-1", expiresAt=time.time() + 600)
    assert (answer.status_code, answer.json()["jti"]) == (200, "t-1")
    assert [await status(guarded, one), await status(guarded, other)] == [401, 200]


async def test_all_of_a_subject_up_to_now(guarded: Site) -> None:
    old, other = bearer("ann", "t-1"), bearer("bob", "t-2")
    answer = await revoke(guarded, sub="ann")
    assert answer.status_code == 200
    guarded.clock.advance(2.0)
    new = bearer("ann", "t-3", iat=time.time() - 1, exp=time.time() + 600)
    before = answer.json()["before"]
    assert before == pytest.approx(guarded.clock.now() - 2.0)
    assert [await status(guarded, old), await status(guarded, other)] == [401, 200]
    later = await revoke(guarded, sub="bob", before=time.time() - 60)
    assert (later.status_code, await status(guarded, other), await status(guarded, new)) == (200, 200, 401)


async def test_a_token_that_says_not_when_it_was_issued_is_of_any_time(guarded: Site) -> None:
    now = time.time()
    claims = {"sub": "ann", "iss": "us", "aud": "cache", "exp": now + 600, "scope": "read:*"}
    token = {"Authorization": f"Bearer {jwt.encode(claims, SECRET)}"}
    assert await status(guarded, token) == 200
    await revoke(guarded, sub="ann", before=1.0)
    assert await status(guarded, token) == 401


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "jti"),
        ({"jti": "t", "sub": "ann"}, "jti"),
        ({"jti": "t", "before": 1}, "before"),
        ({"sub": "ann", "before": 9e9}, "before"),
        ({"sub": "ann", "before": "now"}, "before"),
        ({"jti": ""}, "jti"),
        ({"jti": 7}, "jti"),
        ({"jti": "t", "expiresAt": 1}, "expiresAt"),
        ({"jti": "t", "token": "x"}, "token"),
    ],
)
async def test_what_is_wrong_is_named(guarded: Site, body: dict[str, Any], field: str) -> None:
    answer = await revoke(guarded, **body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


async def test_it_is_for_administrators_and_bounded(guarded: Site) -> None:
    async with guarded.client() as http:
        answer = await http.post("/v1/revocations", json={"jti": "t"}, headers=bearer("ann", "t-1", "write:* invalidate:*"))
        assert answer.status_code == 403
    guarded.service = replace(guarded.service, limits=replace(guarded.service.limits, max_revocations=1))
    guarded.app = create_app(guarded.service, guarded.live)
    assert (await revoke(guarded, jti="t-1")).status_code == 200
    answer = await revoke(guarded, jti="t-2")
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")


async def test_the_same_request_again_is_answered_the_same(guarded: Site) -> None:
    async with guarded.client() as http:
        headers = ROOT | {"Idempotency-Key": "once"}
        first = await http.post("/v1/revocations", json={"sub": "ann"}, headers=headers)
        guarded.clock.advance(5.0)
        again = await http.post("/v1/revocations", json={"sub": "ann"}, headers=headers)
        assert (again.json()["sequence"], again.headers["idempotency-replayed"]) == (first.json()["sequence"], "true")
        other = await http.post("/v1/revocations", json={"sub": "bob"}, headers=headers)
        assert other.status_code == 422


async def test_it_closes_the_sockets_of_the_token_and_no_other(guarded: Site) -> None:
    async with (
        guarded.served() as port,
        connected(port, additional_headers=bearer("ann", "t-1")) as one,
        connected(port, additional_headers=bearer("ann", "t-2")) as other,
    ):
        await one.ask("subscribe", {"resources": ["task"]})
        await revoke(guarded, jti="t-1")
        assert (await one.closed())[0] == 4505
        assert (await other.ask("cache:get", {"key": "task:1"}))["type"] == "cache:value"


async def test_it_ends_the_streams_of_the_token(guarded: Site) -> None:
    async with (
        guarded.served() as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
        http.stream("GET", "/v1/changes", headers=bearer("ann", "t-1")) as answer,
    ):
        chunks = answer.aiter_bytes()
        assert (await anext(chunks)).startswith(b"retry:")
        await revoke(guarded, sub="ann")
        async for _ in chunks:
            pass
    assert len(guarded.service.revocations.told) == 2  # the doorman and the sockets
