"""The HTTP loader: what a key may not do to a URL, and what an origin may not do to the service."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from cachesvc.errors import Unavailable
from cachesvc.loaders.http import HttpLoader, Origin, opened
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded
from tests.loaders.origin import HttpOrigin, response
from tests.servers import free_port

A = Key("task:42")
JSON = "application/json"


@pytest.fixture
async def origin() -> AsyncIterator[HttpOrigin]:
    async with HttpOrigin().served() as origin:
        yield origin


async def load(url: str, key: str = A, **more: Any) -> Loaded | Unavailable | None:
    async with opened("task", replace(Origin(url), **more), connections=2, max_value_size=1_000) as loader:
        return (await loader.load([Key(key)])).get(Key(key))


@pytest.mark.parametrize(
    ("template", "key", "target"),
    [
        ("/{key}", "task:42", "/task%3A42"),
        ("/{id}", "task:4/2?a=b#c&d", "/4%2F2%3Fa%3Db%23c%26d"),
        ("/{id}", "task:../../etc", "/..%2F..%2Fetc"),
        ("/{id}", "task:%2e%2e", "/%252e%252e"),
        ("/{1}/of/{2}?q={0}", "task:7:ключ", "/7/of/%D0%BA%D0%BB%D1%8E%D1%87?q=task"),
        ("/{id}", "task: {key} \\ ", "/%20%7Bkey%7D%20%5C%20"),
    ],
)
async def test_a_key_is_data_in_a_url(origin: HttpOrigin, template: str, key: str, target: str) -> None:
    await load(origin.url + template, key)
    assert origin.asked == [target]


@pytest.mark.parametrize(
    ("template", "key"), [("/{id}", "task:.."), ("/{1}/x", "task:."), ("/{2}", "task:1"), ("/{id}", "task")]
)
async def test_what_no_url_can_say_is_absent_and_not_asked_for(origin: HttpOrigin, template: str, key: str) -> None:
    assert await load(origin.url + template, key) is None
    assert origin.asked == []


async def test_what_is_said_of_a_value_is_kept_with_it(origin: HttpOrigin) -> None:
    headers = {"Cache_Tag": "red, gr%C3%BCn", "Depends_On": "user%3A1", "Cache_Control": "max-age=9, s-maxage=60", "Age": "20"}
    origin.answer = lambda *_: response(200, b"[1]", Content_Type="application/JSON; charset=utf-8", **headers)
    expected = Loaded(b"[1]", JSON, ttl=40.0, tags=("red", "grün"), parents=("user:1",))
    assert await load(origin.url + "/{id}", use_max_age=True) == expected
    assert await load(origin.url + "/{id}", tags_header="", parents_header="") == Loaded(b"[1]", JSON)


async def test_headers_are_sent_and_no_compression_is_asked_for(origin: HttpOrigin) -> None:
    await load(origin.url + "/{id}", headers={"Authorization": "Bearer x"})
    assert (origin.headers[0]["authorization"], origin.headers[0]["accept-encoding"]) == ("Bearer x", "identity")


@pytest.mark.parametrize("status", [404, 410])
async def test_what_is_not_there_is_absent(origin: HttpOrigin, status: int) -> None:
    origin.answer = lambda *_: response(status, b"no")
    assert await load(origin.url + "/{id}") is None


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (response(500), "answered 500"),
        (response(204), "answered 204"),
        (response(301, Location="http://127.0.0.1:1/"), "answered 301"),
        (response(200, b"{", Content_Type=JSON), "JSON"),
        (response(200, b"<html>", Content_Type="text/html"), "not application/json"),
        (response(200, gzip.compress(b"1"), Content_Type=JSON, Content_Encoding="gzip"), "content coding"),
        (b"garbage\r\n\r\n", "cannot be asked"),
        (response(200, b"1", Content_Type=JSON, Content_Length="5"), "bytes"),
    ],
)
async def test_bad_answers_are_failures(origin: HttpOrigin, answer: bytes, said: str) -> None:
    if b"Content-Length: 5" in answer:
        answer = answer.replace(b"Content-Length: 5", b"Content-Length: 5000000")
    origin.answer = lambda *_: answer
    with pytest.raises(Unavailable, match=said) as caught:
        await load(origin.url + "/{id}", expect=JSON)
    assert str(caught.value).startswith("loader task: ")
    assert "127.0.0.1" not in str(caught.value)


async def test_ten_megabytes_are_refused_in_bounded_memory(origin: HttpOrigin) -> None:
    chunk = b"%x\r\n%b\r\n" % (1 << 16, b"x" * (1 << 16))
    origin.answer = lambda *_: CHUNKED + chunk * 400
    with pytest.raises(Unavailable, match="over 1000 bytes"):
        await load(origin.url + "/{id}")
    assert origin.sent < 20 << 20  # it was hung up on


async def test_an_origin_that_is_not_there_is_a_failure() -> None:
    with pytest.raises(Unavailable, match="cannot be asked"):
        await load(f"http://127.0.0.1:{free_port()}/{{id}}")


async def test_a_load_that_is_given_up_gives_its_connection_back(origin: HttpOrigin) -> None:
    async with opened("task", Origin(origin.url + "/{id}"), connections=1, max_value_size=1_000) as loader:
        for _ in range(3):
            origin.answer = lambda *_: None
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await loader.load([A])
        origin.answer = lambda *_: response(200, b"1", Content_Type=JSON)
        assert isinstance((await loader.load([A]))[A], Loaded)
        assert isinstance(loader, HttpLoader)
