"""POST /v1/warm and GET /v1/hot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest

from cachesvc.model.keys import Key
from cachesvc.model.warming import Warming, WarmSource, unpack_warming
from cachesvc.ports import Loaded
from cachesvc.protocol.operations import HotKeys, JobTold
from cachesvc.protocol.warming import WarmLimits
from cachesvc.web.service import Limits
from tests.web.site import Site, opened

LIMITS = Limits(warming=WarmLimits(max_keys=3, max_rate=100.0, rate=50.0, templates={"p": "{module}:{userId}:{dataType}"}))


class Nothing:
    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Loaded]:
        return {}


async def begun(site: Site, answer: httpx.Response) -> Warming:
    told = answer.json()
    JobTold.model_validate(told)
    assert answer.headers["Location"] == f"/v1/jobs/{told['id']}"
    body = await site.store.job_body(told["id"])
    assert body is not None
    return unpack_warming(body)


@pytest.mark.parametrize(
    ("body", "warming", "title"),
    [
        (
            {"keys": ["a", "b", "a"]},
            Warming(WarmSource.DATABASE, (Key("a"), Key("b")), rate=50.0),
            "warm 2 keys from the authority",
        ),
        (
            {"pattern": "t:*", "rate": 7, "concurrency": 2},
            Warming(WarmSource.DATABASE, pattern="t:*", rate=7, concurrency=2),
            "warm t:* from the authority",
        ),
        (
            {"module": "p", "userId": "u", "dataTypes": ["x", "y"]},
            Warming(WarmSource.LOADER, (Key("p:u:x"), Key("p:u:y")), rate=50.0),
            "warm 2 keys from loaders",
        ),
        (
            {"keys": ["p:1"], "source": "loader"},
            Warming(WarmSource.LOADER, (Key("p:1"),), rate=50.0),
            "warm 1 key from loaders",
        ),
        (
            {"module": "p", "userId": "u", "dataTypes": ["x"], "source": "database"},
            Warming(WarmSource.DATABASE, (Key("p:u:x"),), rate=50.0),
            "warm 1 key from the authority",
        ),
        ({"source": "peer"}, Warming(WarmSource.PEER, rate=50.0), "warm what is hot from a peer"),
        (
            {"source": "peer", "peer": "n2", "pattern": "*"},
            Warming(WarmSource.PEER, pattern="*", peer="n2", rate=50.0),
            "warm * from n2",
        ),
    ],
)
async def test_what_is_begun(body: dict[str, Any], warming: Warming, title: str) -> None:
    async with opened(limits=LIMITS, loaders={"p": Nothing()}) as site, site.client() as http:
        answer = await http.post("/v1/warm", json=body)
        assert (answer.status_code, answer.json()["title"], answer.json()["state"]) == (202, title, "waiting")
        assert await begun(site, answer) == warming


async def test_two_operators_share_one_job(site: Site, http: httpx.AsyncClient) -> None:
    first = await http.post("/v1/warm", json={"keys": ["a", "b"]})
    second = await http.post("/v1/warm", json={"keys": ["b", "a"], "rate": 3})
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["id"] == second.json()["id"]
    await http.delete(f"/v1/jobs/{first.json()['id']}")
    third = await http.post("/v1/warm", json={"keys": ["a", "b"]})
    assert (third.status_code, third.json()["id"] != first.json()["id"]) == (202, True)


async def test_only_so_many_wait(http: httpx.AsyncClient) -> None:
    answers = [await http.post("/v1/warm", json={"keys": [key]}) for key in "abcd"]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 503]
    assert "Retry-After" in answers[3].headers


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "keys"),
        ({"keys": []}, "keys"),
        ({"pattern": "["}, "pattern"),
        ({"pattern": "a\n"}, "pattern"),
        ({"pattern": "x" * 513}, "pattern"),
        ({"pattern": ""}, "pattern"),
        ({"keys": ["a", "\x01"]}, "keys[1]"),
        ({"keys": ["a"], "pattern": "*"}, "keys"),
        ({"keys": ["a"], "what": 1}, "what"),
        ({"keys": "a"}, "keys"),
        ({"keys": [1]}, "keys[0]"),
        ({"keys": ["a", "b", "c", "d"]}, "keys"),
        ({"keys": ["a"], "source": "moon"}, "source"),
        ({"keys": ["a"], "source": "peer"}, "keys"),
        ({"keys": ["a"], "peer": "n2"}, "peer"),
        ({"keys": ["a"], "source": "loader"}, "keys[0]"),
        ({"pattern": "*", "source": "loader"}, "pattern"),
        ({"source": "loader"}, "keys"),
        ({"module": ""}, "userId"),
        ({"module": "", "userId": "u", "dataTypes": ["a"]}, "module"),
        ({"module": "p"}, "userId"),
        ({"module": "p", "userId": "u"}, "dataTypes"),
        ({"module": "p", "userId": "u", "dataTypes": ["a", ""]}, None),
        ({"module": "p", "userId": "u\n", "dataTypes": ["a"]}, "dataTypes[0]"),
        ({"module": "q", "userId": "u", "dataTypes": ["a"]}, "module"),
        ({"module": "p", "userId": "u", "dataTypes": ["a"] * 4}, "dataTypes"),
        ({"keys": ["a"], "rate": 0}, "rate"),
        ({"keys": ["a"], "rate": 0.5}, "rate"),
        ({"keys": ["a"], "rate": 101}, "rate"),
        ({"keys": ["a"], "rate": "fast"}, "rate"),
        ({"keys": ["a"], "concurrency": 257}, "concurrency"),
        ({"keys": ["a"], "concurrency": 1.5}, "concurrency"),
    ],
)
async def test_bad_bodies_are_refused_by_name(body: dict[str, Any], field: str | None) -> None:
    async with opened(limits=LIMITS, loaders={"p": Nothing()}) as site, site.client() as http:
        answer = await http.post("/v1/warm", json=body)
        if field is None:
            assert answer.status_code == 202
            return
        assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text
        assert await site.store.open_jobs() == []


async def test_what_is_no_json(http: httpx.AsyncClient) -> None:
    assert (await http.post("/v1/warm", content=b"{}")).status_code == 415
    answer = await http.post("/v1/warm", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400


async def test_what_is_hot(http: httpx.AsyncClient) -> None:
    for key in "abc":
        await http.put(f"/v1/cache/{key}", content=b"1")
    await http.get("/v1/cache/a")
    told = (await http.get("/v1/hot?limit=2")).json()
    HotKeys.model_validate(told)
    assert [held["key"] for held in told["keys"]] == ["a", "c"]
    assert (await http.get("/v1/hot?limit=0")).json()["field"] == "limit"
