"""Conditional reads and writes: entity tags in `If-Match` and `If-None-Match`."""

from __future__ import annotations

import httpx
import pytest

from cachesvc.engine.answers import Answer, Want
from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from tests.web.site import Site

PATH = "/v1/cache/task:42"


async def test_conditional_reads(http: httpx.AsyncClient) -> None:
    version = (await http.put(PATH, content=b"1")).headers["etag"]
    for tags in (version, f"W/{version}", f'"1", "x" , {version}', "*"):
        answer = await http.get(PATH, headers={"If-None-Match": tags})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == version
        assert answer.headers["cache-status"].startswith("cachesvc; hit;")
    assert (await http.get(PATH, headers={"If-None-Match": '"1"'})).status_code == 200
    assert (await http.get(PATH, headers={"If-None-Match": "5"})).status_code == 422


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_reads_of_a_version(http: httpx.AsyncClient, method: str) -> None:
    version = (await http.put(PATH, content=b"1")).headers["etag"]
    for tags in (version, f'"x", {version}', "*"):
        assert (await http.request(method, PATH, headers={"If-Match": tags})).status_code == 200
        both = {"If-Match": tags, "If-None-Match": version}
        assert (await http.request(method, PATH, headers=both)).status_code == 304
    for tags in ('"1"', '"x"', f"W/{version}"):
        for headers in ({"If-Match": tags}, {"If-Match": tags, "If-None-Match": version}):
            answer = await http.request(method, PATH, headers=headers)
            assert answer.status_code == 412
            if method == "GET":
                assert (answer.json()["code"], f'"{answer.json()["currentVersion"]}"') == ("VERSION_CONFLICT", version)
    assert (await http.request(method, "/v1/cache/other", headers={"If-Match": "*"})).status_code == 412
    assert (await http.request(method, PATH, headers={"If-Match": "5"})).status_code == 422


async def test_a_write_on_one_of_several_versions(http: httpx.AsyncClient) -> None:
    version = (await http.put(PATH, content=b"0")).headers["etag"]
    for tags in ('"x", %s', '%s, "x"', '"1", %s', 'W/"q",%s', '"x",,%s,', " %s ", '"a,b" , %s'):
        answer = await http.put(PATH, content=b"1", headers={"If-Match": tags % version})
        assert answer.status_code == 200, tags
        version = answer.headers["etag"]
    for field, tags in (
        ("If-Match", '"abc"'), ("If-Match", '""'), ("If-Match", '"-1"'), ("If-Match", f"W/{version}"), ("If-Match", '"1", "2"'),
        ("If-Match", '"0"'), ("If-Match", '"99999999999999999"'), ("If-Match", f'"0{version[1:]}'),
        ("If-None-Match", version), ("If-None-Match", f"W/{version}"), ("If-None-Match", f'"x", {version}'),
        ("If-None-Match", "*"),
    ):  # fmt: skip
        for method in ("PUT", "DELETE"):
            answer = await http.request(method, PATH, content=b"2", headers={field: tags})
            assert answer.status_code == 412, (field, tags)
            assert f'"{answer.json()["currentVersion"]}"' == version
    listed = await http.put(PATH, content=b"2", headers={"If-Match": '"1", "2"'})
    assert "at one of the versions 1, 2, and is at" in listed.json()["detail"]
    assert (await http.get(PATH)).headers["etag"] == version


async def test_a_write_unless_it_is_one_of_these_versions(http: httpx.AsyncClient) -> None:
    assert (await http.put(PATH, content=b"1", headers={"If-None-Match": '"1"'})).status_code == 201
    assert (await http.put(PATH, content=b"2", headers={"If-None-Match": '"1", W/"x"'})).status_code == 200
    assert (await http.put(PATH, content=b"3", headers={"If-None-Match": '"x"'})).status_code == 200
    assert (await http.get(PATH)).content == b"3"


