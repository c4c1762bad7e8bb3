"""POST /v1/invalidate."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import httpx
import pytest

from cachesvc.engine.preview import FIRST_READ, READ_BYTES, preview
from cachesvc.model.entry import JSON, Entry
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Version
from tests.web.site import Site, opened


async def put(http: httpx.AsyncClient, key: str, **query: Any) -> None:
    assert (await http.put(f"/v1/cache/{key}", content=b"1", params=query)).status_code in (200, 201)


async def invalidate(http: httpx.AsyncClient, **body: Any) -> Any:
    answer = await http.post("/v1/invalidate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def status(http: httpx.AsyncClient, key: str) -> int:
    return (await http.get(f"/v1/cache/{key}")).status_code


async def test_by_pattern(site: Site, http: httpx.AsyncClient) -> None:
    for key in ("task:1", "task:2", "note:1"):
        await put(http, key)
    told = await invalidate(http, pattern="task:*")
    head = site.store.position.sequence
    assert told == {
        "sequence": head,
        "operation": "invalidate",
        "matched": 2,
        "cascaded": 0,
        "job": f"invalidation-{head}",
    }
    assert [await status(http, key) for key in ("task:1", "task:2", "note:1")] == [404, 404, 200]
    await put(http, "task:1")
    assert await status(http, "task:1") == 200


async def test_by_keys_tags_and_cascade(http: httpx.AsyncClient) -> None:
    await put(http, "a", tags="t")
    await put(http, "b")
    await put(http, "c", depends_on="a")
    await put(http, "d", depends_on="c")
    told = await invalidate(http, keys=["b", "b", "none"])
    assert (told["matched"], told["cascaded"], told["job"]) == (1, 0, None)
    told = await invalidate(http, tags=["t"], cascade=True)
    assert (told["matched"], told["cascaded"]) == (1, 2)
    assert [await status(http, key) for key in "abcd"] == [404] * 4


async def test_a_fill_from_before_is_refused(http: httpx.AsyncClient) -> None:
    token = (await http.get("/v1/cache/page:1")).headers["Fill-Token"]
    await invalidate(http, pattern="page:*")
    answer = await http.put("/v1/cache/page:1", content=b"1", headers={"Fill-Token": token})
    assert (answer.status_code, answer.json()["code"]) == (412, "VERSION_CONFLICT")
    assert await status(http, "page:1") == 404


async def test_a_dry_run_tells_what_would_be_hit_and_does_nothing(site: Site, http: httpx.AsyncClient) -> None:
    for key, query in {
        "task:1": {"tags": "t"},
        "task:2": {},
        "note:1": {"depends_on": "task:1"},
        "note:2": {"depends_on": "note:1"},
        "other:1": {},
    }.items():
        await put(http, key, **query)
    await http.delete("/v1/cache/task:2")
    before = list(site.store.log)
    told = await invalidate(http, pattern="task:*", keys=["task:1", "gone"], cascade=True, dryRun=True)
    assert told == {
        "dryRun": True,
        "matched": 1,
        "cascaded": 2,
        "bytes": 3,
        "modules": {"task": {"entries": 1, "bytes": 1}, "note": {"entries": 2, "bytes": 2}},
        "sample": ["task:1", "note:1", "note:2"],
        "cascade": {"note:1": ["task:1"], "note:2": ["note:1"]},
        "loads": {},
    }
    told = await invalidate(http, tags=["t"], dryRun=True)
    assert (told["matched"], told["cascaded"], told["sample"]) == (1, 0, ["task:1"])
    assert site.store.log == before


class Value(bytes):
    """A value that tells how many of its kind there are."""

    alive = 0
    most = 0

    def __init__(self, _: bytes) -> None:
        Value.alive += 1
        Value.most = max(Value.most, Value.alive)

    def __del__(self) -> None:
        Value.alive -= 1


async def test_a_dry_run_holds_the_values_of_one_read_only(site: Site) -> None:
    keys = [Key(f"a:{number}") for number in range(200)]
    value = b"1" * (READ_BYTES // 8)

    async def get(wanted: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        return {key: Entry(key, Version(1), Value(value), JSON, 0.0, 0.0, None, b"") for key in wanted}

    site.store.get = get  # type: ignore[method-assign,assignment]
    named = Invalidation(keys=tuple(keys))
    told = await preview(site.store, named, at=site.cache.applied, clock=site.clock, loaders=())
    assert (told.matched, told.nbytes) == (200, 200 * len(value))
    assert Value.most <= FIRST_READ + 8 + 1


async def test_a_dry_run_refuses_what_would_be_refused(http: httpx.AsyncClient) -> None:
    for number in range(6):
        await put(http, f"k{number + 1}", depends_on=f"k{number}")
    answer = await http.post("/v1/invalidate", json={"keys": ["k0"], "cascade": True, "dryRun": True})
    assert (answer.status_code, answer.json()["code"]) == (422, "LIMIT_EXCEEDED")


async def test_wait_all(site: Site, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/invalidate?wait=all", json={"keys": ["a"]})
    assert (answer.json()["applied"], answer.json()["missing"]) == (True, [])
    site.node.behind.append("n2")
    answer = await http.post("/v1/invalidate?wait=all", json={"keys": ["a"]})
    assert (answer.status_code, answer.json()["applied"], answer.json()["missing"]) == (200, False, ["n2"])


async def test_sent_again_it_is_answered_the_same(site: Site, http: httpx.AsyncClient) -> None:
    await put(http, "a")
    headers = {"Idempotency-Key": "night-1"}
    first = await http.post("/v1/invalidate", json={"keys": ["a"]}, headers=headers)
    await put(http, "a")
    again = await http.post("/v1/invalidate", json={"keys": ["a"]}, headers=headers)
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert await status(http, "a") == 200
    other = await http.post("/v1/invalidate", json={"keys": ["b"]}, headers=headers)
    assert other.status_code == 422


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "keys"),
        ({"keys": [], "tags": []}, "keys"),
        ({"cascade": True}, "keys"),
        ({"keys": "a"}, "keys"),
        ({"keys": [1]}, "keys[0]"),
        ({"keys": ["a", "b\n"]}, "keys[1]"),
        ({"keys": ["a", ""]}, "keys[1]"),
        ({"keys": ["é" * 257]}, "keys[0]"),
        ({"pattern": ""}, "pattern"),
        ({"pattern": 5}, "pattern"),
        ({"pattern": "a["}, "pattern"),
        ({"pattern": "a\\"}, "pattern"),
        ({"pattern": "a\n*"}, "pattern"),
        ({"pattern": "a" * 513}, "pattern"),
        ({"tags": ["\x00"]}, "tags[0]"),
        ({"tags": ["t"] * 129}, "tags"),
        ({"keys": ["a"], "cascade": "yes"}, "cascade"),
        ({"keys": ["a"], "kaskade": True}, "kaskade"),
    ],
)
async def test_bad_input_names_the_field(http: httpx.AsyncClient, site: Site, body: dict[str, Any], field: str) -> None:
    answer = await http.post("/v1/invalidate", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert site.store.log == []


@pytest.mark.parametrize(
    ("path", "content", "kind", "expected"),
    [
        ("/v1/invalidate", b"{", "application/json", 400),
        ("/v1/invalidate", b"[]", "application/json", 422),
        ("/v1/invalidate", b"", "application/json", 400),
        ("/v1/invalidate", b'{"keys":["a"]}', "text/plain", 415),
        ("/v1/invalidate?wait=some", b'{"keys":["a"]}', "application/json", 422),
        ("/v1/invalidate?now=1", b'{"keys":["a"]}', "application/json", 422),
    ],
)
async def test_bad_requests(http: httpx.AsyncClient, path: str, content: bytes, kind: str, expected: int) -> None:
    answer = await http.post(path, content=content, headers={"Content-Type": kind})
    assert answer.status_code == expected


async def test_too_many_keys_patterns_and_levels(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/invalidate", json={"keys": ["a"] * 100_001})
    assert (answer.status_code, answer.json()["code"], answer.json()["limit"]) == (422, "LIMIT_EXCEEDED", 100_000)
    for number in range(6):
        await put(http, f"k{number + 1}", depends_on=f"k{number}")
    answer = await http.post("/v1/invalidate", json={"keys": ["k0"], "cascade": True})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "LIMIT_EXCEEDED", "cascade")
    assert await status(http, "k1") == 200
    for text in ("a*", "b*", "c*"):
        await invalidate(http, pattern=text)
    answer = await http.post("/v1/invalidate", json={"pattern": "d*"})
    assert (answer.status_code, answer.json()["field"]) == (503, "pattern")
    assert int(answer.headers["Retry-After"]) > 0


async def test_the_authority_is_away() -> None:
    async with opened() as site, site.client() as http:
        await put(http, "a")
        site.store.away = True
        answer = await http.post("/v1/invalidate", json={"pattern": "*"})
        assert answer.status_code == 503
        assert "Retry-After" in answer.headers
        assert await status(http, "a") == 200


@pytest.mark.parametrize("body", [{"pattern": "k*"}, {"keys": ["k1"]}, {"tags": ["t"]}])
async def test_soft_keeps_the_content_for_who_takes_what_is_stale(site: Site, http: httpx.AsyncClient, body: Any) -> None:
    await put(http, "k1", tags="t")
    told = await invalidate(http, soft=True, **body)
    assert told["matched"] == 1
    site.clock.advance(1.0)
    for _ in range(2):
        assert await status(http, "k1") == 404
        stale = await http.get("/v1/cache/k1", headers={"Cache-Control": "max-stale=60"})
        assert (stale.status_code, stale.content, stale.headers["ETag"]) == (200, b"1", f'"{told["sequence"]}"')
        assert "ttl=-1" in stale.headers["Cache-Status"]
    await put(http, "k1")
    assert await status(http, "k1") == 200
