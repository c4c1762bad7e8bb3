"""POST of an entry: set, delete, increment; exact numbers, conditions, conflicts."""

from __future__ import annotations

import httpx
import orjson
import pytest

from cachesvc.errors import Refusal, Refused
from cachesvc.model.change import Draft
from cachesvc.model.keys import Key
from tests.web.site import Site

PATH = "/v1/cache/task:42"
JSON = {"Content-Type": "application/json"}


async def post(http: httpx.AsyncClient, body: bytes, **headers: str) -> httpx.Response:
    return await http.post(PATH, content=body, headers=JSON | headers)


@pytest.mark.parametrize(
    "text",
    [
        b"1e400",
        b"1" * 5000,
        b"-0.1000000000000000055511151231257827021181583404541015625",
        b"123456789012345678901234567890",
        b'{ "a" : [1.10, {"b": 18446744073709551616}], "a2":"\\u00e9" }',
        b"null",
        b'""',
        '"\U0001f600"'.encode(),
    ],
)
async def test_a_value_is_stored_as_written(http: httpx.AsyncClient, text: bytes) -> None:
    answer = await post(http, b'{"operation": "set", "value":' + text + b', "ttl": 5}')
    assert answer.status_code == 201
    assert text in answer.content
    got = await http.get(PATH)
    assert (got.content, got.headers["content-type"]) == (text, "application/json")


async def test_the_answer_of_each_operation(site: Site, http: httpx.AsyncClient) -> None:
    at = site.store.position.sequence
    answer = await post(http, b'{"operation":"set","value":{"a":1},"tags":["x"],"dependsOn":["user:1"],"distribute":false}')
    assert answer.json() == {"key": "task:42", "version": at + 1, "operation": "set", "value": {"a": 1}}
    assert site.store.rows[Key("task:42")].parents == ("user:1",)
    answer = await post(http, b'{"operation":"delete"}')
    assert (answer.status_code, answer.json()) == (200, {"key": "task:42", "version": at + 2, "operation": "delete"})
    answer = await post(http, b'{"operation":"delete"}')
    assert (answer.status_code, answer.json()["version"]) == (404, at + 3)
    answer = await post(http, b'{"operation":"increment"}')
    assert (answer.status_code, answer.content) == (
        200,
        b'{"key":"task:42","version":%d,"operation":"increment","value":1}' % (at + 4),
    )
    assert answer.headers["etag"] == f'"{at + 4}"'


async def test_increments_are_exact(http: httpx.AsyncClient) -> None:
    await post(http, b'{"operation":"set","value":9223372036854775807}')
    answer = await post(http, b'{"operation":"increment","value":1}')
    assert b'"value":9223372036854775808}' in answer.content
    answer = await post(http, b'{"operation":"increment","value":0.1}')
    assert b'"value":9223372036854775808.1}' in answer.content
    answer = await post(http, b'{"operation":"increment","value":-9223372036854775808.1}')
    assert b'"value":0.0}' in answer.content or b'"value":0}' in answer.content


@pytest.mark.parametrize("amount", [b"1e400", b'"5"', b"true", b"null", b"[1]", b"1" * 101])
async def test_an_increment_by_no_number(site: Site, http: httpx.AsyncClient, amount: bytes) -> None:
    answer = await post(http, b'{"operation":"increment","value":' + amount + b"}")
    assert (answer.status_code, answer.json()["field"]) == (422, "value")
    assert site.store.log == []


async def test_an_increment_that_cannot_be_says_why(http: httpx.AsyncClient) -> None:
    answer = await post(http, b'{"operation":"increment","value":' + b"1" * 500 + b"}")
    assert answer.json()["detail"] == "value: is out of range: numbers have up to 100 digits"
    await http.put(PATH, content=b"5", headers={"Content-Type": "application/vnd.x+json"})
    answer = await post(http, b'{"operation":"increment"}')
    assert "of type application/vnd.x+json, and only application/json counts" in answer.json()["detail"]


async def test_an_increment_of_a_string(http: httpx.AsyncClient) -> None:
    await post(http, b'{"operation":"set","value":"five"}')
    answer = await post(http, b'{"operation":"increment","value":1}')
    assert (answer.status_code, answer.json()["field"], answer.json()["code"]) == (422, "key", "BAD_MESSAGE")
    assert (await http.get(PATH)).content == b'"five"'


