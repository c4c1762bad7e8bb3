"""Listing keys, and querying by indexed fields."""

from __future__ import annotations

import httpx
import pytest

from cachesvc.web.service import Limits
from tests.web.site import Site, opened


async def fill(http: httpx.AsyncClient, *keys: str) -> None:
    for key in keys:
        assert (await http.put("/v1/cache/" + key, content=b'{"status":"open"}')).status_code == 201


async def test_keys_with_what_is_told_of_them(site: Site, http: httpx.AsyncClient) -> None:
    made = await http.put("/v1/cache/a?ttl=10&tags=x", content=b"[1]")
    site.clock.advance(2.5)
    page = (await http.get("/v1/keys")).json()
    assert page == {
        "keys": [{"key": "a", "version": made.json()["version"], "ttl": 7.5, "size": 3, "tags": ["x"]}],
        "cursor": None,
    }


@pytest.mark.parametrize("path", ["/v1/keys?pattern=t:*", "/v1/query?status=open"])
async def test_pages_in_byte_order(http: httpx.AsyncClient, path: str) -> None:
    names = sorted([f"t:{i}" for i in range(150)] + ["t:\U0001f600", "t:\uffee"], key=str.encode)
    await fill(http, *names)
    for limit in (1, 7, 64, 65, 152, 1000):
        seen: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            params = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
            page = (await http.get(path, params=httpx.QueryParams(httpx.URL(path).params).merge(params))).json()
            items = page.get("keys", page.get("entries"))
            assert len(items) <= limit
            seen += [item["key"] for item in items]
            cursor = page["cursor"]
        assert seen == names


async def test_a_cursor_goes_on_with_what_it_began_with(http: httpx.AsyncClient) -> None:
    await fill(http, "a", "b", "c")
    keys = (await http.get("/v1/keys?pattern=*&limit=1")).json()["cursor"]
    found = (await http.get("/v1/query?status=open&limit=1")).json()["cursor"]
    for path in (f"/v1/keys?cursor={keys}", f"/v1/query?limit=5&status=open&cursor={found}"):
        assert (await http.get(path)).status_code == 200
    for path in (f"/v1/keys?pattern=a*&cursor={keys}", f"/v1/query?status=late&cursor={found}", f"/v1/keys?cursor={found}"):
        answer = await http.get(path)
        assert (answer.status_code, answer.json()["field"]) == (422, "cursor")
        assert "another listing" in answer.json()["detail"]


async def test_patterns(http: httpx.AsyncClient) -> None:
    await fill(http, "a.b", "a:b", "axb")
    page = (await http.get("/v1/keys", params={"pattern": "a[.:]b"})).json()
    assert [item["key"] for item in page["keys"]] == ["a.b", "a:b"]


async def test_query(http: httpx.AsyncClient) -> None:
    await http.put("/v1/cache/a", content=b'{"status": "open", "n": 1e400}')
    await http.put("/v1/cache/b", content=b'{"status": "done"}')
    await http.put("/v1/cache/c", content=b'{"status": "late"}')
    answer = await http.get("/v1/query?status=open&status=late")
    assert [item["key"] for item in answer.json()["entries"]] == ["a", "c"]
    assert b'"value":{"status": "open", "n": 1e400}' in answer.content


async def test_a_page_of_large_values_is_cut_short() -> None:
    limits = Limits(max_value_size=40_000)
    async with opened(limits=limits) as site, site.client() as http:
        for i in range(30):
            await http.put(f"/v1/cache/k{i:02}", content=b'{"status":"open","x":"%s"}' % (b"x" * 39_000))
        seen = []
        cursor: dict[str, str] = {}
        while True:
            answer = await http.get("/v1/query", params={"status": "open", **cursor})
            assert len(answer.content) < limits.max_batch_size + 10_000
            seen += [item["key"] for item in answer.json()["entries"]]
            if answer.json()["cursor"] is None:
                break
            cursor = {"cursor": answer.json()["cursor"]}
        assert seen == [f"k{i:02}" for i in range(30)]


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("/v1/keys?limit=0", 422, "limit"),
        ("/v1/keys?limit=1001", 422, "limit"),
        ("/v1/keys?limit=x", 422, "limit"),
        ("/v1/keys?limit=-1", 422, "limit"),
        ("/v1/keys?cursor=%25%25", 422, "cursor"),
        ("/v1/keys?cursor=", 422, "cursor"),
        ("/v1/keys?cursor=AA", 422, "cursor"),
        ("/v1/keys?cursor=%C3%A9", 422, "cursor"),
        ("/v1/keys?pattern=%5Ba", 422, "pattern"),
        ("/v1/keys?pattern=%01", 422, "pattern"),
        ("/v1/keys?pattern=", 422, "pattern"),
        ("/v1/keys?pattern=%zz", 400, "pattern"),
        ("/v1/keys?patern=a", 422, "patern"),
        ("/v1/query", 422, "query"),
        ("/v1/query?limit=5", 422, "query"),
        ("/v1/query?colour=red", 422, "colour"),
        ("/v1/query?" + "&".join(f"f{i}=1" for i in range(17)), 422, "query"),
    ],
)
async def test_bad_listings(http: httpx.AsyncClient, path: str, status: int, field: str) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.json()["field"]) == (status, field)
