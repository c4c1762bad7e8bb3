"""GET, HEAD, PUT and DELETE of an entry."""

from __future__ import annotations

import httpx
import pytest

from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded
from cachesvc.web.service import Limits
from tests.web.site import Site, opened

PATH = "/v1/cache/task:42"


async def test_a_value_comes_back_as_it_was_sent(site: Site, http: httpx.AsyncClient) -> None:
    text = b' {"a" : 1.10,\n"big":123456789012345678901234567890, "huge": 1e400}'
    made = await http.put(PATH, content=text)
    assert made.status_code == 201
    version = made.json()["version"]
    assert made.json() == {"key": "task:42", "version": version, "operation": "set"}
    assert made.headers["etag"] == f'"{version}"'
    assert made.headers["content-type"] == "application/json"
    site.clock.advance(2.5)
    got = await http.get(PATH)
    assert (got.status_code, got.content, got.headers["content-type"]) == (200, text, "application/json")
    assert got.headers["etag"] == f'"{version}"'
    assert got.headers["age"] == "2"
    assert got.headers["cache-status"] == "cachesvc; hit; ttl=86397; detail=memory"
    head = await http.head(PATH)
    without = {"x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in without} == {
        k: v for k, v in got.headers.items() if k not in without
    }
    assert head.content == b""


async def test_a_second_write_is_not_a_creation(http: httpx.AsyncClient) -> None:
    assert (await http.put(PATH, content=b"1")).status_code == 201
    assert (await http.put(PATH, content=b"2")).status_code == 200


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("text/plain; charset=latin-1", "text/plain; charset=latin-1"),
        ("image/png", "image/png"),
        ('a/b; x="\\"q\\" ;"', 'a/b; x="\\"q\\" ;"'),
        ("Application/JSON; charset=UTF-8", "application/json"),
        ("application/problem+json", "application/problem+json"),
    ],
)
async def test_content_types(http: httpx.AsyncClient, sent: str, stored: str) -> None:
    assert (await http.put(PATH, content=b"{}", headers={"Content-Type": sent})).status_code == 201
    assert (await http.get(PATH)).headers["content-type"] == stored


async def test_an_empty_value_of_another_type_is_a_value(http: httpx.AsyncClient) -> None:
    assert (await http.put(PATH, content=b"", headers={"Content-Type": "text/plain"})).status_code == 201
    got = await http.get(PATH)
    assert (got.status_code, got.content) == (200, b"")


