"""Another site over a real socket, or who says that it is one: it is told what it may be, and harms nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from cachesvc.errors import CacheError, InvalidInput, Overloaded, Unauthenticated, Unavailable
from cachesvc.model.change import Operation
from cachesvc.node.site_link import opened
from cachesvc.protocol.challenge import NODE_SUBJECT
from cachesvc.protocol.versions import chosen
from cachesvc.realtime.authentication import Proofs
from cachesvc.sites.links import Links
from cachesvc.sites.own import OwnSite
from cachesvc.web.app import create_app
from cachesvc.web.live import Live, LiveLimits
from tests.sites.deployments import until
from tests.sites.network import SimulatedSite, network
from tests.web.site import Site

SECRETS = {f"{NODE_SUBJECT}{name}": f"the secret that berlin shares with {name} alone".encode() for name in ("oslo", "porto")}
MANY = 60


@asynccontextmanager
async def berlin(site: Site) -> AsyncIterator[tuple[str, SimulatedSite]]:
    """The site of that name, which knows oslo and porto; its URL."""
    async with network("berlin", "oslo", "porto") as sites:
        own = sites["berlin"]
        await own.store.do(Operation.SET, "task:1", b'"told to sites alone"')
        links = Links([], site.clock, lease=1.0)
        site.service = replace(site.service, sites=OwnSite("berlin", own.keeper, own.teller, links))
        site.live = Live(site.service, LiveLimits(proofs=Proofs(sites=SECRETS)))
        site.app = create_app(site.service, site.live)
        async with site.served() as port:
            yield f"http://127.0.0.1:{port}", own


async def asked(url: str, payload: Mapping[str, object], *, name: str = "oslo", secret: bytes = b"") -> object:
    """What the site `name` is answered, or the error that it meets."""
    secret = secret or SECRETS[f"{NODE_SUBJECT}{name}"]
    found: object = None
    try:
        async with opened("berlin", url, secret.decode(), site=name) as link:
            found = (await link.ask(payload)).payload
    except* CacheError as group:
        found = group.exceptions[0]
    return found


async def test_who_shares_the_secret_is_told(site: Site) -> None:
    async with berlin(site) as (url, _):
        told = await asked(url, {"nodeId": "oslo", "checksums": {"": "0:0"}})
        assert isinstance(told, dict)
        assert len(told["checksums"]) == 1


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("oslo", b"a secret that somebody has made up by himself"),
        ("oslo", SECRETS[f"{NODE_SUBJECT}porto"]),  # right, and of another
        ("rome", SECRETS[f"{NODE_SUBJECT}oslo"]),  # a site that nobody knows
    ],
)
async def test_who_cannot_prove_who_it_is_is_told_nothing(
    site: Site, name: str, secret: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with berlin(site) as (url, own):
        found = await asked(url, {"nodeId": name, "checksums": {"": "0:0"}}, name=name, secret=secret)
        assert isinstance(found, Unauthenticated | Unavailable), found
        assert own.teller.counts.asked == 0
        await until(lambda: site.live.counts.nodes_refused == 1)  # when its connection has ended
        assert "is refused" in caplog.text


async def test_a_node_of_an_older_protocol_is_refused_with_a_reason_and_one_that_speaks_a_newer_beside_it_is_not(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asking = {"nodeId": "oslo", "checksums": {"": "0:0"}}
    async with berlin(site) as (url, own):
        for number, spoken in enumerate(((), ("v0",))):
            monkeypatch.setattr("cachesvc.node.site_link.SPOKEN", spoken)
            found = await asked(url, asking)
            assert isinstance(found, Unavailable)
            assert "422" in str(found)
            assert "names none of the versions spoken here: v1" in str(found)
            assert site.live.counts.nodes_refused == number + 1
            assert "names none of the versions" in caplog.text
        assert own.teller.counts.asked == 0
        monkeypatch.setattr("cachesvc.node.site_link.SPOKEN", ("v2", "v1"))  # it is upgraded already
        assert isinstance(await asked(url, asking), dict)
        monkeypatch.undo()
        monkeypatch.setattr("cachesvc.web.live.chosen", lambda offered: chosen(offered, ("v2", "v1")))  # this one is
        assert isinstance(await asked(url, asking), dict)


async def test_a_site_that_gives_itself_out_as_another_is_refused(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    async with berlin(site) as (url, own):
        found = await asked(url, {"nodeId": "porto", "checksums": {"": "0:0"}}, name="oslo")
        assert isinstance(found, InvalidInput)
        assert (own.teller.counts.asked, own.teller.counts.refused) == (0, 1)
        assert "the site oslo asks is refused" in caplog.text
        assert isinstance(await asked(url, {"nodeId": "oslo", "checksums": {"": "0:0"}}), dict)


@pytest.mark.parametrize(
    "payload",
    [
        {"nodeId": "oslo", "checksums": {"xyz": "1:1"}},
        {"nodeId": "oslo", "checksums": {"a" * 17: "1:1"}},
        {"nodeId": "oslo", "checksums": {"": "lies"}},
        {"nodeId": "oslo", "checksums": {}, "requestSync": ["none"]},
        {"nodeId": "oslo", "position": "yesterday"},
        {"checksums": {}},
    ],
)
async def test_what_cannot_be_meant_is_refused_and_the_connection_goes_on(site: Site, payload: dict[str, object]) -> None:
    async with berlin(site) as (url, _):
        secret = SECRETS[f"{NODE_SUBJECT}oslo"].decode()
        async with opened("berlin", url, secret, site="oslo") as link:
            with pytest.raises(InvalidInput):
                await link.ask(payload)
            assert (await link.ask({"nodeId": "oslo", "checksums": {"": "0:0"}})).type == "cache:sync"


async def test_prefixes_that_do_not_exist_have_nothing(site: Site) -> None:
    async with berlin(site) as (url, _):
        told = await asked(url, {"nodeId": "oslo", "checksums": {"0123456789abcdef": "7:7"}, "requestSync": []})
        assert isinstance(told, dict)
        assert told["checksums"] == {"0123456789abcdef": "0:0"}
        nothing = await asked(url, {"nodeId": "oslo", "checksums": {}, "requestSync": ["0123456789abcdef"]})
        assert isinstance(nothing, dict)
        assert nothing["updates"] == []


async def test_a_flood_of_requests_is_answered_in_turn_and_holds_nobody_else_up(site: Site) -> None:
    async with berlin(site) as (url, own):
        secret = SECRETS[f"{NODE_SUBJECT}oslo"].decode()
        async with opened("berlin", url, secret, site="oslo") as link, httpx.AsyncClient(base_url=url, timeout=30) as http:
            payload = {"nodeId": "oslo", "checksums": {}, "requestSync": [""] * 256}
            flood = [asyncio.create_task(link.ask(payload)) for _ in range(MANY)]
            assert (await http.get("/v1/cache/none")).status_code == 404
            answers = await asyncio.gather(*flood, return_exceptions=True)
        assert all(not isinstance(one, BaseException) or isinstance(one, Overloaded) for one in answers)
        assert 0 < own.teller.counts.asked <= MANY
        assert own.store.state


@asynccontextmanager
async def speaking(*said: str, protocols: Sequence[Subprotocol] | None = (Subprotocol("v1"),)) -> AsyncIterator[str]:
    """A server that says so, whatever it hears, and ends."""

    async def speak(connection: ServerConnection) -> None:
        for text in said:
            await connection.send(text)
        await connection.wait_closed()

    async with serve(speak, "127.0.0.1", 0, subprotocols=protocols, close_timeout=1) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


ESTABLISHED = json.dumps({"type": "connection:established", "payload": {}})


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (['{"type": "error", "payload": {"code": "UNKNOWN_TYPE", "message": "no nodes here"}}'], Unauthenticated),
        (["no JSON"], InvalidInput),
        ([ESTABLISHED, '{"type": "batch:update", "payload": {"upda'], InvalidInput),  # cut off in the middle
        ([ESTABLISHED, '{"type": "error", "correlationId": "1", "payload": {"code": "UNKNOWN_TYPE"}}'], InvalidInput),
    ],
)
async def test_a_server_that_is_no_site_as_we_know_them_is_an_error_of_its_own(
    said: list[str], error: type[CacheError]
) -> None:
    async with speaking(*said) as url:
        found = await asked(url, {"nodeId": "oslo"})
        assert isinstance(found, error), found


async def test_a_server_of_an_older_protocol_is_not_followed() -> None:
    async with speaking(ESTABLISHED, protocols=None) as url:
        found = await asked(url, {"nodeId": "oslo"})
        assert isinstance(found, InvalidInput)
        assert "v1" in str(found)
