"""An HTTP origin on loopback, of a few lines, that answers as it is told: well, badly, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import quote, unquote

from cachesvc.model.keys import Key
from cachesvc.ports import Loaded

Answer = Callable[[str, Mapping[str, str]], bytes | None]


def response(status: int, body: bytes = b"", /, **headers: str) -> bytes:
    """The bytes of an answer; `_` in the names of headers stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {"Content-Length": str(len(body)), **named}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode("latin-1") + body


class HttpOrigin:
    """`answer(target, headers)` gives the bytes to be sent, None to hang; `gate` holds all. `asked` are the targets."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.sent = 0
        self.answer: Answer = lambda _, __: response(404)
        self.gate = asyncio.Event()
        self.gate.set()

    def has(self, values: Mapping[Key, Loaded] | None) -> None:
        """Answer with these; fail where there are none."""

        def answer(target: str, _: Mapping[str, str]) -> bytes:
            if values is None:
                return response(500)
            found = values.get(Key(unquote(target.rpartition("/")[2])))
            if found is None:
                return response(404)
            listed = {"Cache_Tag": found.tags, "Depends_On": found.parents}
            headers = {name: ", ".join(map(quote, names)) for name, names in listed.items() if names}
            if found.ttl is not None:
                headers["Cache_Control"] = f"public, max-age={found.ttl:.0f}"
            return response(200, found.value, Content_Type=found.content_type, **headers)

        self.answer = answer

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Self]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self
        finally:
            self.gate.set()
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                target = head[0].split(" ")[1]
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                self.asked.append(target)
                self.headers.append(headers)
                await self.gate.wait()
                said = self.answer(target, headers)
                if said is None:
                    await reader.read()  # until the client gives up
                    return
                for start in range(0, len(said), 1 << 16):
                    writer.write(said[start : start + (1 << 16)])
                    await writer.drain()
                    self.sent += len(said[start : start + (1 << 16)])
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()