async def test_a_write_that_another_overtakes_is_judged_by_what_that_left(
    site: Site, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = (await http.put(PATH, content=b"0")).headers["etag"]
    read, others = site.cache.read, 3

    async def overtaken(key: Key, want: Want) -> Answer:
        nonlocal others
        answer = await read(key, want)
        if others:
            others -= 1
            await site.cache.write(Draft(Operation.SET, key, b"1"))
        return answer

    monkeypatch.setattr(site.cache, "read", overtaken)
    assert (await http.put(PATH, content=b"2", headers={"If-None-Match": '"1", "x"'})).status_code == 200
    assert others == 0
    others = 1
    refused = await http.put(PATH, content=b"3", headers={"If-Match": f'"1", {(await http.get(PATH)).headers["etag"]}'})
    assert (refused.status_code, refused.json()["code"]) == (412, "VERSION_CONFLICT")
    assert "at one of the versions 1, " in refused.json()["detail"]
    assert (await http.put(PATH, content=b"4", headers={"If-None-Match": f'"1", {version}'})).status_code == 200


async def test_both_conditions_of_a_write_must_hold(http: httpx.AsyncClient) -> None:
    for matching in ("*", '"1"'):
        both = {"If-None-Match": "*", "If-Match": matching}
        assert (await http.put(PATH, content=b"1", headers=both)).status_code == 412
    version = (await http.put(PATH, content=b"1")).headers["etag"]
    for match, none_match, status in (
        (version, "*", 412), ("*", version, 412), ("*", '"1"', 200), (version, version, 412), ("*", '"x"', 200),
    ):  # fmt: skip
        answer = await http.put(PATH, content=b"1", headers={"If-Match": match, "If-None-Match": none_match})
        assert answer.status_code == status, (match, none_match)
        version = answer.headers.get("etag", version)
    mixed = await http.put(PATH, content=b"1", headers={"If-Match": f'"1", {version}', "If-None-Match": '"1"'})
    assert mixed.status_code == 200


async def test_a_conditional_write_sent_again_is_answered_as_before(site: Site, http: httpx.AsyncClient) -> None:
    version = (await http.put(PATH, content=b"1")).headers["etag"]
    for name, condition in (("If-Match", f'"1", {version}'), ("If-None-Match", '"1"'), ("If-Match", '"1", "2"')):
        headers = {name: condition, "Idempotency-Key": f"k{condition}".replace(" ", "")}
        first = await http.put(PATH, content=b"2", headers=headers)
        again = await http.put(PATH, content=b"2", headers=headers)
        assert first.status_code == again.status_code
        assert first.json() | {"requestId": ""} == again.json() | {"requestId": ""}
    assert len(site.store.log) == 3


async def test_a_race_between_the_look_and_the_write_is_lost(
    site: Site, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = (await http.put(PATH, content=b"1")).json()["version"]
    read = site.cache.read

    async def overtaken(key: Key, want: Want) -> Answer:
        answer = await read(key, want)
        await site.cache.write(Draft(Operation.SET, key, b"2"))
        return answer

    monkeypatch.setattr(site.cache, "read", overtaken)
    answer = await http.put(PATH, content=b"3", headers={"If-Match": f'"1", "{version}"'})
    assert (answer.status_code, answer.json()["currentVersion"]) == (412, version + 1)


async def test_compare_and_set(site: Site, http: httpx.AsyncClient) -> None:
    assert (await http.put(PATH, content=b"1", headers={"If-Match": "*"})).status_code == 412
    assert (await http.put(PATH, content=b"1", headers={"If-None-Match": "*"})).status_code == 201
    again = await http.put(PATH, content=b"2", headers={"If-None-Match": "*"})
    version = site.store.rows[Key("task:42")].version
    assert (again.status_code, again.json()["currentVersion"]) == (412, version)
    assert (await http.put(PATH, content=b"2", headers={"If-Match": f'"7", "{version}"'})).status_code == 200
    stale = await http.put(PATH, content=b"3", headers={"If-Match": f'"7", "{version}"'})
    assert (stale.status_code, stale.json()["currentVersion"]) == (412, version + 1)
    assert (await http.put(PATH, content=b"3", headers={"If-Match": f'"{version + 1}"'})).status_code == 200
    assert (await http.delete(PATH, headers={"If-Match": '"1"'})).status_code == 412
    assert (await http.delete(PATH, headers={"If-Match": f'"{version + 2}"'})).status_code == 204


@pytest.mark.parametrize(
    "tags", ["garbage", "5", '"5', 'w/"5"', "", ",", '"5" "6"', '*,"5"', '"a b"', ",".join(['"5"'] * 101), "," * 101 + '"5"']
)
async def test_garbage_in_if_match(http: httpx.AsyncClient, tags: str) -> None:
    for answer in (
        await http.put(PATH, content=b"1", headers={"If-Match": tags}),
        await http.delete(PATH, headers={"If-Match": tags}),
        await http.get(PATH, headers={"If-Match": tags}),
    ):
        assert (answer.status_code, answer.json()["field"]) == (422, "If-Match")
    answer = await http.put(PATH, content=b"1", headers={"If-None-Match": tags})
    assert (answer.status_code, answer.json()["field"]) == (422, "If-None-Match")
