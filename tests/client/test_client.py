"""The client against answers made up for it: what is sent, what is sent again, and what errors become."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from urllib.parse import unquote_to_bytes

import httpx
import pytest

from cachesvc.client import commands, connection
from cachesvc.client.connection import Connection
from cachesvc.client.errors import (
    Away,
    ClientError,
    Conflict,
    NotFound,
    NotTheService,
    ServiceError,
    StartOver,
    Unknown,
    Unreachable,
)
from cachesvc.client.http import ABSENT, Client
from cachesvc.errors import InvalidInput
from cachesvc.protocol.api import Invalidate
from cachesvc.protocol.operations import Warm

URL = "http://service"
DONE = {"key": "a", "version": 7, "operation": "set"}
Answering = Callable[[httpx.Request], httpx.Response]


def problem(status: int, code: str, **members: object) -> httpx.Response:
    body = {"type": "about:blank", "title": "", "status": status, "detail": "no", "code": code, "recoverable": True}
    return httpx.Response(status, json=body | members, headers={"Content-Type": "application/problem+json"})


class Service:
    """Answers one after the other, and keeps what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.asked: list[httpx.Request] = []
        self._answers = iter(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.asked.append(request)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def client(answering: Answering, pauses: list[float] | None = None) -> Client:
    """A client that is answered so; it does not wait, but notes how long it would have."""
    waited = pauses if pauses is not None else []
    return Client(URL, transport=httpx.MockTransport(answering), sleep=waited.append)


@pytest.mark.parametrize("key", ["a:1", ".", "..", "a/../b", "%2F", "ü€👩‍💻", "?q#f", " ", "[bold]", "a\\b"])
def test_a_key_goes_as_it_is(key: str) -> None:
    seen: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path)
        return httpx.Response(200, content=b"1", headers={"ETag": '"5"', "Content-Type": "application/json"})

    value = client(answer).get(key)
    assert value is not None
    assert (value.version, value.data) == (5, b"1")
    assert unquote_to_bytes(seen[0].removeprefix(b"/v1/cache/")).decode() == key
    assert b"/" not in seen[0].removeprefix(b"/v1/cache/")


def test_what_a_write_says() -> None:
    service = Service(httpx.Response(201, json=DONE), httpx.Response(200, json=DONE))
    with client(service) as one:
        one.put("a", b"x", content_type="text/plain", ttl=1.5, tags=["t", "u"], depends_on=["b"], if_version=ABSENT)
        one.put("a", b"1", ttl=60, if_version=7)
    first, second = service.asked
    assert dict(first.url.params.multi_items()) == {"tags": "u", "depends_on": "b", "ttl": "1.5"}
    assert first.url.params.get_list("tags") == ["t", "u"]
    assert (first.headers["content-type"], first.headers["if-none-match"]) == ("text/plain", "*")
    assert (second.headers["if-match"], second.url.params["ttl"]) == ('"7"', "60")
    assert first.headers["idempotency-key"] != second.headers["idempotency-key"]


def test_a_number_stays_as_it_is_written() -> None:
    text = '{"key":"a","version":1,"operation":"increment","value":0.1000000000000000000000000001}'
    service = Service(httpx.Response(200, content=text))
    assert client(service).increment("a", "0.10") == client(Service(httpx.Response(200, content=text))).increment("a")
    assert service.asked[0].content == b'{"operation":"increment","value":0.10}'
    with pytest.raises(InvalidInput, match="amount"):
        client(service).increment("a", '1}{"')
    for amount, sent in ((3, b"3"), (Decimal("1E+3"), b"1000"), (-(10**99), b"-1" + b"0" * 99)):
        service = Service(httpx.Response(200, content=text))
        client(service).increment("a", amount)
        assert service.asked[-1].content == b'{"operation":"increment","value":%b}' % sent
    for wrong in (0.1, True, None, b"1"):
        with pytest.raises(TypeError, match="amount is"):
            client(service).increment("a", wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="amount is"):
            commands.increment("a", wrong)  # type: ignore[arg-type]


def test_a_write_is_sent_again_as_the_same() -> None:
    pauses: list[float] = []
    lost = httpx.ReadError("cut")
    service = Service(lost, problem(503, "OUTCOME_UNKNOWN"), httpx.Response(201, json=DONE))
    assert client(service, pauses).put("a", b"1").version == 7
    assert len({request.headers["idempotency-key"] for request in service.asked}) == 1
    assert {request.content for request in service.asked} == {b"1"}
    assert len(pauses) == 2


