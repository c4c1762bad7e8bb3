"""Requests changed at random: whatever becomes of them, both paths answer the same bytes, and none is a fault of ours.

`MUTATIONS=50000 MUTATIONS_SEED=7` has so many of another kind than the few hundred that are the same each time.
"""

from __future__ import annotations

import os
import random
import re
from dataclasses import replace

from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from tests.web.both import LIMITS, Talk, both
from tests.web.site import opened

COUNT = int(os.environ.get("MUTATIONS", "600"))
SEED = int(os.environ.get("MUTATIONS_SEED", "1"))
PATIENT = replace(LIMITS, timeout=60.0)
WRITTEN = re.compile(rb'((?:etag: "|"version":|"currentVersion":|at version |0{32}-|fill-token: \d+:))\d+')  # both write

HOST = b" HTTP/1.1\r\nHost: x\r\n"
HIT = b"GET /v1/cache/a:1" + HOST + b'Accept: */*\r\nIf-None-Match: "7"\r\n\r\n'
MISS = b"GET /v1/cache/m%20x" + HOST + b"Cache-Control: max-stale=5\r\nConnection: keep-alive\r\n\r\n"
LONG = b"GET /v1/cache/a:1" + HOST + b"Content-Length: 4\r\n\r\n[\r\n]"
CHUNKED = b"GET /v1/cache/a:1" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1;a=b\r\n1\r\n0\r\nT: x\r\n\r\n"
OLD = HIT.replace(b"1.1", b"1.0")
BATCH = b"POST /v1/batch" + HOST + b"Content-Type: application/json\r\nContent-Length: 17\r\n\r\n" + b'{"operations":[]}'
DELETION = b"DELETE /v1/cache/absent" + HOST + b"\r\n"
REQUESTS = [
    HIT,
    HIT.replace(b"GET", b"HEAD"),
    MISS,
    DELETION,
    LONG,
    CHUNKED,
    BATCH,
    HIT + CHUNKED + MISS,
    LONG + HIT,
    OLD + HIT,
]

BYTES = [
    b" ",
    b"\t",
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b"\x0b",
    b"\x7f",
    b"\x80",
    b":",
    b",",
    b";",
    b"/",
    b"%",
    b"?",
    b"#",
    b"*",
    b'"',
    b"0",
]
LINES = [
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Upgrade: h2c\r\nConnection: upgrade\r\n",
    b"Host: y\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Range: bytes=0-1\r\n",
    b"Content-Encoding: gzip\r\n",
    b"If-Match: *\r\n",
    b"If-None-Match: *\r\n",
    b"Authorization: Bearer x\r\n",
]


def mutated(chance: random.Random, request: bytes) -> bytes:
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        place = chance.randrange(len(request) + 1)
        match chance.choice((0, 1, 2, 3, 3)):
            case 0:
                request = request[:place] + request[place + chance.randint(1, 3) :]
            case 1:
                request = request[:place] + chance.choice(BYTES) + request[place:]
            case 2:
                request = request[:place] + bytes([chance.randrange(256)]) + request[place + 1 :]
            case _:
                place = chance.choice([end.end() for end in re.finditer(rb"\r\n|\Z", request)])
                request = request[:place] + chance.choice(LINES) + request[place:]
    return request or b"\r\n"


async def test_whatever_becomes_of_a_request_both_paths_answer_alike() -> None:
    chance = random.Random(SEED)

    async def say_no_more(talk: Talk) -> None:
        talk.leave()

    async with opened() as site:
        await site.cache.write(Draft(Operation.SET, Key("a:1"), b'{"a": 1}'))
        async with both(site, PATIENT) as pair:
            for _ in range(COUNT):
                request = mutated(chance, chance.choice(REQUESTS))
                answers = await pair.converse(request, say_no_more)
                hot, plain = (WRITTEN.sub(rb"\g<1>0", answer) for answer in answers)
                assert hot == plain, request
                assert b"HTTP/1.1 500 " not in hot, request
            await pair.forgotten()
