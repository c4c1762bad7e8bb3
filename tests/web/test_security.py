"""Who may do what over HTTP: every route asks, before it does anything."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import jwt
import orjson
import pytest

from cachesvc.errors import SettingsError
from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.model.merging import Policy, Strategy
from cachesvc.realtime.identity import Identity
from cachesvc.settings import load_settings
from cachesvc.web.app import create_app, data_endpoints
from cachesvc.web.live import Live
from cachesvc.web.tokens import Tokens, own_keys
from tests.web.site import Site, opened
from tests.web.sockets import connected

SECRET = "a secret that is long enough for its hash"
JSON = {"Content-Type": "application/json"}


def token(*scopes: str, sub: str = "ann") -> dict[str, str]:
    claims = {"sub": sub, "iss": "us", "aud": "cache", "exp": time.time() + 60, "scope": " ".join(scopes)}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET)}"}


@pytest.fixture
async def guarded() -> AsyncIterator[Site]:
    async with opened() as site:
        site.clock._now = time.time()  # PyJWT asks the system's clock
        for key in ("task:1", "task:2", "email:1"):
            await site.cache.write(Draft(Operation.SET, Key(key), b"1"))
        keys = own_keys(["HS256"], [SECRET], [])
        doorman = Tokens(keys, issuer="us", audience="cache", leeway=5.0, most=100, clock=site.clock)
        service = replace(site.service, doorman=doorman)
        live = Live(service)
        site.service, site.live, site.app = service, live, create_app(service, live)
        yield site


async def asked(site: Site, method: str, path: str, *scopes: str, **more: Any) -> int:
    async with site.client() as http:
        answer = await http.request(method, path, headers=token(*scopes) | more.pop("headers", {}), **more)
        if answer.status_code in (401, 403) and method != "HEAD":
            said = orjson.loads(answer.content)
            assert said["code"] == {401: "UNAUTHENTICATED", 403: "FORBIDDEN"}[answer.status_code]
            assert not said["recoverable"]
        return answer.status_code


async def test_whoever_shows_no_token_is_asked_for_one(guarded: Site) -> None:
    async with guarded.client() as http:
        for path in ("/v1/cache/task:1", "/v1/keys", "/v1/changes", "/v1/stats", "/metrics", "/v1/nodes", "/v1/jobs"):
            answer = await http.get(path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
        for odd in ("Bearer", "Bearer x", "Basic YTpi", "Bearer a b"):
            answer = await http.get("/v1/cache/task:1", headers={"Authorization": odd})
            assert answer.status_code == 401
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert (await http.get(path)).status_code == 200


async def test_what_is_written_tells_by_whom(guarded: Site) -> None:
    operations = [{"operation": "set", "key": "task:3", "value": 1}]
    for method, path, body in (
        ("PUT", "/v1/cache/task:1", b"2"),
        ("POST", "/v1/cache/task:2", b'{"operation": "set", "value": 2}'),
        ("POST", "/v1/batch", orjson.dumps({"operations": operations})),
    ):
        assert await asked(guarded, method, path, "write:task:*", headers=JSON, content=body) in (200, 201)
    for key in ("task:1", "task:2", "task:3"):
        entry = (await guarded.cache.read(Key(key))).entry
        assert entry is not None
        assert entry.author == "ann"
    entry = (await guarded.cache.read(Key("email:1"))).entry
    assert entry is not None
    assert (entry.updated_by, entry.author) == ("", "anonymous")


async def test_a_token_that_is_not_believed_is_told_why(guarded: Site) -> None:
    claims = {"sub": "ann", "iss": "us", "aud": "cache", "exp": time.time() - 60}
    async with guarded.client() as http:
        answer = await http.get("/v1/cache/task:1", headers={"Authorization": f"Bearer {jwt.encode(claims, SECRET)}"})
        assert answer.status_code == 401
        assert "has expired" in answer.json()["detail"]
        assert (answer.json()["code"], answer.json()["recoverable"]) == ("TOKEN_EXPIRED", True)
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path", "more", "scope"),
    [
        ("GET", "/v1/cache/task:1", {}, "read:task:*"),
        ("HEAD", "/v1/cache/task:1", {}, "read:task:1"),
        ("PUT", "/v1/cache/task:1", {"content": b"2"}, "write:task:*"),
        ("DELETE", "/v1/cache/task:1", {}, "write:task:*"),
        ("POST", "/v1/cache/task:1", {"json": {"operation": "increment", "value": 1}}, "write:task:?"),
        ("GET", "/v1/keys?pattern=task:*", {}, "read:task:*"),
        ("GET", "/v1/keys", {}, "read:*"),
        ("GET", "/v1/query?status=open", {}, "read:*"),
        ("POST", "/v1/invalidate", {"json": {"pattern": "task:4*"}}, "invalidate:task:*"),
        ("POST", "/v1/invalidate", {"json": {"keys": ["task:1", "task:2"]}}, "invalidate:task:*"),
        ("POST", "/v1/invalidate", {"json": {"keys": ["task:1"], "cascade": True}}, "invalidate:*"),
        ("POST", "/v1/invalidate", {"json": {"tags": ["t"], "dryRun": True}}, "invalidate:*"),
        ("GET", "/v1/stats", {}, "admin"),
        ("GET", "/v1/nodes", {}, "admin"),
        ("GET", "/metrics", {}, "admin"),
    ],
)
async def test_each_route_asks_for_its_scope(guarded: Site, method: str, path: str, more: Any, scope: str) -> None:
    others = ("read", "write", "invalidate", "warm", "publish", "resolve", "node")
    wrong = [f"{action}:*" for action in others if not scope.startswith(action)]
    assert await asked(guarded, method, path, *wrong, **dict(more)) == 403
    if ":" in scope:
        assert await asked(guarded, method, path, f"{scope.split(':', maxsplit=1)[0]}:email:*", **dict(more)) == 403
    assert await asked(guarded, method, path, scope, **dict(more)) < 300
    if scope != "admin":
        assert await asked(guarded, method, path, "admin", **dict(more)) < 500


async def test_who_may_warm_is_told_how_a_warm_up_stands_by_its_id(guarded: Site) -> None:
    async with guarded.client() as http:
        warms, other = token("warm:task:*"), token("read:*", "invalidate:*", "write:task:*")
        begun = await http.post("/v1/warm", json={"keys": ["task:1"]}, headers=warms)
        assert begun.status_code == 202
        place = begun.headers["Location"]
        assert (await http.get(place, headers=warms)).json()["id"] == begun.json()["id"]
        assert (await http.get("/v1/jobs/none", headers=warms)).status_code == 404
        for path in (place, f"{place}/events"):
            assert (await http.get(path, headers=other)).status_code == 403
        assert (await http.delete(place, headers=warms)).status_code == 403
        assert (await http.get("/v1/jobs", headers=warms)).status_code == 403
        swept = await http.post("/v1/invalidate", json={"pattern": "task:*"}, headers=other)
        assert (await http.get(f"/v1/jobs/{swept.json()['job']}", headers=warms)).status_code == 403


async def test_an_operation_of_a_batch_fails_alone(guarded: Site) -> None:
    operations = [
        {"operation": "get", "key": "task:1"},
        {"operation": "get", "key": "email:1"},
        {"operation": "set", "key": "task:1", "value": 2},
    ]
    async with guarded.client() as http:
        answer = await http.post("/v1/batch", json={"operations": operations}, headers=token("read:task:*"))
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert [result.get("problem", {}).get("code") for result in results] == [None, "FORBIDDEN", "FORBIDDEN"]
    assert guarded.store.rows[Key("task:1")].value == b"1"


async def test_every_route_of_the_data_is_closed_to_who_may_nothing(guarded: Site) -> None:
    bodies: dict[str, Any] = {
        "/v1/batch": {"operations": [{"operation": "get", "key": "a"}]},
        "/v1/invalidate": {"keys": ["a"]},
        "/v1/warm": {"keys": ["a"]},
        "/v1/cache/a": {"operation": "delete"},
    }
    for template, endpoints in data_endpoints(guarded.service).items():
        path = template.replace("{key}", "a").replace("{id}", "a")
        path += "?status=open" if path == "/v1/query" else ""
        for method in endpoints:
            async with guarded.client() as http:
                answer = await http.request(method, path, headers=token(), json=bodies.get(path))
            if path == "/v1/batch":
                assert answer.json()["results"][0]["problem"]["code"] == "FORBIDDEN"
            else:
                expected = 404 if template == "/v1/conflicts/{id}" else 403  # of which key it is, only the conflict says
                assert answer.status_code == expected, (method, path, answer.text)


async def test_who_depends_on_a_key_is_told_as_far_as_he_may_read_it(guarded: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def dependents(key: Key, *, limit: int) -> list[Key]:
        return [Key("email:9"), Key("task:9")]

    monkeypatch.setattr(guarded.store, "dependents", dependents, raising=False)
    async with guarded.client() as http:
        for scope, keys in (("read:task:*", ["task:9"]), ("read:*", ["email:9", "task:9"])):
            answer = await http.get("/v1/explain/task:1", headers=token(scope))
            assert answer.json()["dependents"]["keys"] == keys


async def test_idempotency_keys_are_of_a_subject(guarded: Site) -> None:
    async with guarded.client() as http:
        for sub, replayed in (("ann", False), ("bob", False), ("ann", True)):
            headers = token("write:*", sub=sub) | {"Idempotency-Key": "same"} | JSON
            answer = await http.post("/v1/cache/count:1", json={"operation": "increment", "value": 1}, headers=headers)
            assert (answer.status_code < 300, "idempotency-replayed" in answer.headers) == (True, replayed)


@pytest.mark.parametrize(
    ("scope", "glob", "may"),
    [
        ("invalidate:*", "anything*", True),
        ("invalidate:task:*", "task:*", True),
        ("invalidate:task:*", "task:4?", True),
        ("invalidate:task:*", "task*", False),
        ("invalidate:task:*", "*", False),
        ("invalidate:task:?", "task:*", False),  # a star is one character, and stands for many
        ("invalidate:task:?", "task:?", True),
        ("invalidate:task:[ab]*", "task:a*", False),  # it is, but only prefixes are compared
        ("invalidate:task:1", "task:1", True),
        ("invalidate:task:\\*", "task:\\*", True),
        ("invalidate:task:\\*", "task:*", False),
        ("invalidate:task:*", "task:[", True),  # no glob: a key
        ("read:*", "task:1", False),
    ],
)
def test_a_glob_needs_a_scope_that_covers_it(scope: str, glob: str, may: bool) -> None:
    assert Identity("ann", [scope]).may_all("invalidate", glob) is may


@pytest.mark.parametrize(
    ("auth", "named"),
    [
        ({}, "auth.algorithms"),
        ({"algorithms": "HS256"}, "auth.issuer"),
        ({"algorithms": "HS256", "issuer": "us"}, "auth.audience"),
        ({"algorithms": "HS256", "issuer": "us", "audience": "cache"}, "auth.secrets"),
        ({"algorithms": "none", "issuer": "us", "audience": "cache"}, "auth.algorithms"),
        ({"algorithms": "HS256", "issuer": "us", "audience": "cache", "secrets": "short"}, "auth.secrets"),
        ({"algorithms": "ES256", "issuer": "us", "audience": "cache", "secrets": SECRET.replace(",", "")}, "auth.secrets"),
        ({"algorithms": "HS256", "issuer": "us", "audience": "cache", "jwks_url": "http://x/"}, "auth.algorithms"),
        ({"algorithms": "ES256", "issuer": "us", "audience": "cache", "jwks_url": "file:///x"}, "auth.jwks_url"),
    ],
)
def test_settings_that_would_let_in_nobody_or_everybody(auth: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(overrides={"auth": {"mode": "jwt", **auth}}, environ={})
    assert refused.value.setting == named
    assert "short" not in str(refused.value)
    assert SECRET not in str(refused.value)


async def test_a_stream_ends_with_the_token_that_asked_for_it(guarded: Site) -> None:
    async with (
        guarded.served() as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
        http.stream("GET", "/v1/changes", headers=token("read:*")) as answer,
    ):
        chunks = answer.aiter_bytes()
        assert (await anext(chunks)).startswith(b"retry:")
        guarded.clock.advance(61)
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)


async def test_over_a_socket_too(guarded: Site) -> None:
    async with guarded.served() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        assert (await http.get("/v1/cache/task:1", headers=token("read:task:*"))).status_code == 200
        assert (await http.get("/v1/cache/email:1", headers=token("read:task:*"))).status_code == 403


async def test_a_conflict_is_settled_and_read_by_who_may(guarded: Site) -> None:
    guarded.store.terms = replace(guarded.store.terms, policies={"task": Policy(Strategy.MANUAL)})
    async with (
        guarded.served() as port,
        connected(port, additional_headers=token("read:task:*", "write:task:*", sub="bob")) as writer,
        connected(port, additional_headers=token("read:task:*", "resolve:task:1")) as judge,
    ):
        update = {"key": "task:1", "operation": "set", "value": 2, "baseVersion": 0}
        conflict = (await writer.ask("cache:update", update))["payload"]["conflictId"]
        other = (await writer.ask("cache:update", {**update, "key": "task:2"}))["payload"]["conflictId"]
        choice = {"conflictId": conflict, "option": 0}
        assert (await writer.ask("conflict:resolve", choice))["payload"]["code"] == "FORBIDDEN"
        assert (await judge.ask("conflict:resolve", {**choice, "conflictId": other}))["payload"]["code"] == "FORBIDDEN"
        assert guarded.store.rows[Key("task:1")].value == b"2"
        assert (await judge.ask("conflict:resolve", choice))["type"] == "ack"
        settled = guarded.store.rows[Key("task:1")]
        assert (settled.value, settled.updated_by) == (b"1", "ann")
    async with guarded.client() as http:
        path = f"/v1/conflicts/{conflict}"
        assert (await http.get(path, headers=token("read:task:1"))).status_code == 200
        assert (await http.get(path, headers=token("read:task:2", "resolve:*"))).status_code == 403
        assert (await http.get("/v1/conflicts", headers=token("read:task:*"))).status_code == 403
        listed = await http.get("/v1/conflicts?pattern=task:*&limit=1", headers=token("read:task:*"))
        assert [one["conflictId"] for one in listed.json()["conflicts"]] == [other]
        rest = await http.get(f"/v1/conflicts?pattern=task:*&cursor={listed.json()['cursor']}", headers=token("read:task:*"))
        assert ([one["conflictId"] for one in rest.json()["conflicts"]], rest.json()["cursor"]) == ([conflict], None)


async def test_who_may_not_write_a_sync_has_none_of_its_batch_done(guarded: Site) -> None:
    async with guarded.served() as port, connected(port, additional_headers=token("write:task:1")) as socket:
        updates = [{"type": "cache:update", "payload": {"key": "task:1", "operation": "set", "value": 9}}]
        answer = await socket.ask("batch:update", {"batchId": "b", "syncId": "s", "updates": updates})
        assert answer["payload"]["code"] == "FORBIDDEN"
        assert guarded.store.rows[Key("task:1")].value == b"1"