@pytest.mark.parametrize("kind", ["application/json", "application/vnd.x+json"])
@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"a":1,}', b"NaN", b'"\\ud800"', b"\xff", b"[" * 100, b"1 2", b"[1e400,NaN]", b"\xef\xbb\xbf1"]
)
async def test_malformed_json_is_refused_with_its_place(http: httpx.AsyncClient, kind: str, text: bytes) -> None:
    answer = await http.put(PATH, content=text, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert answer.json()["field"] == "body"
    assert "line 1, column" in answer.json()["detail"]
    assert (await http.get(PATH)).status_code == 404


@pytest.mark.parametrize("text", [b"[" * 100_000, b"[" * 501 + b"1e999" + b"]" * 501, b'{"a":' * 501 + b"1" + b"}" * 501])
async def test_a_nesting_over_the_limit_names_it(http: httpx.AsyncClient, text: bytes) -> None:
    update = b'{"operation":"set","value":%b}' % text
    for answer in (
        await http.put(PATH, content=text),
        await http.post(PATH, content=update, headers={"Content-Type": "application/json"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (400, "BAD_MESSAGE")
        assert "500 levels" in answer.json()["detail"]


@pytest.mark.parametrize("text", [b"[" * 500 + b"]" * 500, b"[" * 500 + b"1e999" + b"]" * 500, b'["' + b"[" * 2_000 + b'\\""]'])
async def test_a_nesting_up_to_the_limit(http: httpx.AsyncClient, text: bytes) -> None:
    update = b'{"operation":"set","value":%b}' % text
    assert (await http.put(PATH, content=text)).status_code == 201
    assert (await http.post(PATH, content=update, headers={"Content-Type": "application/json"})).status_code == 200
    assert (await http.get(PATH)).content == text


async def test_what_a_body_is_not_taken_as(site: Site, http: httpx.AsyncClient) -> None:
    part = await http.put(PATH, content=b"1", headers={"Content-Range": "bytes 0-0/2"})
    assert (part.status_code, part.json()["field"]) == (400, "Content-Range")
    json = {"Content-Type": "application/json"}
    for coding in ("gzip", "identity, br", "x"):
        headers = json | {"Content-Encoding": coding}
        for method, path in (("PUT", PATH), ("POST", PATH), ("POST", "/v1/batch")):
            answer = await http.request(method, path, content=b"{}", headers=headers)
            assert (answer.status_code, answer.json()["field"]) == (415, "Content-Encoding")
            assert answer.headers["accept-encoding"] == "identity"
    assert site.store.log == []
    assert (await http.put(PATH, content=b"1", headers={"Content-Encoding": "Identity"})).status_code == 201


@pytest.mark.parametrize(
    "kind",
    ["garbage", "a/b/c", "text/plain; x", 'a/b; x="\\"', 'a/b; x="q\\', "a" * 300 + "/b", "application/json; charset=latin-1"],
)
async def test_a_content_type_that_is_none(http: httpx.AsyncClient, kind: str) -> None:
    answer = await http.put(PATH, content=b"1", headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["field"]) == (422, "Content-Type")


@pytest.mark.parametrize("ttl", ["0", "-1", "NaN", "nan", "inf", "-inf", "1e12", "1000000000000", "x", "", "1_0", "315360001"])
async def test_a_bad_ttl_names_the_range(http: httpx.AsyncClient, ttl: str) -> None:
    answer = await http.put(PATH, params={"ttl": ttl}, content=b"1")
    assert answer.status_code == 422
    assert answer.json()["field"] == "ttl"
    assert "315360000" in answer.json()["detail"]


async def test_ttl_tags_and_parents(site: Site, http: httpx.AsyncClient) -> None:
    query = "?ttl=0.5&tags=a&tags=b%20c&depends_on=user:1&distribute=false"
    assert (await http.put(PATH + query, content=b"1")).status_code == 201
    entry = site.store.rows[Key("task:42")]
    assert (entry.tags, entry.parents) == (("a", "b c"), ("user:1",))
    assert entry.expires_at == entry.updated_at + 0.5
    assert not site.store.log[0].distribute
    site.clock.advance(0.5)
    assert (await http.get(PATH)).status_code == 404


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("tll=5", "tll"),
        ("ttl=5&ttl=6", "ttl"),
        ("distribute=yes", "distribute"),
        ("tags=", "tags[0]"),
        ("tags=a&tags=%01", "tags[1]"),
        ("depends_on=" + "x" * 513, "depends_on[0]"),
        ("&".join(f"tags=t{i}" for i in range(129)), "tags"),
        ("&".join(f"x{i}=1" for i in range(1001)), "query"),
    ],
)
async def test_a_bad_query_is_named(http: httpx.AsyncClient, query: str, name: str) -> None:
    answer = await http.put(f"{PATH}?{query}", content=b"1")
    assert (answer.status_code, answer.json()["field"]) == (422, name)


async def test_a_query_with_a_broken_escape(http: httpx.AsyncClient) -> None:
    answer = await http.put(f"{PATH}?tags=%ff", content=b"1")
    assert (answer.status_code, answer.json()["field"]) == (400, "tags")


async def test_the_size_limit() -> None:
    async with opened(limits=Limits(max_value_size=10)) as site, site.client() as http:
        plain = {"Content-Type": "text/plain"}
        assert (await http.put(PATH, content=b"x" * 10, headers=plain)).status_code == 201
        answer = await http.put(PATH, content=b"x" * 11, headers=plain)
        assert (answer.status_code, answer.json()["code"]) == (413, "TOO_LARGE")
        assert "10 bytes" in answer.json()["detail"]
        posted = await http.post(PATH, json={"operation": "set", "value": "x" * 9})
        assert (posted.status_code, posted.json()["field"]) == (413, "value")
        assert (await http.get(PATH)).content == b"x" * 10


async def test_a_miss_gives_a_token_that_guards_the_fill(site: Site, http: httpx.AsyncClient) -> None:
    missed = await http.get(PATH, headers={"If-None-Match": "*"})
    assert missed.status_code == 404
    token = {"Fill-Token": missed.headers["fill-token"]}
    assert missed.headers["cache-status"] == "cachesvc; fwd=uri-miss"
    assert (await http.put(PATH, content=b"1", headers=token)).status_code == 201
    late = await http.put(PATH, content=b"2", headers=token)
    assert (late.status_code, late.json()["code"]) == (412, "VERSION_CONFLICT")
    assert late.json()["currentVersion"] == site.store.rows[Key("task:42")].version
    assert (await http.get(PATH)).content == b"1"


@pytest.mark.parametrize("token", ["", "x", "1", "1:2:3", "-1:5", "1:99999999999999999"])
async def test_a_token_that_is_none(http: httpx.AsyncClient, token: str) -> None:
    answer = await http.put(PATH, content=b"1", headers={"Fill-Token": token})
    assert (answer.status_code, answer.json()["field"]) == (422, "Fill-Token")


async def test_delete(site: Site, http: httpx.AsyncClient) -> None:
    await http.put(PATH, content=b"1")
    gone = await http.delete(PATH)
    assert (gone.status_code, gone.content) == (204, b"")
    again = await http.delete(PATH)
    version = site.store.position.sequence
    assert again.status_code == 404
    assert (again.json()["version"], again.headers["etag"]) == (version, f'"{version}"')
    assert site.store.log[-1].kind == "delete"


async def test_a_deletion_for_this_site_alone(site: Site, http: httpx.AsyncClient) -> None:
    await http.put("/v1/cache/a", json=1)
    assert (await http.delete("/v1/cache/a?distribute=false")).status_code == 204
    assert not site.store.log[-1].distribute
    assert (await http.delete("/v1/cache/a?ttl=1")).json()["field"] == "ttl"


async def test_cache_control(site: Site, http: httpx.AsyncClient) -> None:
    await http.put(PATH, params={"ttl": 10}, content=b"1")
    fresh = await http.get(PATH, headers={"Cache-Control": "no-cache"})
    assert fresh.headers["cache-status"] == "cachesvc; hit; ttl=10; detail=database"
    site.clock.advance(11.5)
    assert (await http.get(PATH, headers={"Cache-Control": "max-stale=1"})).status_code == 404
    for directive in ("max-stale=5", "x=1, Max-Stale", 'max-stale="5"'):
        stale = await http.get(PATH, headers={"Cache-Control": directive})
        assert (stale.status_code, stale.headers["cache-status"]) == (200, "cachesvc; hit; ttl=-2; detail=memory")
    assert (await http.get(PATH, headers={"Cache-Control": "max-stale=x"})).status_code == 404
    nothing = await http.get("/v1/cache/other", headers={"Cache-Control": "only-if-cached"})
    assert (nothing.status_code, nothing.json()["code"]) == (504, "NOT_FOUND")


async def test_max_age(site: Site, http: httpx.AsyncClient) -> None:
    await http.put(PATH, content=b"1")
    site.clock.advance(2.0)
    for directive, tier in (
        ("max-age=2", "memory"),
        ("max-age=1", "database"),
        ("max-age=x", "database"),
        ("max-age=2", "memory"),
    ):
        answer = await http.get(PATH, headers={"Cache-Control": directive})
        assert (answer.status_code, answer.headers["age"]) == (200, "2")
        assert answer.headers["cache-status"].endswith(f"detail={tier}")


async def test_an_entry_without_end_has_no_ttl(site: Site, http: httpx.AsyncClient) -> None:
    await http.put(PATH, content=b"1")
    entry = site.store.rows[Key("task:42")]
    site.cache.memory.clear()
    site.store.rows[Key("task:42")] = entry._replace(expires_at=None)
    assert (await http.get(PATH)).headers["cache-status"] == "cachesvc; hit; detail=database"


async def test_a_loader_fills_a_miss() -> None:
    class Origin:
        async def load(self, keys: list[Key]) -> dict[Key, Loaded]:
            return {key: Loaded(b"7", "application/json") for key in keys}

    async with opened(loaders={"task": Origin()}) as site, site.client() as http:  # type: ignore[dict-item]
        loaded = await http.get(PATH)
        assert loaded.headers["cache-status"] == "cachesvc; fwd=uri-miss; stored; detail=loader"
        assert (await http.get(PATH)).headers["cache-status"].endswith("detail=memory")


async def test_min_version(site: Site, http: httpx.AsyncClient) -> None:
    version = (await http.put(PATH, content=b"1")).json()["version"]
    assert (await http.get(PATH, headers={"Min-Version": str(version)})).status_code == 200
    for text in ("x", "-1", "1.5", "99999999999999999", ""):
        answer = await http.get(PATH, headers={"Min-Version": text})
        assert (answer.status_code, answer.json()["field"]) == (422, "Min-Version")


async def test_an_authority_that_is_away(site: Site, http: httpx.AsyncClient) -> None:
    site.store.away = True
    for answer in (await http.put(PATH, content=b"1"), await http.get(PATH), await http.get("/v1/keys")):
        assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["recoverable"] is True
    assert site.store.log == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/cache/", 422),
        ("/v1/cache/" + "x" * 513, 422),
        ("/v1/cache/a%00b", 422),
        ("/v1/cache/a%0Ab", 422),
        ("/v1/cache/a%7F", 422),
        ("/v1/cache/%ff", 400),
        ("/v1/cache/%C3", 400),
        ("/v1/cache/%ED%A0%80", 400),
    ],
)
async def test_a_bad_key_is_named(http: httpx.AsyncClient, path: str, status: int) -> None:
    for method in ("GET", "PUT", "DELETE", "POST"):
        answer = await http.request(method, path, content=b"1" if method == "PUT" else None)
        assert (answer.status_code, answer.json()["field"]) == (status, "key")


