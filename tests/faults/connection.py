"""One HTTP/1.1 connection to one worker, as bare as it can be: a client here must know what was sent and what was not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

import orjson


class NotSent(Exception):
    """Nobody listens: nothing was asked."""


class Lost(Exception):
    """The connection ended, or the answer did not come in time: what was asked may have been done."""


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    node: str  # the life that gave it

    @property
    def version(self) -> int:
        return int(self.headers.get("etag", '"0"').strip('"'))

    def problem(self, member: str) -> str:
        """A member of the problem that this is, "" where it has none."""
        if not self.headers.get("content-type", "").startswith("application/problem+json"):
            return ""
        return str(orjson.loads(self.body).get(member, ""))


class Connection:
    """To a port of loopback. `whose(local port)` tells, once an answer has come over it, which life is at the other end."""

    def __init__(self, port: int, whose: Callable[[int], str]) -> None:
        self.node = ""
        self._port = port
        self._whose = whose
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"", *, within: float
    ) -> Answer:
        """Raises `NotSent` and `Lost`; after either the next call connects anew."""
        head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
        head += [f"{name}: {value}" for name, value in (headers or {}).items()]
        message = "\r\n".join([*head, "", ""]).encode() + body
        try:
            async with asyncio.timeout(within):
                reader, writer = await self._open()
                writer.write(message)
                status, told = await _read_head(reader)
                content = await reader.readexactly(int(told.get("content-length", "0"))) if status != 304 else b""
        except NotSent:
            raise
        except (TimeoutError, OSError, EOFError, ValueError) as exc:
            self.close()
            raise Lost(str(exc) or type(exc).__name__) from exc
        except BaseException:
            self.close()
            raise
        if not self.node:
            # in a thread: it looks at many processes, and the proxies of this process are not to stand still for that
            self.node = await asyncio.to_thread(self._whose, writer.get_extra_info("sockname")[1])
        answer = Answer(status, told, content, self.node)
        if told.get("connection") == "close":
            self.close()
        return answer

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None or self._reader.at_eof():
            self.close()
            try:
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError as exc:
                raise NotSent(str(exc)) from exc
        return self._reader, self._writer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None
        self.node = ""


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {}
    for line in head[1:-2]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return int(head[0].split(" ")[1]), headers