async def test_an_increment_past_what_is_kept(http: httpx.AsyncClient) -> None:
    await post(http, b'{"operation":"set","value":' + b"9" * 100 + b"}")
    answer = await post(http, b'{"operation":"increment","value":1}')
    assert (answer.status_code, answer.json()["field"]) == (422, "value")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"operation":"set"}', "value"),
        (b'{"operation":"paint","value":1}', "operation"),
        (b'{"value":1}', "operation"),
        (b'{"operation":"set","value":1,"ttl":0}', "ttl"),
        (b'{"operation":"set","value":1,"ttl":-1}', "ttl"),
        (b'{"operation":"set","value":1,"ttl":1000000000000}', "ttl"),
        (b'{"operation":"set","value":1,"ttl":1e400}', "ttl"),
        (b'{"operation":"set","value":1,"ttl":"5"}', "ttl"),
        (b'{"operation":"set","value":1,"ttl":true}', "ttl"),
        (b'{"operation":"set","value":1,"tll":5}', "tll"),
        (b'{"operation":"set","value":1,"distribute":1}', "distribute"),
        (b'{"operation":"set","value":1,"tags":"x"}', "tags"),
        (b'{"operation":"set","value":1,"tags":["a",5]}', "tags[1]"),
        (b'{"operation":"set","value":1,"tags":["a",""]}', "tags[1]"),
        (b'{"operation":"set","value":1,"dependsOn":["\\u0000"]}', "dependsOn[0]"),
        (b'{"operation":"set","value":1,"expectedVersion":-1}', "expectedVersion"),
        (b'{"operation":"set","value":1,"expectedVersion":1.5}', "expectedVersion"),
        (b'{"operation":"set","value":1,"baseVersion":"1"}', "baseVersion"),
        (b'{"operation":"set","value":1,"expectedVersion":1,"baseVersion":1}', "baseVersion"),
        (b"[]", "body"),
        (b"null", "body"),
    ],
)
async def test_bad_members_are_named(site: Site, http: httpx.AsyncClient, body: bytes, field: str) -> None:
    answer = await post(http, body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert site.store.log == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"operation":"set","value":}',
        b'{"operation":"set","value":NaN}',
        b'{"operation":"set","value":1}x',
        b'{"operation":"set","value":1,"value":2}',
        b'{"operation":"set","value":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"operation":"set","value":"\\ud800"}',
        b'{"operation":"set","value":1,"tags":["\\ud800"]}',
        b'{"operation":"set","value":1,"\\ud800":5}',
        b'{"operation":"set","value":"\xff"}',
    ],
)
async def test_malformed_bodies(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await post(http, body)
    assert (answer.status_code, answer.json()["code"]) == (400, "BAD_MESSAGE")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_does_not_say_it_is_json(http: httpx.AsyncClient, kind: str) -> None:
    for path in (PATH, "/v1/batch"):
        answer = await http.post(path, content=b'{"operation":"delete"}', headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["field"]) == (415, "Content-Type")


async def test_an_expected_version(site: Site, http: httpx.AsyncClient) -> None:
    assert (await post(http, b'{"operation":"set","value":1,"expectedVersion":0}')).status_code == 201
    answer = await post(http, b'{"operation":"set","value":2,"expectedVersion":0}')
    version = site.store.rows[Key("task:42")].version
    assert (answer.status_code, answer.json()["code"]) == (412, "VERSION_CONFLICT")
    assert (answer.json()["currentVersion"], answer.json()["recoverable"]) == (version, True)
    body = b'{"operation":"increment","expectedVersion":%d}' % version
    assert (await post(http, body)).json()["value"] == 2
    twice = await post(http, b'{"operation":"set","value":2,"expectedVersion":1}', **{"If-Match": '"1"'})
    assert (twice.status_code, twice.json()["field"]) == (422, "expectedVersion")


async def test_a_base_version_makes_a_conflict(http: httpx.AsyncClient) -> None:
    version = (await post(http, b'{"operation":"set","value":1}')).json()["version"]
    fits = await post(http, b'{"operation":"set","value":2,"baseVersion":%d}' % version)
    assert "conflictId" not in fits.json()
    conflict = await post(http, b'{"operation":"set","value":3,"baseVersion":%d}' % version)
    assert conflict.status_code == 200
    assert conflict.json()["conflictId"]


async def test_the_same_wish_by_another_route_is_answered_with_the_same(site: Site, http: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k"}
    first = await http.put(PATH, content=b"[1]", headers=key)
    again = await post(http, b'{"operation":"set","value":[1]}', **key)
    assert (again.status_code, again.json()["version"]) == (201, first.json()["version"])
    assert len(site.store.log) == 1


async def test_a_draft_that_cannot_be_folded_tells_nothing_of_its_inside(
    site: Site, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(draft: Draft) -> None:
        raise Refused(Refusal.INTERNAL, "operation", "secret detail")

    monkeypatch.setattr(site.cache, "write", write)
    answer = await http.put(PATH, content=b"1")
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
    assert b"secret" not in answer.content
    assert orjson.loads(answer.content)["requestId"] == answer.headers["x-request-id"]