async def test_a_refusal_that_was_given_before_says_so(site: Site, http: httpx.AsyncClient) -> None:
    await http.put(PATH, content=b"1")
    asked = {"Idempotency-Key": "k-1", "If-None-Match": "*"}
    first = await http.put(PATH, content=b"2", headers=asked)
    await http.delete(PATH)
    again = await http.put(PATH, content=b"2", headers=asked)
    assert (first.status_code, again.status_code) == (412, 412)
    assert first.json() | {"requestId": ""} == again.json() | {"requestId": ""}
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    other = await http.put(PATH, content=b"3", headers=asked)
    assert (other.status_code, "idempotency-replayed" in other.headers) == (422, False)
    batch = {
        "operations": [{"operation": "increment", "key": "x", "value": 1}, {"operation": "set", "key": "b", "value": "no"}]
    }
    batch["operations"].append({"operation": "increment", "key": "b", "value": 1})
    for replayed in (False, True):
        answer = await http.post("/v1/batch", json=batch, headers={"Idempotency-Key": "k-2"})
        assert ("idempotency-replayed" in answer.headers) is replayed


async def test_idempotency(site: Site, http: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = await http.put(PATH, content=b"1", headers=key)
    again = await http.put(PATH, content=b"1", headers=key)
    assert (again.status_code, again.content, again.headers["etag"]) == (201, first.content, first.headers["etag"])
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert len(site.store.log) == 1
    for other in (
        await http.put(PATH, content=b"2", headers=key),
        await http.put(PATH, params={"ttl": 5}, content=b"1", headers=key),
        await http.put(PATH, content=b"1", headers=key | {"If-Match": '"5"'}),
        await http.put("/v1/cache/other", content=b"1", headers=key),
        await http.delete(PATH, headers=key),
    ):
        assert (other.status_code, other.json()["field"]) == (422, "Idempotency-Key")
    for bad in ("", "a b", "x" * 256, "caf\u00e9"):
        answer = await http.put(PATH, content=b"1", headers={b"Idempotency-Key": bad.encode()})
        assert (answer.status_code, answer.json()["field"]) == (422, "Idempotency-Key")


async def test_the_request_id_of_a_write_is_what_finds_it_again(site: Site, http: httpx.AsyncClient) -> None:
    answer = await http.put(PATH, content=b"1")
    assert answer.headers["x-request-id"] == f"{0:032x}-0"
    assert Draft(Operation.SET, Key("a")).idempotency is None
