"""Streams: answers that go on, of which only so many are open at once.

What a client has not read yet is not kept for it: one that stops reading loses the stream.
"""

from __future__ import annotations

import asyncio
import logging
import math
from abc import ABC, abstractmethod

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cachesvc.errors import CacheError, Overloaded, Unavailable
from cachesvc.realtime.identity import ANONYMOUS, Identity
from cachesvc.web.call import IDENTITY, SAID_ALL
from cachesvc.web.problems import problem_of
from cachesvc.web.service import Service

_log = logging.getLogger(__name__)


class Followers:
    """How many streams of a kind are open, of how many may be; told among the service's streams."""

    def __init__(self, service: Service, most: int, of: str) -> None:
        service.streams[of] = self
        self._most = most
        self._of = of
        self._open = 0
        self._refused = 0

    @property
    def open(self) -> int:
        return self._open

    @property
    def refused(self) -> int:
        return self._refused

    def enter(self) -> None:
        """Raises `Overloaded` when there is no room."""
        if self._open >= self._most:
            self._refused += 1
            raise Overloaded(f"{self._most} streams of {self._of} are open, which is the limit", retry_after=5.0)
        self._open += 1

    def leave(self) -> None:
        self._open -= 1


class Stream(Response, ABC):
    """What `tell` sends, until it ends, the client leaves or the service closes."""

    endless = False  # then a client that says no more has left, since it can only be told by what it says

    def __init__(self, service: Service, followers: Followers) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self.service = service
        self._followers = followers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._followers.enter()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                async with asyncio.TaskGroup() as group:
                    ends = [
                        group.create_task(self.tell(send)),
                        group.create_task(_gone(receive)),
                        group.create_task(self.service.closing.wait()),
                    ]
                    ends.append(group.create_task(self._revoked(scope.get(IDENTITY, ANONYMOUS))))
                    if self.endless and SAID_ALL in scope:  # who leaves is not kept until the next write fails
                        ends.append(group.create_task(scope[SAID_ALL].wait()))
                    if (left := self.lasts(scope)) < math.inf:
                        ends.append(group.create_task(self.service.clock.sleep(left)))
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                    for task in ends:
                        task.cancel()
            await self.send(send, b"", more=False)
        except* (TimeoutError, Unavailable) as group:
            # the server cuts a connection whose answer was left unfinished
            _log.info("a stream was given up: %s", str(group.exceptions[0]) or "its reader stopped reading")
        finally:
            self._followers.leave()

    async def _revoked(self, identity: Identity) -> None:
        """Wait until the token is revoked that asked for it."""
        told = asyncio.Event()
        revocations = self.service.revocations
        revocations.told.append(told.set)
        try:
            while not revocations.cover(identity.subject, identity.token_id, identity.issued_at):
                told.clear()
                await told.wait()
        finally:
            revocations.told.remove(told.set)

    def lasts(self, scope: Scope) -> float:
        """For how many seconds it may go on."""
        return math.inf

    @abstractmethod
    async def tell(self, send: Send) -> None:
        """Send what there is to tell, to its end."""

    async def send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        """Send, and wait until the client has room for more; one that never has loses the stream."""
        async with asyncio.timeout(self.service.limits.request_timeout):
            await send({"type": "http.response.body", "body": body, "more_body": more})


class EventStream(Stream):
    """Server-sent events, until the token ends that asked for them: a client then comes back with another."""

    media_type = "text/event-stream"
    endless = True

    def lasts(self, scope: Scope) -> float:
        identity: Identity = scope.get(IDENTITY, ANONYMOUS)
        return max(0.0, identity.ends - self.service.clock.now())

    async def fail(self, send: Send, error: CacheError) -> None:
        """Tell why it goes on no more."""
        await self.send(send, b"event: error\ndata: %s\n\n" % orjson.dumps(problem_of(error).body()))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
