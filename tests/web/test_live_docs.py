"""The page on the socket: its examples, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.web.examples import play
from tests.web.site import Site
from tests.web.sockets import connected

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "realtime.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([^\n]+)$.*?^```frames\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def test_every_section_with_examples_is_run() -> None:
    assert len(EXAMPLES) == PAGE.count("```frames") == 5


@pytest.mark.parametrize("title", EXAMPLES)
async def test_an_example_is_what_happens(site: Site, title: str) -> None:
    async with site.served() as port, connected(port) as socket:
        await play(socket, EXAMPLES[title])
