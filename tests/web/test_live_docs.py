"""The page on the socket: its examples, run as they stand."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from cachesvc.protocol.messages import FROM_SERVER
from tests.web.site import Site
from tests.web.sockets import Frame, connected

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "realtime.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([^\n]+)$.*?^```frames\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def shows(shown: object, said: object) -> bool:
    """Whether what is shown is what was said, as far as it is shown."""
    if isinstance(shown, dict):
        return isinstance(said, dict) and all(name in said and shows(value, said[name]) for name, value in shown.items())
    return shown == said or shown == "…"


def test_every_section_with_examples_is_run() -> None:
    assert len(EXAMPLES) == PAGE.count("```frames") == 5


async def play(site: Site, example: str, happens: Mapping[str, Callable[[Site], Coroutine[Any, Any, None]]]) -> None:
    """Send what an example sends, see that what it shows is told, and else nothing but an `ack`; `# …` happens meanwhile.

    An answer may come before what its command made others be told, or after it.
    """
    lines = [line for line in example.splitlines() if line]
    told: list[Frame] = []
    async with site.served() as port, connected(port, established=False) as socket, asyncio.TaskGroup() as group:
        told.append(await socket.next())
        for line in lines:
            if line[0] == "#":
                group.create_task(happens[line[2:]](site))
                continue
            shown = json.loads(line[2:])
            if line[0] == "→":
                await socket.connection.send(json.dumps(shown))
                continue
            while (said := next((frame for frame in told if shows(shown, frame)), None)) is None:
                try:
                    told.append(await socket.next())
                except (TimeoutError, ConnectionClosed) as exc:
                    raise AssertionError(f"{shown} is not in {told}") from exc
            told.remove(said)
            FROM_SERVER[said["type"]].model_validate(said)
    assert {frame["type"] for frame in told} <= {"connection:established", "ack"}


@pytest.mark.parametrize("title", EXAMPLES)
async def test_an_example_is_what_happens(site: Site, title: str) -> None:
    await play(site, EXAMPLES[title], {})
