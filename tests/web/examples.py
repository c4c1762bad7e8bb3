"""Examples of the pages: frames that a client sends (`→`) and is sent (`←`), run as they stand; `…` differs each time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final

from websockets.exceptions import ConnectionClosed

from cachesvc.protocol.messages import FROM_SERVER
from tests.web.sockets import Frame, Socket

DIFFERS: Final = "…"
Happens = Mapping[str, Callable[[], Coroutine[Any, Any, None]]]


def shows(shown: object, said: object) -> bool:
    """Whether what is shown is what was said, as far as it is shown."""
    if isinstance(shown, dict):
        return isinstance(said, dict) and all(name in said and shows(value, said[name]) for name, value in shown.items())
    if isinstance(shown, list) and isinstance(said, list):
        return len(shown) == len(said) and all(map(shows, shown, said))
    return shown in (said, DIFFERS)


def completed(shown: Any, told: Iterable[Frame]) -> Any:
    """What is sent, where `…` is what a member of that name in a payload was told last."""
    known = {name: value for frame in told for name, value in frame["payload"].items()}
    return {name: known[name] if value == DIFFERS else value for name, value in shown.items()}


async def play(socket: Socket, example: str, happens: Happens | None = None) -> None:
    """Send what an example sends, see that what it shows is told, and else nothing but an `ack`; `# …` happens meanwhile.

    An answer may come before what its command made others be told, or after it.
    """
    told: list[Frame] = list(socket.seen)
    async with asyncio.TaskGroup() as group:
        for line in example.splitlines():
            if not line:
                continue
            if line[0] == "#":
                group.create_task((happens or {})[line[2:]]())
                continue
            shown = json.loads(line[2:])
            if line[0] == "→":
                if "payload" in shown:
                    shown["payload"] = completed(shown["payload"], socket.seen)
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
