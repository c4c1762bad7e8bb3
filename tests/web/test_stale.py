"""What a client is told of stale content and of absences: Cache-Status, and the directives of a request."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cachesvc.engine.load_terms import Loading
from cachesvc.model.policy import Policy
from tests.engine.loads import Origin, terms, until
from tests.web.site import Site, opened

PATH = "/v1/cache/a:1"


@pytest.fixture
def origin() -> Origin:
    return Origin()


async def site_with(origin: Origin, policy: Policy) -> AsyncIterator[Site]:
    loading: Loading = terms(policy=policy)
    async with opened(loaders={"a": origin}, loading=loading) as site:
        yield site


async def test_stale_content_says_how_stale_it_is_and_what_was_tried(origin: Origin) -> None:
    policy = Policy(stale_while_revalidate=5.0, stale_if_error=60.0)
    async for site in site_with(origin, policy):
        async with site.client() as client:
            loaded = await client.get(PATH)
            assert loaded.headers["Cache-Status"] == "cachesvc; fwd=uri-miss; stored; detail=loader"
            site.clock.advance(12)
            origin.away = True
            stale = await client.get(PATH)
            assert (stale.status_code, stale.content) == (200, b"1")
            assert stale.headers["Cache-Status"] == "cachesvc; hit; ttl=-2; detail=memory"
            site.clock.advance(10)
            failed = await client.get(PATH)
            assert failed.headers["Cache-Status"] == "cachesvc; fwd=stale; ttl=-12; detail=database"
            refused = await client.get(PATH, headers={"Cache-Control": "no-cache"})
            assert refused.status_code == 503  # the authority itself has nothing that lives, and the loader nothing at all
            cached = await client.get(PATH, headers={"Cache-Control": "no-cache, only-if-cached"})
            assert cached.status_code == 504
            only = await client.get(PATH, headers={"Cache-Control": "only-if-cached, max-stale=100"})
            assert only.headers["Cache-Status"] == "cachesvc; hit; ttl=-12; detail=memory"
            site.clock.advance(60)
            gone = await client.get(PATH)
            assert gone.status_code == 503
            assert "Retry-After" in gone.headers
            assert "loader a" in gone.json()["detail"]
            origin.away = False
            anew = await client.get(PATH, headers={"Cache-Control": "no-cache"})  # as a browser asks that loads a page anew
            assert anew.headers["Cache-Status"] == "cachesvc; fwd=uri-miss; stored; detail=loader"


async def test_only_if_cached_takes_what_is_stale_and_loads_nothing(origin: Origin) -> None:
    async for site in site_with(origin, Policy(stale_while_revalidate=60.0)):
        async with site.client() as client:
            await client.get(PATH)
            site.clock.advance(12)
            answer = await client.get(PATH, headers={"Cache-Control": "only-if-cached"})
            assert (answer.status_code, answer.headers["Cache-Status"]) == (200, "cachesvc; hit; ttl=-2; detail=memory")
            assert site.cache.reads.loads.counts.refreshes == 0
            await client.get(PATH)
            await until(lambda: len(origin.calls) == 2)


async def test_an_absence_that_is_remembered_is_a_hit_without_content(origin: Origin) -> None:
    origin.gone = {"a:1"}  # type: ignore[arg-type]
    async for site in site_with(origin, Policy(negative_ttl=30.0)):
        async with site.client() as client:
            assert (await client.get(PATH)).headers["Cache-Status"] == "cachesvc; fwd=uri-miss"
            for headers in ({}, {"Cache-Control": "only-if-cached"}):
                known = await client.get(PATH, headers=headers)
                assert known.status_code == 404
                assert known.headers["Cache-Status"] == "cachesvc; hit; detail=negative"
                assert known.headers["Fill-Token"]
            assert len(origin.calls) == 1
            listed = (await client.get("/v1/keys")).json()
            assert listed["keys"] == []
            assert (await client.put(PATH, content=b"7", headers={"Content-Type": "application/json"})).status_code == 201
            assert (await client.get(PATH)).content == b"7"
