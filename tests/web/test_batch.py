"""Batches: one result each, in order, one failing leaving the others."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachesvc.errors import OutcomeUnknown
from cachesvc.model.change import Appended, Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.web.batch import Step, _rounds
from cachesvc.web.service import Limits
from tests.engine.loads import Origin, terms
from tests.web.site import Site, opened

INCREMENT = {"operation": "increment", "key": "n"}


async def send(http: httpx.AsyncClient, *operations: object, **headers: str) -> httpx.Response:
    return await http.post("/v1/batch", json={"operations": operations}, headers=headers)


async def post(http: httpx.AsyncClient, *operations: object, **headers: str) -> list[dict[str, Any]]:
    answer = await send(http, *operations, **headers)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


async def test_each_is_answered_as_it_would_have_been_alone(site: Site, http: httpx.AsyncClient) -> None:
    await http.put("/v1/cache/raw", content=b"\x00\xff", headers={"Content-Type": "image/png"})
    at = site.store.position.sequence
    results = await post(
        http,
        {"operation": "set", "key": "a", "value": {"x": 1}},
        {"operation": "get", "key": "a"},
        {"operation": "increment", "key": "n", "value": 2},
        {"operation": "get", "key": "raw"},
        {"operation": "get", "key": "nothing"},
        {"operation": "delete", "key": "nothing"},
        {"operation": "increment", "key": "a"},
        {"operation": "set", "key": "b", "value": 1, "ttl": -1},
        {"operation": "paint", "key": "b"},
        5,
        {"operation": "set", "key": "a\x00", "value": 1},
        {"operation": "delete", "key": "a"},
        {"operation": "get", "key": "a"},
    )
    assert [result["status"] for result in results] == [201, 200, 200, 200, 404, 404, 422, 422, 422, 422, 422, 204, 404]
    assert results[0] == {"status": 201, "operation": "set", "key": "a", "version": at + 1}
    assert results[1]["value"] == {"x": 1}
    assert results[2]["value"] == 2
    assert (results[3]["encoding"], results[3]["contentType"], results[3]["value"]) == ("base64", "image/png", "AP8=")
    assert results[4]["problem"]["code"] == "NOT_FOUND"
    assert results[4]["problem"]["fillToken"]
    assert results[7]["problem"]["field"] == "operations[7].ttl"
    assert results[8]["problem"]["field"] == "operations[8].operation"
    assert results[9]["problem"]["field"] == "operations[9]"
    assert results[10]["problem"]["field"] == "operations[10].key"


async def test_a_read_that_fails_leaves_the_others() -> None:
    origin = Origin()
    async with opened(loaders={"a": origin}, loading=terms()) as site, site.client() as http:
        await http.put("/v1/cache/b", content=b"1")
        origin.broken.add(Key("a:broken"))
        held, broken, loaded = await post(http, *({"operation": "get", "key": key} for key in ("b", "a:broken", "a:1")))
        assert (held["status"], held["value"]) == (200, 1)
        assert (broken["status"], broken["problem"]["code"]) == (503, "UNAVAILABLE")
        assert (loaded["status"], loaded["value"]) == (200, 1)


async def test_values_stay_as_written(http: httpx.AsyncClient) -> None:
    body = b'{"operations":[{"operation":"set","key":"a","value":1e400},{"operation":"get","key":"a"}]}'
    answer = await http.post("/v1/batch", content=body, headers={"Content-Type": "application/json"})
    assert b'"value":1e400}' in answer.content
    assert (await http.get("/v1/cache/a")).content == b"1e400"


async def test_too_many_names_the_limit() -> None:
    async with opened(limits=Limits(max_batch_operations=3)) as site, site.client() as http:
        answer = await http.post("/v1/batch", json={"operations": [{"operation": "get", "key": "a"}] * 10_000})
        assert (answer.status_code, answer.json()["code"]) == (422, "LIMIT_EXCEEDED")
        assert (answer.json()["field"], answer.json()["limit"]) == ("operations", 3)
        assert "up to 3" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "operations"), ({"operations": {}}, "operations"), ({"operations": [], "x": 1}, "x"), ([], "body")],
)
async def test_bad_batches(http: httpx.AsyncClient, body: object, field: str) -> None:
    answer = await http.post("/v1/batch", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


async def test_an_empty_batch(http: httpx.AsyncClient) -> None:
    assert await post(http) == []


async def test_a_batch_sent_again_is_not_applied_again(site: Site, http: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k" * 255}
    delete, refused = {"operation": "delete", "key": "m"}, INCREMENT | {"expectedVersion": 1}
    sent = (INCREMENT, {"operation": "set", "key": "m", "value": 1}, delete, delete, {"operation": "x"}, refused, INCREMENT)
    first = await send(http, *sent, **key)
    await http.put("/v1/cache/n", content=b"100")
    again = await send(http, *sent, **key)
    assert [result["status"] for result in first.json()["results"]] == [200, 201, 204, 404, 422, 412, 200]
    assert (again.status_code, again.content) == (200, first.content)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert first.headers["x-request-id"] == again.headers["x-request-id"] == key["Idempotency-Key"]
    assert len(site.store.log) == 6


async def test_a_batch_sent_again_reads_anew(http: httpx.AsyncClient) -> None:
    get = {"operation": "get", "key": "n"}
    first = await post(http, INCREMENT, get, **{"Idempotency-Key": "k"})
    await http.put("/v1/cache/n", content=b"100")
    again = await post(http, INCREMENT, get, **{"Idempotency-Key": "k"})
    assert (first[0], first[1]["value"], again[1]["value"]) == (again[0], 1, 100)


@pytest.mark.parametrize(
    "other",
    [
        (INCREMENT, INCREMENT, {"operation": "increment", "key": "m"}),
        (INCREMENT,),
        ({"operation": "increment", "key": "m"}, INCREMENT),
        (INCREMENT, INCREMENT | {"value": 2}),
        (INCREMENT, {"operation": "get", "key": "n"}, INCREMENT),
        (INCREMENT, INCREMENT, 5),
    ],
)
async def test_another_batch_with_the_key_does_nothing(site: Site, http: httpx.AsyncClient, other: tuple[object, ...]) -> None:
    key = {"Idempotency-Key": "k"}
    await post(http, INCREMENT, INCREMENT, **key)
    answer = await send(http, *other, **key)
    assert (answer.status_code, answer.json()["field"]) == (422, "Idempotency-Key")
    assert len(site.store.log) == 2


async def test_a_key_is_of_a_batch_or_of_a_single_write(site: Site, http: httpx.AsyncClient) -> None:
    one, two = {"Idempotency-Key": "one"}, {"Idempotency-Key": "two"}
    await post(http, INCREMENT, **one)
    assert (await http.post("/v1/cache/n", json={"operation": "increment"}, headers=two)).status_code == 200
    for answer in (
        await http.post("/v1/cache/n", json={"operation": "increment"}, headers=one),
        await send(http, INCREMENT, **two),
    ):
        assert (answer.status_code, answer.json()["field"]) == (422, "Idempotency-Key")
    assert len(site.store.log) == 2


async def test_the_request_id_of_a_batch_is_what_finds_it_again(site: Site, http: httpx.AsyncClient) -> None:
    first = await send(http, INCREMENT, INCREMENT)
    again = await send(http, INCREMENT, INCREMENT, **{"Idempotency-Key": first.headers["x-request-id"]})
    assert again.content == first.content
    assert b"requestId" not in first.content
    assert (await send(http, INCREMENT, INCREMENT)).headers["x-request-id"] != first.headers["x-request-id"]
    assert len(site.store.log) == 4


async def test_an_unknown_outcome_tells_the_key_of_the_batch(
    site: Site, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(*_: object, **__: object) -> Appended:
        raise OutcomeUnknown("the connection was lost")

    monkeypatch.setattr(site.store, "append", lose)
    answer = await send(http, INCREMENT)
    (result,) = answer.json()["results"]
    assert (result["status"], result["problem"]["code"]) == (503, "OUTCOME_UNKNOWN")
    assert result["problem"]["requestId"] == answer.headers["x-request-id"]


async def test_a_value_nested_too_deeply_fails_alone(http: httpx.AsyncClient) -> None:
    for depth, statuses in ((500, [201, 201]), (501, [400, 201]), (1_000, [400, 201])):
        value = b"[" * depth + b"]" * depth
        body = b'{"operations":[{"operation":"set","key":"a%d","value":%b},{"operation":"set","key":"b%d","value":1}]}'
        answer = await http.post(
            "/v1/batch", content=body % (depth, value, depth), headers={"Content-Type": "application/json"}
        )
        results = answer.json()["results"]
        assert [result["status"] for result in results] == statuses
        if depth > 500:
            assert results[0]["problem"]["field"] == "operations[0].value"
            assert "500 levels" in results[0]["problem"]["detail"]


async def test_writes_that_fail_leave_the_rest(site: Site, http: httpx.AsyncClient) -> None:
    await http.put("/v1/cache/a", content=b"1")
    site.store.away = True
    results = await post(http, {"operation": "get", "key": "a"}, {"operation": "set", "key": "b", "value": 1})
    assert [result["status"] for result in results] == [200, 503]
    assert results[1]["problem"]["retryAfter"] == 1.0


async def test_an_answer_stays_bounded() -> None:
    limits = Limits(max_value_size=40_000)
    async with opened(limits=limits) as site, site.client() as http:
        await http.put("/v1/cache/a", content=b'"%s"' % (b"x" * 39_000))
        results = await post(http, *[{"operation": "get", "key": "a"}] * 20)
        statuses = [result["status"] for result in results]
        assert set(statuses) == {200, 413}
        assert statuses.count(200) * 39_002 <= limits.max_batch_size


operations = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9) | st.none()), max_size=30)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations)
async def test_a_read_sees_the_writes_before_it_and_none_after(wishes: list[tuple[str, int | None]]) -> None:
    async with opened() as site, site.client() as http:
        sent = [
            {"operation": "get", "key": key} if value is None else {"operation": "set", "key": key, "value": value}
            for key, value in wishes
        ]
        held: dict[str, int] = {}
        for (key, value), result in zip(wishes, await post(http, *sent), strict=True):
            if value is None:
                assert result.get("value") == held.get(key)
            else:
                held[key] = value


def test_operations_on_different_keys_share_a_round() -> None:
    draft = Draft(Operation.SET, Key("a"))
    steps = [Step(i, Key(f"k{i}"), draft if i % 2 else None) for i in range(100)]
    assert len(list(_rounds(steps))) == 1
