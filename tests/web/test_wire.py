"""What only a real server shows: raw paths, bodies without a length, pipelining of errors, and any key over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cachesvc.model.keys import Key
from cachesvc.web.service import Limits
from tests.web.site import Site, opened


async def send(port: int, request: bytes) -> tuple[int, bytes]:
    """One request as bytes; the status and the body of its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
        body = await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body


def put(path: bytes, value: bytes = b"1") -> bytes:
    return b"PUT /v1/cache/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (path, len(value), value)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (b"a/b", "a/b"),
        (b"a%2Fb", "a/b"),
        (b"../x", "../x"),
        (b"a/../b", "a/../b"),
        (b"%2E%2E/%2e", "../."),
        (b"a//b/", "a//b/"),
        (b"/", "/"),
        (b"a+b%20c", "a+b c"),
        (b"100%25", "100%"),
        (b"%2525", "%25"),
        (b"a%3Fb%23c", "a?b#c"),
        (b"%F0%9F%98%80", "\U0001f600"),
    ],
)
async def test_the_key_is_what_the_raw_path_says(site: Site, path: bytes, key: str) -> None:
    async with site.served() as port:
        status, body = await send(port, put(path))
        assert (status, orjson.loads(body)["key"]) == (201, key)
        assert list(site.store.rows) == [Key(key)]


@pytest.mark.parametrize("path", [b"a%", b"a%2", b"a%zz", b"%ff", b"%c3%28"])
async def test_a_broken_escape_names_the_key(site: Site, path: bytes) -> None:
    async with site.served() as port:
        status, body = await send(port, put(path))
        assert (status, orjson.loads(body)["field"]) == (400, "key")


async def test_a_body_larger_than_the_limit_sent_without_a_length() -> None:
    async with opened(limits=Limits(max_value_size=1_000)) as site, site.served() as port:

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 1_000

        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            for method, path in (("PUT", "/v1/cache/a"), ("POST", "/v1/cache/a"), ("POST", "/v1/batch")):
                answer = await http.request(method, path, content=chunks(), headers={"Content-Type": "application/json"})
                assert (answer.status_code, answer.json()["code"]) == (413, "TOO_LARGE")
            # and the connection is still of use
            assert (await http.get("/healthz")).status_code == 200
        assert site.store.rows == {}


async def test_a_length_over_the_limit_is_refused_before_the_body_is_sent() -> None:
    async with opened(limits=Limits(max_value_size=1_000)) as site, site.served() as port:
        request = b"PUT /v1/cache/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        async with asyncio.timeout(10):
            answer = await reader.read()  # it may send the body all the same, so nothing more is read
        writer.close()
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close\r\n" in answer


async def test_a_value_at_the_limit() -> None:
    async with opened() as site, site.served() as port:
        value = b'"%s"' % (b"x" * ((1 << 20) - 2))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            assert (await http.put("/v1/cache/a", content=value)).status_code == 201
            assert (await http.get("/v1/cache/a")).content == value
            assert (await http.put("/v1/cache/a", content=value + b" ")).status_code == 413


@pytest.mark.parametrize(("path", "kept"), [(b"/v1/cache/a", True), (b"/v1/cache/absent", True), (b"/v1/snapshot", False)])
async def test_http_1_0_is_kept_where_it_asks_for_it(site: Site, path: bytes, *, kept: bool) -> None:
    async with site.served() as port:
        await send(port, put(b"a"))
        asked = b"GET %b HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n" % path
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asked + asked)
        async with asyncio.timeout(30):
            head = await reader.readuntil(b"\r\n\r\n")
            assert (b"\r\nconnection: keep-alive\r\n" in head, b"\r\nconnection: close\r\n" in head) == (kept, not kept)
            if kept:
                await reader.readuntil(b"\r\n\r\n")  # the second is answered, too
            else:
                await reader.read()
        writer.close()


async def test_head_has_no_body_on_the_wire(site: Site) -> None:
    async with site.served() as port:
        await send(port, put(b"a", b'"value"'))
        two = b"HEAD /v1/cache/a HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/cache/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(two)
        async with asyncio.timeout(10):
            answers = await reader.read()
        writer.close()
        assert answers.count(b'"value"') == 1
        assert answers.lower().count(b"content-length: 7\r\n") == 2


async def test_a_client_that_leaves_while_sending_changes_nothing(site: Site) -> None:
    async with site.served() as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"PUT /v1/cache/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[1")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await send(port, put(b"b")))[0] == 201
        assert list(site.store.rows) == [Key("b")]


names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1).filter(lambda text: len(text.encode()) <= 512)


async def test_any_key_comes_back(site: Site) -> None:
    """Hypothesis picks the keys; one server serves them all."""
    picked: list[str] = []

    @settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @example("..")
    @example("a/../b//")
    @example("%2F%25")
    @given(names)
    def pick(key: str) -> None:
        picked.append(key)

    pick()
    async with site.served() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        for place, key in enumerate(dict.fromkeys(picked)):
            # the client would resolve dots that stand as themselves (the keys with raw dots are tested above)
            for path in {quote(key, safe=safe).replace(".", "%2E") for safe in ("/", "")}:
                url = httpx.URL(scheme="http", host="127.0.0.1", port=port, raw_path=b"/v1/cache/" + path.encode())
                put_answer = await http.put(url, content=b"%d" % place)
                assert put_answer.json().get("key") == key, (path, put_answer.text)
                assert (await http.get(url)).content == b"%d" % place
    assert set(site.store.rows) == set(picked)