def test_it_waits_as_long_as_it_is_asked_to_but_not_longer_than_that() -> None:
    pauses: list[float] = []
    service = Service(problem(503, "UNAVAILABLE", retryAfter=2.0), httpx.Response(201, json=DONE))
    client(service, pauses).put("a", b"1")
    assert 2.0 < pauses[0] < 3.0
    service = Service(problem(429, "TOO_MANY_REQUESTS", retryAfter=600.0))
    with pytest.raises(Away) as raised:
        client(service, pauses).put("a", b"1")
    assert raised.value.retry_after == 600.0
    assert len(pauses) == 1


def test_it_gives_up() -> None:
    pauses: list[float] = []
    service = Service(*[httpx.ConnectError("refused")] * 9)
    with pytest.raises(Unreachable, match="cannot be reached"):
        client(service, pauses).get("a")
    assert len(service.asked) == 3
    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        (httpx.ConnectError("refused"), True),
        (problem(503, "UNAVAILABLE"), True),
        (problem(503, "OUTCOME_UNKNOWN"), False),
        (httpx.ReadTimeout("late"), False),
        (httpx.Response(502, html="<h1>Bad Gateway</h1>"), False),
    ],
)
def test_what_may_have_been_done_is_not_sent_again_without_a_key(failure: httpx.Response | Exception, again: bool) -> None:
    service = Service(failure, httpx.Response(200, json={}))
    pauses: list[float] = []
    with closing(Connection(URL, transport=httpx.MockTransport(service), sleep=pauses.append)) as one:
        if again:
            one.send("POST", "/v1/sync", repeatable=False)
        else:
            with pytest.raises(ClientError):
                one.send("POST", "/v1/sync", repeatable=False)
    assert len(service.asked) == (2 if again else 1)
    assert len(pauses) == (1 if again else 0)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(404, "NOT_FOUND", field="id"), NotFound),
        (problem(404, "NOT_FOUND"), ServiceError),
        (problem(409, "BAD_MESSAGE"), Conflict),
        (problem(412, "VERSION_CONFLICT", currentVersion=9), Conflict),
        (problem(410, "RECOVERY_UNAVAILABLE"), StartOver),
        (problem(422, "BAD_MESSAGE", field="keys[0]"), ServiceError),
        (problem(500, "INTERNAL"), ServiceError),
        (problem(503, "UNAVAILABLE", retryAfter=60), Away),
        (problem(503, "OUTCOME_UNKNOWN", retryAfter=60, requestId="r"), Unknown),
        (httpx.Response(404, html="<h1>Not Found</h1>"), NotTheService),
        (httpx.Response(302, headers={"Location": "http://elsewhere"}), NotTheService),
        (httpx.Response(200, html="<h1>It works!</h1>"), NotTheService),
        (httpx.Response(200, json=[1]), NotTheService),
        (httpx.Response(200, json={"keys": "many"}), NotTheService),
        (httpx.Response(200, content=b'{"keys": [', headers={"Content-Type": "application/json"}), NotTheService),
        (httpx.Response(200, content=iter([b"\x1f\x8b junk"]), headers={"Content-Encoding": "gzip"}), NotTheService),
        (httpx.Response(400, content=b"{", headers={"Content-Type": "application/problem+json"}), NotTheService),
    ],
)
def test_errors(answer: httpx.Response, kind: type[ClientError]) -> None:
    with pytest.raises(ClientError) as raised:
        client(Service(answer)).keys("*")
    assert type(raised.value) is kind
    assert str(raised.value)


def test_what_an_error_tells() -> None:
    with pytest.raises(Conflict) as raised:
        client(Service(problem(412, "VERSION_CONFLICT", field="key", currentVersion=9, requestId="r"))).put("a", b"1")
    error = raised.value
    assert (error.status, error.code, error.field, error.current_version, error.request_id) == (
        412,
        "VERSION_CONFLICT",
        "key",
        9,
        "r",
    )


def test_absence_is_none_but_another_404_is_not() -> None:
    assert client(Service(problem(404, "NOT_FOUND", field="key"))).get("a") is None
    assert client(Service(problem(404, "NOT_FOUND", field="key"))).delete("a") is False
    with pytest.raises(ServiceError):
        client(Service(problem(404, "NOT_FOUND"))).get("a")
    with pytest.raises(NotTheService):
        client(Service(httpx.Response(200, html="<h1>It works!</h1>"))).get("a")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8080",
        "ftp://a",
        "http://",
        "http://a:0",
        "http://a:b",
        "http://a?b",
        "http://user:secret@a",
        "http://[",
        "http://a..b",
    ],
)
def test_no_url(url: str) -> None:
    with pytest.raises(InvalidInput, match="url"):
        Client(url)


