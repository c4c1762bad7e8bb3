"""The socket to a node of another site: proves who this site is, asks, and hands each answer to who asked.

The rule that must not break: whatever is lost, ends or cannot be understood, ends every asking that waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from cachesvc.errors import CacheError, InvalidInput, Overloaded, PositionLost, Unauthenticated, Unavailable
from cachesvc.ports import Reply
from cachesvc.protocol.challenge import NODE_PROTOCOL, NODE_SUBJECT, Challenge
from cachesvc.protocol.codes import Code
from cachesvc.protocol.versions import SPOKEN

_PATH: Final = "/v1/ws/realtime"
_WITHIN: Final = 20.0  # seconds that an answer may take
_MOST: Final = 256 << 20  # bytes of a frame
_SHOWN: Final = 500  # bytes of why it refuses


class SocketLink:
    """`ports.Link` over an open socket; `run` reads what comes."""

    def __init__(self, socket: ClientConnection, name: str) -> None:
        self._socket = socket
        self._name = name
        self._asked = 0
        self._waiting: dict[str, asyncio.Future[Reply]] = {}

    async def ask(self, payload: Mapping[str, object]) -> Reply:
        self._asked += 1
        name = str(self._asked)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[name] = answer
        try:
            async with asyncio.timeout(_WITHIN):
                asked = await self.send({"type": "cache:sync", "requestId": name, "payload": payload})
                reply = await answer
        except TimeoutError as exc:
            raise Unavailable(f"the site {self._name} does not answer") from exc
        finally:
            del self._waiting[name]
            if answer.done() and not answer.cancelled():
                answer.exception()  # that it was not sent is told already
        if reply.type == "error":
            raise _error(reply.payload, self._name)
        return reply._replace(asked=asked)

    async def send(self, frame: Mapping[str, object]) -> int:
        """Its bytes."""
        text = orjson.dumps(frame)
        try:
            await self._socket.send(text.decode())
        except (WebSocketException, OSError) as exc:
            raise Unavailable(f"the connection to the site {self._name} is lost") from exc
        return len(text)

    async def next(self) -> tuple[dict[str, Any], bytes]:
        """The next frame that comes, and its text. Raises `Unavailable`, `InvalidInput`."""
        try:
            text = await self._socket.recv(decode=False)
        except (WebSocketException, OSError) as exc:
            raise Unavailable(f"the connection to the site {self._name} is lost: {exc}") from exc
        try:
            frame = orjson.loads(text)
        except orjson.JSONDecodeError as exc:
            raise InvalidInput("message", f"of the site {self._name} is no JSON") from exc
        if not isinstance(frame, dict) or not isinstance(frame.get("payload", {}), dict):
            raise InvalidInput("message", f"of the site {self._name} is no message")
        return frame, text

    async def run(self) -> None:
        """Until the connection is lost."""
        try:
            while True:
                frame, text = await self.next()
                waiting = self._waiting.get(str(frame.get("correlationId")))
                if waiting is not None and not waiting.done():
                    waiting.set_result(Reply(str(frame.get("type")), frame.get("payload", {}), text))
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(Unavailable(f"the connection to the site {self._name} is lost"))


@asynccontextmanager
async def opened(name: str, url: str, secret: str, *, site: str) -> AsyncIterator[SocketLink]:
    """A link to the site of that name. Raises `Unavailable`, `Unauthenticated`, `InvalidInput`; of the body a group."""
    target = f"ws{url.rstrip('/').removeprefix('http')}{_PATH}"
    try:
        async with asyncio.timeout(_WITHIN):
            socket = await connect(
                target,
                subprotocols=[*map(Subprotocol, (NODE_PROTOCOL, *SPOKEN))],
                max_size=_MOST,
                compression=None,
                proxy=None,
            )
    except InvalidStatus as exc:
        said = (exc.response.body or b"")[:_SHOWN].decode(errors="replace")
        raise Unavailable(f"the site {name} refuses the connection: {exc.response.status_code} {said}") from exc
    except (WebSocketException, OSError, TimeoutError) as exc:
        raise Unavailable(f"the site {name} cannot be reached: {type(exc).__name__}") from exc
    link = SocketLink(socket, name)
    try:
        if socket.subprotocol not in SPOKEN:
            raise InvalidInput("protocol", f"of the site {name} is none of {', '.join(SPOKEN)}")
        async with asyncio.timeout(_WITHIN):
            await _prove(link, secret.encode(), f"{NODE_SUBJECT}{site}")
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(link.run(), name=f"link to {name}")
            yield link
            reading.cancel()
    except TimeoutError as exc:
        raise Unavailable(f"the site {name} does not answer") from exc
    finally:
        await socket.close()


async def _prove(link: SocketLink, secret: bytes, subject: str) -> None:
    while True:
        frame, _ = await link.next()
        payload = frame.get("payload", {})
        match frame.get("type"):
            case "auth:challenge":
                asked = Challenge(*(str(payload.get(member)) for member in ("nonce", "connectionId", "timestamp")))
                await link.send({"type": "auth", "userId": subject, "signature": asked.signature(secret, subject)})
            case "connection:established":
                return
            case "error":
                raise Unauthenticated(f"the other site says: {str(payload.get('message'))[:_SHOWN]}")


def _error(payload: Mapping[str, Any], name: str) -> CacheError:
    said = f"the site {name} says: {str(payload.get('message'))[:_SHOWN]}"
    match payload.get("code"):
        case Code.RECOVERY_UNAVAILABLE:
            return PositionLost(said)
        case Code.BAD_MESSAGE | Code.FORBIDDEN | Code.UNAUTHENTICATED | Code.UNKNOWN_TYPE:
            return InvalidInput("message", said)
        case _:
            return Overloaded(said)
