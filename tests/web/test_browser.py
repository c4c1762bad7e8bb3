"""The page on a client for browsers: its code, run in a Chromium as it stands."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cachesvc.errors import Unavailable
from cachesvc.protocol.frames import RecoveryRequestPayload
from cachesvc.realtime.recovery import Recovery
from cachesvc.realtime.stream import Stream
from cachesvc.web.live import LiveLimits
from tests.web.site import opened
from tests.web.sockets import Socket, connected

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "browser-client.md").read_text()
CLIENT, USE = re.findall(r"^```js\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
# beside the page's client another that subscribes once it is connected, and to something more whenever it is again
LATER = "{" + USE.replace("client.subscribe('tasks');", "") + "window.late = client; window.seenLate = view; }"
SHOWS = """
window.onerror = () => { window.failed = true; };
setInterval(() => {
  if (late.session && late.session !== window.session) {
    window.session = late.session;
    late.subscribe(late.resources.length ? `note:${late.resources.length}` : 'tasks');
  }
  const shown = JSON.stringify([view, seenLate]);
  if (window.failed || !client.session || !late.place || shown === window.shown) return;
  window.shown = shown;
  client.send('publish', { resource: 'seen', message: { view, late: seenLate } });
}, 20);
"""
STARTS = 60.0  # seconds for a browser to start in


@asynccontextmanager
async def published(body: bytearray) -> AsyncIterator[int]:
    """A web server that has one page; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        writer.write(body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextmanager
def browser(url: str, profile: Path) -> Iterator[None]:
    assert CHROMIUM is not None
    quiet = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    process = subprocess.Popen(
        [CHROMIUM, *quiet, f"--user-data-dir={profile}", url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(STARTS)


async def seen(socket: Socket, view: dict[str, Any]) -> None:
    """Wait until the page shows this, by both clients."""
    async with asyncio.timeout(STARTS):
        while True:
            try:
                frame = await socket.next()
            except TimeoutError:
                continue
            if frame["type"] == "publish" and frame["payload"]["message"] == {"view": view, "late": view}:
                return


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
async def test_a_page_misses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = bytearray()
    refused = refuse_once(monkeypatch)
    async with published(page) as place:
        origin = f"http://127.0.0.1:{place}"
        async with opened(live_limits=LiveLimits(allowed_origins=[origin])) as site, site.served() as port:
            script = f"{CLIENT}{USE}{LATER}{SHOWS}".replace("127.0.0.1:8080", f"127.0.0.1:{port}")
            page += f"<!doctype html><script>{script}</script>".encode()
            async with connected(port) as socket:
                mine = set(site.live._open)

                def cut() -> None:
                    for one in site.live._open - mine:
                        one.peer.abort()

                await socket.ask("subscribe", {"resources": ["seen"]})
                with browser(origin, tmp_path):
                    await play(socket, cut)
                assert refused


def refuse_once(monkeypatch: pytest.MonkeyPatch) -> list[RecoveryRequestPayload]:
    """The first recovery is refused for a moment, as by the rate."""
    refused: list[RecoveryRequestPayload] = []
    recover = Recovery.recover

    async def recovered(
        self: Recovery, stream: Stream, session: str, asked: RecoveryRequestPayload
    ) -> AsyncIterator[dict[str, object]]:
        if not refused:
            refused.append(asked)
            raise Unavailable("not now", retry_after=0.01)
        async for payload in recover(self, stream, session, asked):
            yield payload

    monkeypatch.setattr(Recovery, "recover", recovered)
    return refused


async def play(socket: Socket, cut: Callable[[], None]) -> None:
    async def put(key: str, value: object) -> None:
        await socket.ask("cache:update", {"key": key, "operation": "set", "value": value, "distribute": True})

    await seen(socket, {})  # it is connected
    await put("task:1", {"title": "Write"})
    await seen(socket, {"task:1": {"title": "Write"}})
    for number in range(3):
        cut()
        await put("task:1", {"title": "Read", "number": number})
        await put(f"task:{number + 2}", number)
        await socket.ask(
            "cache:update", {"key": f"task:{number + 1}" if number else "none", "operation": "delete", "distribute": True}
        )
    await seen(socket, {"task:1": {"title": "Read", "number": 2}, "task:4": 2})
    for key in ("task:x?", "task:xy", "task:b", "task:d", "task:["):
        await put(key, 0)
    for pattern in (r"task:x\?", "task:[!d-z0-9[]", "*:?y"):
        await socket.ask("cache:invalidate", {"keys": ["task:1"], "pattern": pattern, "distribute": True})
    await seen(socket, {"task:4": 2, "task:d": 0, "task:[": 0})
