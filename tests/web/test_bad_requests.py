"""Bad requests over both paths: each answers the same bytes, or closes; nothing is left of it, and nothing hangs.

What a strict server refuses (RFC 9112) is refused: who is in front of this service may have read it the other way.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from enum import Enum

import pytest

from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from tests.web.both import LAST, LIMITS, Talk, both, statuses
from tests.web.site import opened

GET = b"GET /v1/cache/a:1 HTTP/1.1\r\n"
PUT = b"PUT /v1/cache/b:1 HTTP/1.1\r\nHost: x\r\n"
HIT = GET + b"Host: x\r\n\r\n"
HOSTED = GET + b"Host: x\r\n"
INNER = b"GET /v1/cache/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"  # what an attacker wants to be taken for a request


class End(Enum):
    STAYS = "the connection can be asked again"
    CLOSES = "the service closes it at once"
    LATE = "the service closes it when its time is over"
    LEAVES = "the client leaves in the middle of a request"


def line(target: bytes, method: bytes = b"GET") -> bytes:
    return method + b" " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n"


STAYS, CLOSES, LATE, LEAVES = End
CASES = {
    # lengths that contradict one another, or nothing
    "both lengths": (PUT + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER, [400], CLOSES),
    "both lengths, chunked first": (PUT + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", [400], CLOSES),
    "two lengths": (PUT + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n1" + INNER, [400], CLOSES),
    "two equal lengths": (PUT + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n1", [400], CLOSES),
    "a list of lengths": (PUT + b"Content-Length: 1, 1\r\n\r\n1", [400], CLOSES),
    "a signed length": (PUT + b"Content-Length: +1\r\n\r\n1", [400], CLOSES),
    "a hexadecimal length": (PUT + b"Content-Length: 0x1\r\n\r\n1", [400], CLOSES),
    "a length with an underscore": (PUT + b"Content-Length: 1_0\r\n\r\n1", [400], CLOSES),
    "a length past 64 bits": (PUT + b"Content-Length: 18446744073709551617\r\n\r\n1", [400], CLOSES),
    "an empty length": (PUT + b"Content-Length:\r\n\r\n1", [400], CLOSES),
    "a length of a read": (HOSTED + b"Content-Length: 5\r\n\r\n" + b"GET /", [200], STAYS),
    "a body of a read": (HOSTED + b"Transfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n", [200], STAYS),
    # codings
    "a length of two numbers": (PUT + b"Content-Length: 1 1\r\n\r\n1", [400], CLOSES),
    "a negative length": (PUT + b"Content-Length: -1\r\n\r\n1", [400], CLOSES),
    "a length of other digits": (PUT + b"Content-Length: \xd9\xa1\r\n\r\n1", [400], CLOSES),
    "a length before two codings": (
        PUT + b"Content-Length: 5\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        [400],
        CLOSES,
    ),
    "a length and another coding": (PUT + b"Content-Length: 1\r\nTransfer-Encoding: identity\r\n\r\n1", [400], CLOSES),
    "chunked in capitals": (HOSTED + b"Transfer-Encoding: CHUNKED\r\n\r\n1\r\n1\r\n0\r\n\r\n", [200], STAYS),
    "chunked twice in one header": (PUT + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", [400], CLOSES),
    "an empty coding": (PUT + b"Transfer-Encoding:\r\n\r\n" + INNER, [400], CLOSES),
    "a quoted coding": (PUT + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', [501], CLOSES),
    "chunked with a comma": (PUT + b"Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", [400], CLOSES),
    "a coding under another name": (HOSTED + b"Transfer_Encoding: chunked\r\nContent-Length: 1\r\n\r\n1", [200], STAYS),
    "an unknown coding": (PUT + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", [501], CLOSES),
    "a coding before chunked": (PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n", [501], CLOSES),
    "a coding after chunked": (PUT + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", [400], CLOSES),
    "identity": (PUT + b"Transfer-Encoding: identity\r\n\r\n" + INNER, [501], CLOSES),
    "chunked twice": (PUT + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", [400], CLOSES),
    "a vertical tab before chunked": (PUT + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", [400], CLOSES),
    "chunked in HTTP/1.0": (
        b"PUT /v1/cache/b:1 HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n" + INNER,
        [400],
        CLOSES,
    ),
    # chunks
    "a chunk without a size": (PUT + b"Transfer-Encoding: chunked\r\n\r\n\r\n", [400], CLOSES),
    "a chunk of no number": (PUT + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", [400], CLOSES),
    "a chunk of a negative size": (PUT + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", [400], CLOSES),
    "a chunk of 0x1": (PUT + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\n1\r\n0\r\n\r\n", [400], CLOSES),
    "a chunk past 64 bits": (PUT + b"Transfer-Encoding: chunked\r\n\r\n10000000000000001\r\n1", [400], CLOSES),
    "a chunk with a space": (PUT + b"Transfer-Encoding: chunked\r\n\r\n1 \r\n1\r\n0\r\n\r\n", [400], CLOSES),
    "a chunk that is longer than it says": (PUT + b"Transfer-Encoding: chunked\r\n\r\n1\r\n12\r\n0\r\n\r\n", [400], CLOSES),
    "a bare LF after a size": (PUT + b"Transfer-Encoding: chunked\r\n\r\n1\n1\r\n0\r\n\r\n", [400], CLOSES),
    "a bare LF in an extension": (PUT + b"Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\n1\r\n0\r\n\r\n", [400], CLOSES),
    "a bare CR in an extension": (PUT + b"Transfer-Encoding: chunked\r\n\r\n1;a\rb\r\n1\r\n0\r\n\r\n", [400], CLOSES),
    "a large extension": (PUT + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 4_000 + b"\r\n1\r\n0\r\n\r\n", [431], CLOSES),
    "many extensions": (
        PUT + b"Transfer-Encoding: chunked\r\n\r\n" + b"1;%b\r\n1\r\n" % (b"a" * 100) * 40 + b"0\r\n\r\n",
        [431],
        CLOSES,
    ),
    "large trailers": (
        PUT + b"Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n" + b"A: %b\r\n" % (b"a" * 500) * 5 + b"\r\n",
        [431],
        CLOSES,
    ),
    "many trailers": (
        PUT + b"Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n" + b"A: a\r\n" * 20 + b"\r\n",
        [431],
        CLOSES,
    ),
    "large trailers behind a hit": (
        HIT + PUT + b"Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n" + b"A: %b\r\n" % (b"a" * 500) * 5 + b"\r\n",
        [200, 431],
        CLOSES,
    ),
    "trailers": (HOSTED + b"Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\nA: a\r\n\r\n", [200], STAYS),
    "many tiny chunks": (
        HOSTED + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n1\r\n" * 1_000 + b"0\r\n\r\n",
        [200],
        STAYS,
    ),
    "an extension": (HOSTED + b"Transfer-Encoding: chunked\r\n\r\n1;a=b\r\n1\r\n0\r\n\r\n", [200], STAYS),
    # ends of lines
    "bare LFs": (HIT.replace(b"\r\n", b"\n"), [400], CLOSES),
    "a bare LF after a header": (GET + b"Host: x\nAccept: a\r\n\r\n", [400], CLOSES),
    "a bare LF at the end": (GET + b"Host: x\r\n\n", [400], CLOSES),
    "bare CRs": (HIT.replace(b"\r\n", b"\r"), [400], CLOSES),
    "a bare CR in a value": (HOSTED + b"Accept: a\rb\r\n\r\n", [400], CLOSES),
    "a bare CR before a header": (HOSTED + b"\rAccept: a\r\n\r\n", [400], CLOSES),
    "a folded header": (HOSTED + b"Accept: a\r\n b\r\n\r\n", [400], CLOSES),
    "a folded coding": (PUT + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", [400], CLOSES),
    "empty lines before": (b"\r\n\r\n" + HIT, [200], STAYS),
    # spaces in odd places
    "a space before the method": (b" " + HIT, [400], CLOSES),
    "a space before the first header": (GET + b" Host: x\r\n\r\n", [400], CLOSES),
    "a space before a colon": (HOSTED + b"Content-Length : 5\r\n\r\nhello", [400], CLOSES),
    "a tab before a colon": (HOSTED + b"Accept\t: a\r\n\r\n", [400], CLOSES),
    "tabs in the request line": (b"GET\t/v1/cache/a:1\tHTTP/1.1\r\nHost: x\r\n\r\n", [400], CLOSES),
    "a tab in the target": (line(b"/v1/cache/a\t1"), [400], CLOSES),
    "spaces around the target": (b"GET  /v1/cache/a:1  HTTP/1.1\r\nHost: x\r\n\r\n", [400], CLOSES),
    "two spaces before the target": (b"GET  /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\n\r\n", [400], CLOSES),
    "two spaces before the version": (b"GET /v1/cache/a:1  HTTP/1.1\r\nHost: x\r\n\r\n", [400], CLOSES),
    "a space after the version": (b"GET /v1/cache/a:1 HTTP/1.1 \r\nHost: x\r\n\r\n", [400], CLOSES),
    "a tab after the version": (b"GET /v1/cache/a:1 HTTP/1.1\t\r\nHost: x\r\n\r\n", [400], CLOSES),
    "no target": (b"GET  HTTP/1.1\r\nHost: x\r\n\r\n", [400], CLOSES),
    "a tab before the method": (b"\t" + HIT, [400], CLOSES),
    "two spaces behind a hit": (HIT + b"GET  /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\n\r\n", [200, 400], CLOSES),
    "two spaces behind a body that has one": (
        PUT
        + b"Content-Length: 30\r\n\r\n"
        + b'"GET /v1/cache/a:1 HTTP/1.1\r\n"'[:30]
        + b"GET  /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        [400, 400],
        CLOSES,
    ),
    "two spaces behind chunks": (
        HOSTED + b"Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n" + b"GET  /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        [200, 400],
        CLOSES,
    ),
    "a method in small letters": (b"get /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\n\r\n", [400], CLOSES),
    "a bare LF before": (b"\n" + HIT, [400], CLOSES),
    "a bare CR before": (b"\r" + HIT, [400], CLOSES),
    "a NUL before": (b"\0" + HIT, [400], CLOSES),
    "a NUL in the target": (line(b"/v1/cache/a\0"), [400], CLOSES),
    "a NUL in a name": (HOSTED + b"Ac\0cept: a\r\n\r\n", [400], CLOSES),
    "a space in a name": (HOSTED + b"Acc ept: a\r\n\r\n", [400], CLOSES),
    "a space in the target": (line(b"/v1/cache/a 1"), [400], CLOSES),
    "a length between spaces": (HOSTED + b"Content-Length: \t 0 \t \r\n\r\n", [200], STAYS),
    # headers
    "a NUL in a value": (HOSTED + b"Accept: a\0b\r\n\r\n", [400], CLOSES),
    "a control character in a value": (HOSTED + b"Accept: a\x01b\r\n\r\n", [400], CLOSES),
    "a header without a name": (HOSTED + b": a\r\n\r\n", [400], CLOSES),
    "a header without a colon": (HOSTED + b"Accept\r\n\r\n", [400], CLOSES),
    "a name of no token": (HOSTED + b"A(b): a\r\n\r\n", [400], CLOSES),
    "a name beyond ASCII": (HOSTED + b"A\xff: a\r\n\r\n", [400], CLOSES),
    "no host": (GET + b"\r\n", [400], CLOSES),
    "two hosts": (HOSTED + b"Host: y\r\n\r\n", [400], CLOSES),
    "a host of two": (GET + b"Host: x, y\r\n\r\n", [400], CLOSES),
    "a host with a path": (GET + b"Host: x/y\r\n\r\n", [400], CLOSES),
    "a host with a user": (GET + b"Host: a@x\r\n\r\n", [400], CLOSES),
    "a host of nothing": (GET + b"Host:\r\n\r\n", [200], STAYS),
    "a host with a space": (GET + b"Host: x y\r\n\r\n", [400], CLOSES),
    "a host beyond ASCII": (GET + b"Host: \xc3\xa9\r\n\r\n", [400], CLOSES),
    "a host with a port of no number": (GET + b"Host: x:y\r\n\r\n", [400], CLOSES),
    "a host of IPv6": (GET + b"Host: [::1]:8080\r\n\r\n", [200], STAYS),
    "a hundred headers": (HOSTED + b"X-Some: thing\r\n" * 100 + b"\r\n", [431], CLOSES),
    # versions
    "HTTP/0.9": (b"GET /v1/cache/a:1\r\n\r\n", [505], CLOSES),
    "HTTP/1.0": (HIT.replace(b"1.1", b"1.0"), [200], CLOSES),
    "HTTP/1.0, to be kept": (
        HIT.replace(b"1.1", b"1.0").replace(b"\r\n\r\n", b"\r\nConnection: Keep-Alive\r\n\r\n"),
        [200],
        STAYS,
    ),
    "HTTP/1.0 that expects": (
        b"GET /v1/cache/a:1 HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n1",
        [200],
        CLOSES,
    ),
    "HTTP/1.01": (HIT.replace(b"1.1", b"1.01"), [400], CLOSES),
    "HTTP/1.": (HIT.replace(b"1.1", b"1."), [400], CLOSES),
    "HTTP/1.2": (HIT.replace(b"1.1", b"1.2"), [400], CLOSES),
    "HTTP/2.0": (HIT.replace(b"1.1", b"2.0"), [505], CLOSES),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400], CLOSES),
    "http in small letters": (HIT.replace(b"HTTP", b"http"), [400], CLOSES),
    # targets
    "100,000 bytes": (line(b"/v1/cache/" + b"a" * 100_000), [414], CLOSES),
    "100,000 bytes that do not end": (b"GET /v1/cache/" + b"a" * 100_000, [414], CLOSES),
    "absolute form": (line(b"http://x/v1/cache/a:1"), [200], STAYS),
    "absolute form of another host": (line(b"http://y/v1/cache/a:1"), [200], STAYS),
    "absolute form without a path": (line(b"http://x"), [400], CLOSES),
    "asterisk form": (line(b"*", b"OPTIONS"), [404], STAYS),
    "asterisk form of a read": (line(b"*"), [404], STAYS),
    "authority form": (line(b"x:80", b"CONNECT"), [400], CLOSES),
    "no slash": (line(b"v1/cache/a:1"), [400], CLOSES),
    "a fragment": (line(b"/v1/cache/a:1#b"), [400], CLOSES),
    "a backslash": (line(b"/v1\\cache\\a:1"), [404], STAYS),
    "dots": (line(b"/v1/stats/../cache/a:1"), [404], STAYS),
    "bytes beyond ASCII": (line(b"/v1/cache/\xc3\xa9"), [400], CLOSES),
    "NUL, encoded": (line(b"/v1/cache/a%00"), [422], STAYS),
    "CR and LF, encoded": (line(b"/v1/cache/a%0D%0AX-Evil:%201"), [422], STAYS),
    "a slash of the path, encoded": (line(b"/v1%2Fcache/a:1"), [404], STAYS),
    "a slash of the path's end, encoded": (line(b"/v1/cache%2Fa:1"), [404], STAYS),
    "a slash of the key, encoded": (line(b"/v1/cache/b%2Fc"), [200], STAYS),
    "a letter of the path, encoded": (line(b"/v1/%63ache/a:1"), [404], STAYS),
    "encoded twice": (line(b"/v1/cache/a%253A1"), [404], STAYS),
    "half an escape": (line(b"/v1/cache/a%3"), [400], STAYS),
    "an escape of no number": (line(b"/v1/cache/a%zz"), [400], STAYS),
    "no UTF-8, encoded": (line(b"/v1/cache/%C3%28"), [400], STAYS),
    "an overlong slash, encoded": (line(b"/v1/cache/a%C0%AFb"), [400], STAYS),
    # companies
    "a hit before garbage": (HIT + b"garbage\r\n\r\n", [200, 400], CLOSES),
    "a hit before a smuggler": (HIT + PUT + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n" + INNER, [200, 400], CLOSES),
    "an upgrade to what is not spoken": (HOSTED + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", [200], STAYS),
    "an upgrade with a request behind it": (HOSTED + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + HIT, [200, 200], STAYS),
    "an end with a request behind it": (HOSTED + b"Connection: close\r\n\r\n" + INNER, [200], CLOSES),
    # who is slow, or leaves
    "nothing": (b"", [], LATE),
    "a method": (b"GET", [408], LATE),
    "half a target": (b"GET /v1/cac", [408], LATE),
    "half a header": (GET + b"Ho", [408], LATE),
    "headers that do not end": (HOSTED, [408], LATE),
    "a hit, and half a request": (HIT + GET, [200, 408], LATE),
    "a hit, and nothing": (HIT, [200], LATE),
    "a cut pipeline": (HIT * 3 + b"GET /v1/cac", [200] * 3, LEAVES),
    "a cut header": (HIT + GET + b"Ho", [200], LEAVES),
    "a cut body": (HIT + PUT + b"Content-Length: 100\r\n\r\n1", [200], LEAVES),
    "a cut chunk": (HIT + PUT + b"Transfer-Encoding: chunked\r\n\r\n5\r\n1", [200], LEAVES),
}


PATIENT = replace(LIMITS, timeout=60.0)
IMPATIENT = replace(LIMITS, timeout=0.1)


@pytest.mark.parametrize("name", CASES)
async def test_both_paths_answer_alike_and_forget_it(name: str) -> None:
    sent, expected, end = CASES[name]

    async def conversation(talk: Talk) -> None:
        if end in (STAYS, LEAVES):
            await talk.hear(len(expected))
        if end is STAYS:
            await talk.say(LAST)
        if end is LEAVES:
            talk.leave()

    async with opened() as site:
        await site.cache.write(Draft(Operation.SET, Key("a:1"), b'{"a": 1}'))
        await site.cache.write(Draft(Operation.SET, Key("b/c"), b"2"))
        async with both(site, IMPATIENT if end is LATE else PATIENT) as pair:
            hot, plain = await pair.converse(sent, conversation)
            await pair.forgotten()
    assert hot == plain
    assert statuses(hot) == [*expected, *([200] if end is STAYS else [])]


async def test_who_never_reads_is_let_go() -> None:
    asked = line(b"/v1/cache/large") * 100  # 30 MB of answers: more than any buffer on the way takes
    async with opened() as site:
        await site.cache.write(Draft(Operation.SET, Key("large"), b"x" * 300_000, content_type="text/plain"))
        async with both(site, replace(PATIENT, pipelined=100, stall=0.1)) as pair:
            for place, port in enumerate(pair.ports):
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    connection.sendall(asked)
                    await pair.until(place, held=True)
                    await pair.until(place, held=False)
