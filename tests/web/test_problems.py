"""Errors as they are told, byte for byte, and what never is told."""

from __future__ import annotations

import asyncio
from math import inf
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from cachesvc.engine.answers import Answer
from cachesvc.errors import (
    CacheError,
    EpochChanged,
    InvalidInput,
    LogTrimmed,
    OutcomeUnknown,
    Overloaded,
    Refusal,
    Refused,
    TierUnavailable,
)
from cachesvc.web.problems import problem_of
from cachesvc.web.service import Limits
from tests.web.site import Site, opened

GOLDEN = Path(__file__).parent / "golden" / "problems.json"
ERRORS: dict[str, Exception] = {
    "bad field": InvalidInput("ttl", "must be over 0"),
    "malformed": InvalidInput("body", "is not JSON", malformed=True),
    "too large": InvalidInput("body", "is larger than the limit of 5 bytes", too_large=True),
    "version conflict": Refused(Refusal.VERSION_CONFLICT, "key", "was expected absent, and is at version 5", current=5),
    "stale fill": Refused(Refusal.STALE_FILL, "Fill-Token", "task:42 changed since", current=7),
    "not a number": Refused(Refusal.NOT_A_NUMBER, "key", "holds a string", current=7),
    "out of range": Refused(Refusal.OUT_OF_RANGE, "value", "has too many digits"),
    "key reused": Refused(Refusal.KEY_REUSED, "Idempotency-Key", "came with another request before"),
    "poison": Refused(Refusal.INTERNAL, "operation", "a detail of the inside"),
    "away": TierUnavailable("database", "did not answer", retry_after=2.5),
    "full": Overloaded("the queue is full"),
    "unknown": OutcomeUnknown("the connection was lost", request_id="b-3"),
    "unknown for good": OutcomeUnknown("the connection was lost"),
    "trimmed": LogTrimmed(5, 9),
    "other epoch": EpochChanged(1, 2),
    "past the end": EpochChanged(2, 2),
    "unforeseen": ZeroDivisionError("a detail of the inside"),
    "unmapped": CacheError("a detail of the inside"),
}


def test_problems_are_told_as_ever() -> None:
    told = {name: problem_of(error).body("r-1") for name, error in ERRORS.items()}
    assert told == orjson.loads(GOLDEN.read_bytes())
    assert b"detail of the inside" not in orjson.dumps(told)


async def test_an_unforeseen_error_tells_nothing(
    site: Site, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def read(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(site.cache, "read", read)
    answer = await http.get("/v1/cache/a")
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
    assert b"secret" not in answer.content
    assert "secret" in caplog.text


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/cache", "/v1/caches/a", "/v1/keys/", "/v1//keys", "/healthz/", "/%ff"])
async def test_unknown_routes(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["requestId"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PATCH", "/v1/cache/a", {"GET", "HEAD", "PUT", "POST", "DELETE"}),
        ("GET", "/v1/batch", {"POST"}),
        ("DELETE", "/v1/keys", {"GET", "HEAD"}),
        ("POST", "/healthz", {"GET"}),
    ],
)
async def test_methods_that_are_not_answered(http: httpx.AsyncClient, method: str, path: str, allow: set[str]) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == allow
    assert answer.json()["title"] == "Method Not Allowed"


async def test_a_read_that_takes_too_long_is_unavailable() -> None:
    async with opened(limits=Limits(request_timeout=0.05)) as site, site.client() as http:
        site.store.gates["asked"].close()
        answer = await http.get("/v1/cache/a")
        site.store.gates["asked"].open()
        assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}])
@pytest.mark.parametrize("batch", [False, True])
async def test_a_write_that_takes_too_long_has_an_unknown_outcome(headers: dict[str, str], batch: bool) -> None:
    async with opened(limits=Limits(request_timeout=0.05)) as site, site.client() as http:
        site.store.gates["acks"].close()
        operation = {"operation": "set", "key": "a", "value": 1}
        send = (
            http.post("/v1/batch", json={"operations": [operation]}, headers=headers)
            if batch
            else http.put("/v1/cache/a", content=b"1", headers=headers)
        )
        answer = await send
        site.store.gates["acks"].open()
        assert (answer.status_code, answer.json()["code"]) == (503, "OUTCOME_UNKNOWN")
        # only an id that can be asked with is told: a batch always has one
        told = answer.json().get("requestId")
        assert told == headers.get("Idempotency-Key") or (batch and told == answer.headers["x-request-id"])
        if told:
            headers = {"Idempotency-Key": told}
            async with asyncio.timeout(5):
                again = (
                    await http.post("/v1/batch", json={"operations": [operation]}, headers=headers)
                    if batch
                    else await http.put("/v1/cache/a", content=b"1", headers=headers)
                )
            assert again.status_code in (200, 201)
            assert len(site.store.log) == 1


@pytest.mark.parametrize("error", [None, TierUnavailable("database", "did not answer"), InvalidInput("key", "is odd")])
async def test_a_node_that_was_frozen_while_it_answered_says_so(
    site: Site, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    await http.put("/v1/cache/a", json=1)
    read = site.cache.read

    async def frozen(*given: Any) -> Answer:
        answer = await read(*given)
        site.cache.leash.renew(site.clock.monotonic())
        if error is not None:
            raise error
        return answer

    monkeypatch.setattr(site.cache, "read", frozen)
    for method in ("GET", "HEAD"):
        answer = await http.request(method, "/v1/cache/a")
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        site.cache.leash.renew(inf)
