"""The page on messages: each type has a section, whose table is of its model and whose example is what happens.

To make the tables anew: `DOCS=write .venv/bin/python -m pytest tests/web/test_reference.py`, and read the difference.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from cachesvc.cluster.agenda import Keeper
from cachesvc.model.change import Draft, Operation
from cachesvc.model.merging import Policy, Strategy
from cachesvc.protocol.messages import FROM_SERVER
from cachesvc.realtime.identity import Identity, OpenDoor
from cachesvc.realtime.rates import CONNECTION, Rate, RateLimits, Rates
from cachesvc.realtime.reading import seconds_of
from cachesvc.realtime.session import SERVED
from cachesvc.settings.rates import COSTS
from cachesvc.web.app import create_app
from cachesvc.web.live import Live
from cachesvc.web.service import Service
from tests.sites.network import SimulatedSite
from tests.web.examples import play
from tests.web.reference import filled, members, properties, sections
from tests.web.site import Site
from tests.web.sockets import LIMIT, connected

PLACE = Path(__file__).parents[2] / "docs" / "reference" / "messages.md"
PAGE = PLACE.read_text()
SECTIONS = sections(PAGE)
EVENT: Final = seconds_of("2023-11-14T22:30:00Z")


class Brief(OpenDoor):
    """A doorman whose tokens last a minute."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def greet(self, token: str | None) -> Identity:
        return Identity("ann", ["admin"], self.site.clock.now() + 60)

    def authenticate(self, token: str, user_id: str) -> Identity:
        return self.greet(token)


class OtherSite(OpenDoor):
    """A doorman to whom everyone has proven to be a site."""

    def greet(self, token: str | None) -> Identity:
        return Identity("node:paris", ["node:*"])


# what a node is like in which an example happens


def open_anew(site: Site, service: Service) -> None:
    """The sockets of the node by another service, before anything listens."""
    site.service, site.live = service, Live(service)
    site.app = create_app(service, site.live)


@asynccontextmanager
async def as_it_is(site: Site) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def brief(site: Site) -> AsyncIterator[None]:
    open_anew(site, replace(site.service, doorman=Brief(site)))
    yield


@asynccontextmanager
async def metered(site: Site) -> AsyncIterator[None]:
    rates = Rates(RateLimits({CONNECTION: Rate(6 / 60, 6.0)}, COSTS), site.clock)
    open_anew(site, replace(site.service, rates=rates))
    yield


@asynccontextmanager
async def merging(site: Site) -> AsyncIterator[None]:
    site.store.terms = replace(site.store.terms, policies={"task": Policy(Strategy.FIELD_LEVEL, Strategy.MANUAL)})
    yield


@asynccontextmanager
async def of_two(site: Site) -> AsyncIterator[None]:
    oslo = SimulatedSite("oslo", ["oslo", "paris"], site.clock)
    await oslo.store.do(Operation.SET, "task:1", b'{"title":"Write"}')
    open_anew(site, replace(site.service, doorman=OtherSite()))
    site.live.commands = replace(site.live.commands, sites=oslo.teller)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(oslo.keeper.run())
        yield
        keeping.cancel()


LIKE: Final[Mapping[str, Callable[[Site], AbstractAsyncContextManager[None]]]] = {
    "auth:challenge": brief,
    "rate-limit": metered,
    "cache:sync": of_two,
    **{kind: merging for kind in SECTIONS if kind.startswith("conflict:")},
}

# what happens meanwhile


async def stop(site: Site) -> None:
    await site.live.drain()


async def near_the_end(site: Site) -> None:
    site.clock.advance(31)
    for connection in site.live._open:
        connection.wake()


async def told(site: Site) -> None:
    async with asyncio.timeout(LIMIT):
        while site.live.hub.deliveries < 2:
            await asyncio.sleep(0)
    await near_the_end(site)


async def ten_minutes_before(site: Site) -> None:
    site.clock.set_now(EVENT - 600)
    site.store.now = site.clock.now()

    async def write(drafts: Sequence[Draft]) -> Sequence[object]:
        return [await site.cache.write(draft) for draft in drafts]

    await Keeper(site.store, write, max_kept=10).step()


HAPPENS: Final[Mapping[str, Callable[[Site], Coroutine[Any, Any, None]]]] = {
    "The node is about to stop.": stop,
    "The token of the connection ends in half a minute.": near_the_end,
    "Both changes have been told, and 50 ms have gone by.": told,
    "It is ten minutes before the event.": ten_minutes_before,
}


def test_each_message_has_a_section() -> None:
    assert SECTIONS.keys() == SERVED.keys() | FROM_SERVER.keys()


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_table_is_of_the_model(kind: str) -> None:
    """It names no member that the model does not have, and all that are always there."""
    every, required = properties(kind)
    assert required <= members(SECTIONS[kind]) <= every


def test_the_tables_can_be_made_anew() -> None:
    made = filled(PAGE)
    if os.environ.get("DOCS") == "write":
        PLACE.write_text(made)
    assert {kind: members(text) for kind, text in sections(made).items()} == {kind: properties(kind)[0] for kind in SECTIONS}
    assert filled(made) == made


@pytest.mark.parametrize("kind", SECTIONS)
async def test_the_example_is_what_happens(site: Site, kind: str) -> None:
    found = re.search(r"^```frames\n(.*?)^```$", SECTIONS[kind], re.MULTILINE | re.DOTALL)
    assert found is not None
    assert f'"type": "{kind}"' in found[1]
    happens = {what: partial(happened, site) for what, happened in HAPPENS.items()}
    async with LIKE.get(kind, as_it_is)(site), site.served() as port, connected(port) as socket:
        await play(socket, found[1], happens)
