"""Revocations as two nodes have them, over Valkey and PostgreSQL: what one is told the other keeps, through a restart."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import jwt

from tests.e2e.services import connected, put, started
from tests.web.sockets import connected as socket_to

SECRET = "a secret that is long enough for its hash"


def bearer(sub: str, jti: str, scope: str) -> dict[str, str]:
    now = time.time()
    claims = {"sub": sub, "iss": "us", "aud": "cache", "exp": now + 3_600, "iat": now - 5, "scope": scope, "jti": jti}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET)}"}


async def test_a_token_that_one_node_revokes_no_node_believes(tmp_path: Path, valkey_url: str, postgres_url: str) -> None:
    settings = {
        "levels__redis__url": valkey_url,
        "levels__database__url": postgres_url,
        "auth__mode": "jwt",
        "auth__algorithms": "HS256",
        "auth__secrets": SECRET,
        "auth__issuer": "us",
        "auth__audience": "cache",
    }
    root, ann, bob = (bearer(*said) for said in (("root", "r", "admin"), ("ann", "a", "read:*"), ("bob", "b", "read:*")))

    async def asked(http: httpx.AsyncClient, headers: dict[str, str]) -> int:
        return (await http.get("/v1/cache/task:1", headers=headers)).status_code

    with started(tmp_path / "a", **settings) as (_, first):
        with started(tmp_path / "b", **settings) as (_, second):
            async with connected(first) as here, connected(second) as there:
                here.headers.update(root)
                await put(here, "task:1", 1)
                port = int(second.rsplit(":", 1)[1])
                async with socket_to(port, additional_headers=ann) as one, socket_to(port, additional_headers=bob) as other:
                    for _ in range(3):  # the last ones by the hot path
                        assert [await asked(there, ann), await asked(there, bob)] == [200, 200]
                    answer = await here.post("/v1/revocations?wait=all", json={"jti": "a"})
                    assert (answer.status_code, answer.json()["applied"]) == (200, True)
                    assert (await one.closed())[0] == 4505
                    for http in (here, there):
                        assert [await asked(http, ann), await asked(http, bob)] == [401, 200]
                    assert (await other.ask("cache:get", {"key": "task:1"}))["type"] == "cache:value"
        with started(tmp_path / "b", **settings) as (_, again):
            async with connected(again) as there:
                assert [await asked(there, ann), await asked(there, bob)] == [401, 200]