def test_a_token_goes_along_and_cannot_break_the_header() -> None:
    service = Service(httpx.Response(200, json={"keys": [], "cursor": None}))
    Client(URL, token="secret", transport=httpx.MockTransport(service)).keys()
    assert service.asked[0].headers["authorization"] == "Bearer secret"
    with pytest.raises(InvalidInput, match="token"):
        Client(URL, token="a\r\nb")


def test_no_proxy_is_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    one = Connection("http://127.0.0.1:1")
    assert one._http._transport_for_url(httpx.URL("http://127.0.0.1:1/")) is one._http._transport
    assert one._http._transport_for_url(httpx.URL("http://elsewhere/")) is not one._http._transport
    one.close()


def test_a_wish_says_only_what_was_wished() -> None:
    answer = {"sequence": 1, "operation": "invalidate", "matched": 1, "cascaded": 0, "job": None}
    service = Service(httpx.Response(200, json=answer), problem(404, "NOT_FOUND", field="module"))
    one = client(service)
    one.invalidate(Invalidate(keys=["a"], cascade=True), wait=True)
    assert service.asked[0].content == b'{"keys":["a"],"cascade":true}'
    assert service.asked[0].url.params["wait"] == "all"
    with pytest.raises(NotFound):
        one.warm(Warm.model_validate({"userId": "u", "module": "m"}))
    assert service.asked[1].content == b'{"module":"m","userId":"u"}'


def stream(*chunks: bytes, cut: bool = False) -> httpx.Response:
    def pieces() -> Iterator[bytes]:
        yield from chunks
        if cut:
            raise httpx.ReadError("cut")

    return httpx.Response(200, content=pieces(), headers={"Content-Type": "text/event-stream"})


def change(sequence: int) -> bytes:
    data = b'{"sequence":%d,"kind":"write","key":"a","at":1.0,"value":1.10}' % sequence
    return b"id: 5:%d\nevent: write\ndata: %s\n\n" % (sequence, data)


def test_changes_resume_where_they_were_cut() -> None:
    pauses: list[float] = []
    service = Service(
        stream(b"id: 5:1\n\n", change(2), cut=True),
        httpx.ConnectError("refused"),
        stream(change(3)),  # the service closes
        problem(410, "RECOVERY_UNAVAILABLE"),
    )
    found = client(service, pauses).changes(after="5:1", pattern="a*")
    assert [str(next(found).position) for _ in range(3)] == ["5:1", "5:2", "5:3"]
    with pytest.raises(StartOver):
        next(found)
    assert [request.headers["last-event-id"] for request in service.asked] == ["5:1", "5:2", "5:2", "5:3"]
    assert service.asked[0].url.params["pattern"] == "a*"
    assert len(pauses) == 3


def test_a_change_keeps_its_value_as_written() -> None:
    followed = next(client(Service(stream(change(2)))).changes())
    assert followed.change is not None
    assert followed.change.value == b"1.10"


def test_following_ends_after_so_many_failures_in_a_row() -> None:
    pauses: list[float] = []
    service = Service(stream(change(2)), *[httpx.ConnectError("refused")] * 20)
    found = client(service, pauses).changes()
    next(found)
    with pytest.raises(Unreachable):
        next(found)
    assert len(service.asked) == 11
    assert 0 < pauses[0] < pauses[-1] <= connection.MAX_PAUSE


def test_whatever_comes_begins_the_count_of_failures_anew() -> None:
    refused = [httpx.ConnectError("refused")] * 8
    found = client(Service(*refused, stream(change(2)), *refused, stream(change(3)))).changes()
    assert [str(next(found).position) for _ in range(2)] == ["5:2", "5:3"]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, html="<h1>It works!</h1>"),
        stream(b"data: {}\n\n"),
        stream(b"id: 1:1\ndata: not json\n\n"),
        stream(b"id: 1:1\nevent: error\ndata: {}\n\n"),
    ],
)
def test_what_is_no_stream_of_changes(answer: httpx.Response) -> None:
    with pytest.raises(NotTheService):
        next(client(Service(answer)).changes())


def test_an_error_within_a_stream_is_raised() -> None:
    body = b'{"type":"","title":"","status":410,"detail":"over","code":"RECOVERY_UNAVAILABLE","recoverable":true}'
    with pytest.raises(StartOver, match="over"):
        next(client(Service(stream(b"event: error\ndata: %s\n\n" % body))).changes())
