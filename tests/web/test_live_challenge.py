"""Challenges over a real socket: the example of the page on security, run as it stands."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from cachesvc.protocol.challenge import Challenge
from cachesvc.realtime.authentication import Proofs
from cachesvc.web.app import create_app
from cachesvc.web.live import Live, LiveLimits
from cachesvc.web.tokens import Tokens, own_keys
from tests.web.examples import shows
from tests.web.site import Site
from tests.web.sockets import Frame, connected

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "secure.md").read_text()
(EXAMPLE,) = re.findall(r"^```frames node\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SECRET = b"a secret that two sites share among their nodes"


def guarded(site: Site) -> None:
    keys = own_keys(["HS256"], ["a secret that is long enough for its hash"], [])
    doorman = Tokens(keys, issuer="us", audience="cache", leeway=5.0, most=100, clock=site.clock)
    site.service = replace(site.service, doorman=doorman)
    site.live = Live(site.service, LiveLimits(proofs=Proofs(nodes=(SECRET,))))
    site.app = create_app(site.service, site.live)


async def test_the_example_of_a_node_is_what_happens(site: Site) -> None:
    guarded(site)
    async with site.served() as port, connected(port, "node", "v1", established=False) as socket:
        said: Frame = {}
        for line in EXAMPLE.splitlines():
            shown = json.loads(line[2:])
            if line.startswith("←"):
                said = await socket.next()
                assert shows(shown, said), (shown, said)
                continue
            payload = said["payload"]
            asked = Challenge(payload["nonce"], payload["connectionId"], payload["timestamp"])
            await socket.connection.send(json.dumps(shown | {"signature": asked.signature(SECRET, shown["userId"])}))
        assert (await socket.ask("cache:get", {"key": "a"}))["type"] == "cache:value"
        written = await socket.ask("cache:update", {"key": "a", "operation": "set", "value": 1, "distribute": True})
        assert written["payload"]["code"] == "FORBIDDEN"


async def test_no_two_connections_are_asked_the_same_and_a_signature_is_of_one(site: Site) -> None:
    guarded(site)
    async with (
        site.served() as port,
        connected(port, "node", "v1", established=False) as one,
        connected(port, "node", "v1", established=False) as other,
    ):
        first, second = (await one.next())["payload"], (await other.next())["payload"]
        assert first["nonce"] != second["nonce"]
        asked = Challenge(first["nonce"], first["connectionId"], first["timestamp"])
        await other.send("auth", userId="node:west", signature=asked.signature(SECRET, "node:west"))
        assert (await other.closed())[0] == 4500
