"""A bare WebSocket that knows the specification and nothing of this service."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

LIMIT = 30.0
Frame = dict[str, Any]


class Socket:
    """Messages as objects; those that are not waited for are kept, in order."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.seen: list[Frame] = []
        self._asked = 0

    async def send(self, kind: str, payload: object = None, **more: object) -> None:
        members = {"type": kind, **more} | ({} if payload is None else {"payload": payload})
        await self.connection.send(json.dumps(members))

    async def next(self) -> Frame:
        """The next message."""
        async with asyncio.timeout(LIMIT):
            frame: Frame = json.loads(await self.connection.recv())
        self.seen.append(frame)
        return frame

    async def until(self, fits: Callable[[Frame], bool]) -> Frame:
        """The next message that fits."""
        while not fits(frame := await self.next()):
            pass
        return frame

    async def ask(self, kind: str, payload: object, **more: object) -> Frame:
        """Send, and wait for what answers it."""
        self._asked += 1
        asked = f"r-{self._asked}"
        await self.send(kind, payload, requestId=asked, **more)
        return await self.until(lambda frame: frame.get("correlationId") == asked)

    async def closed(self) -> tuple[int, str]:
        """Wait for the end; the code and the reason."""
        async with asyncio.timeout(LIMIT):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    self.seen.append(json.loads(await self.connection.recv()))
        assert self.connection.close_code is not None
        return self.connection.close_code, self.connection.close_reason or ""


@asynccontextmanager
async def connected(
    port: int, *subprotocols: str, established: bool = True, path: str = "v1/ws/realtime", **options: Any
) -> AsyncIterator[Socket]:
    """A connection as the specification makes it; its `connection:established` is the first that was seen."""
    async with connect(
        f"ws://127.0.0.1:{port}/{path}",
        subprotocols=[Subprotocol(name) for name in subprotocols or ("jwt", "v1")],
        open_timeout=LIMIT,
        proxy=None,
        **options,
    ) as connection:
        socket = Socket(connection)
        if established:
            assert (await socket.next())["type"] == "connection:established"
        yield socket
