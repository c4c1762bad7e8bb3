"""The page on the socket: its examples, run as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cachesvc.protocol.messages import FROM_SERVER
from tests.web.site import Site
from tests.web.sockets import connected

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "realtime.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([^\n]+)$.*?^```frames\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def shows(shown: object, said: object) -> bool:
    """Whether what is shown is what was said, as far as it is shown."""
    if isinstance(shown, dict):
        return isinstance(said, dict) and all(name in said and shows(value, said[name]) for name, value in shown.items())
    return shown == said or shown == "…"


def test_every_section_with_examples_is_run() -> None:
    assert len(EXAMPLES) == PAGE.count("```frames") == 5


@pytest.mark.parametrize("title", EXAMPLES)
async def test_an_example_is_what_happens(site: Site, title: str) -> None:
    async with site.served() as port, connected(port, established=False) as socket:
        lines = [(line[0], json.loads(line[2:])) for line in EXAMPLES[title].splitlines()]
        if lines[0][1]["type"] != "connection:established":
            await socket.next()
        acknowledged = {shown.get("correlationId") for arrow, shown in lines if arrow == "←"}
        for arrow, shown in lines:
            if arrow == "→":
                await socket.connection.send(json.dumps(shown))
                continue
            said = await socket.until(lambda frame: frame["type"] != "ack" or frame["correlationId"] in acknowledged)
            while said["type"] == "ack" != shown["type"]:
                said = await socket.next()
            assert shows(shown, said), (shown, said)
            FROM_SERVER[said["type"]].model_validate(said)
