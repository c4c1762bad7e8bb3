"""A server by the `websockets` library, as its documentation has it: what one client says, `broadcast` tells all the others.

    python -m tests.bench.broadcaster PORT

In its fastest documented way: on uvloop, without compression.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

CONNECTIONS: set[ServerConnection] = set()


async def joined(websocket: ServerConnection) -> None:
    CONNECTIONS.add(websocket)
    try:
        with suppress(ConnectionClosed):  # a crowd goes without a word
            async for message in websocket:
                broadcast(CONNECTIONS, message)
    finally:
        CONNECTIONS.remove(websocket)


async def main(port: int) -> None:
    async with serve(joined, "127.0.0.1", port, compression=None) as server:
        print("ready", flush=True)
        await asyncio.gather(server.serve_forever())


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
