"""The page on messages: each type has a section, whose table is of its model and whose example is what happens.

To make the tables anew: `DOCS=write .venv/bin/python -m pytest tests/web/test_reference.py`, and read the difference.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from cachesvc.protocol.messages import FROM_SERVER
from cachesvc.realtime.identity import Identity, OpenDoor
from cachesvc.realtime.session import SERVED
from tests.web.reference import filled, members, properties, sections
from tests.web.site import Site
from tests.web.sockets import LIMIT
from tests.web.test_live_docs import play

PLACE = Path(__file__).parents[2] / "docs" / "reference" / "messages.md"
PAGE = PLACE.read_text()
SECTIONS = sections(PAGE)
# not sent, or not described, yet
NOT_YET: Final = frozenset(
    (
        *("task:sync", "calendar:reminder", "rate-limit", "cache:sync"),
        *("conflict:detect", "conflict:auto-merge", "conflict:manual-resolution", "conflict:resolve", "conflict:resolved"),
    )
)


class Brief(OpenDoor):
    """A doorman whose tokens last a minute."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def greet(self, token: str | None) -> Identity:
        return Identity("ann", ["admin"], self.site.clock.now() + 60)

    def authenticate(self, token: str, user_id: str) -> Identity:
        return self.greet(token)


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


HAPPENS: Final[Mapping[str, Callable[[Site], Coroutine[Any, Any, None]]]] = {
    "The node is about to stop.": stop,
    "The token of the connection ends in half a minute.": near_the_end,
    "Both changes have been told, and 50 ms have gone by.": told,
}


def test_each_message_has_a_section() -> None:
    types = SERVED.keys() | FROM_SERVER.keys()
    assert types - SECTIONS.keys() <= NOT_YET
    assert SECTIONS.keys() <= types


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
    if kind == "auth:challenge":
        site.live._doorman = Brief(site)
    found = re.search(r"^```frames\n(.*?)^```$", SECTIONS[kind], re.MULTILINE | re.DOTALL)
    assert found is not None
    assert f'"type": "{kind}"' in found[1]
    await play(site, found[1], HAPPENS)
