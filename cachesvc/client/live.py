"""Live: a client of the socket: commands to be awaited, subscriptions to be iterated, over connections that come and go.

    async with live.connected("http://127.0.0.1:8080") as client:
        await client.set("task:1", {"title": "Write"})
        async with client.subscribe("task") as tasks:
            async for event in tasks:
                ...

It moves frames and decides nothing: what is sent when is the session's business. It is to be used on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from random import Random
from typing import Any, Final, Literal, TypeVar, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from cachesvc.client import commands
from cachesvc.client.commands import Command, Got, Members
from cachesvc.client.connection import checked_url
from cachesvc.client.credentials import Credentials, NoToken, Token
from cachesvc.client.effects import Answered, Dial, Effect, Hang, Opened, Progressed, Prove, Renew, Send, Stopped, Told
from cachesvc.client.options import SessionOptions
from cachesvc.client.session import Session
from cachesvc.client.signing import Signer
from cachesvc.client.subscription import Subscription
from cachesvc.clock import SystemClock
from cachesvc.errors import CacheError
from cachesvc.ports import Clock
from cachesvc.protocol.api import Done, Invalidate, Invalidated, Previewed
from cachesvc.protocol.challenge import Challenge
from cachesvc.protocol.codes import Code
from cachesvc.protocol.messages import PongPayload, WarmPayload
from cachesvc.protocol.operations import JobTold, Warm

T = TypeVar("T")
PATH: Final = "/v1/ws/realtime"
TIMEOUT: Final = 30.0  # seconds that a command may take, reconnects and retries among it
_CONNECTING: Final = 10.0
_CLOSING: Final = 1.0
_HEARTBEAT: Final = 20.0
_MAX_FRAME: Final = 64 << 20  # bytes of one message of the service
_log = logging.getLogger(__name__)


@asynccontextmanager
async def connected(
    url: str,
    *,
    token: Token | None = None,
    signer: Signer | None = None,
    options: SessionOptions | None = None,
    clock: Clock | None = None,
    random: Random | None = None,
) -> AsyncIterator[LiveClient]:
    """A client of the service at a URL (`http://…` or `https://…`), which connects by itself, now and whenever it has to.

    `token`: a token, or what gives one each time that one is needed. `signer` proves more than that, where the service asks for
    it; without a token it proves to be a node. What is asked for before there is a connection waits for
    it. Raises `InvalidInput` for a URL or a token that cannot be one.
    """
    client = LiveClient(
        url, Credentials(token, signer), options or SessionOptions(), clock or SystemClock(), random or Random()
    )
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        group.create_task(client._run(group))
        try:
            yield client
        except Exception as exc:  # noqa: BLE001 - it is raised below, and not as one of a group
            failure = exc
        finally:
            client._session.close()
            client._woken.set()
    if failure is not None:
        raise failure


class LiveClient:
    """The socket of a service. Commands raise `ServiceError` for what the service refused, `Unreachable` where no answer came
    in time and nothing was done, `Unknown` where it may have been done, `QueueFull` and `Ended`."""

    def __init__(self, url: str, credentials: Credentials, options: SessionOptions, clock: Clock, random: Random) -> None:
        self.url = checked_url(url)
        self._credentials = credentials
        self._options = options
        self._clock = clock
        self._session = Session(options, clock, random)
        self._woken = asyncio.Event()
        self._outgoing: deque[str] = deque()
        self._to_send = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._progress: dict[int, asyncio.Queue[Members | None]] = {}  # None: it has been answered
        self._subscriptions: dict[int, Subscription] = {}
        self._line: asyncio.Task[None] | None = None  # the connection, or the attempt to make one
        self._aside: set[asyncio.Task[None]] = set()  # who wait for a token or a signature, while the connection goes on

    # commands

    async def get(self, key: str, *, timeout: float = TIMEOUT) -> Got | None:
        """The entry of a key; None where there is none. `timeout`: seconds, as everywhere."""
        return await self.do(commands.get(key), timeout=timeout)

    async def set(
        self,
        key: str,
        value: object,
        *,
        ttl: float | None = None,
        tags: Sequence[str] = (),
        depends_on: Sequence[str] = (),
        expected_version: int | None = None,
        base_version: int | None = None,
        timeout: float = TIMEOUT,
    ) -> Done:
        """Write a JSON value, for `ttl` seconds.

        With `expected_version` only over that version (0: none), else raises `Conflict`; with `base_version` a change since
        then is told as a conflict.
        """
        made = commands.put(
            key,
            value,
            ttl=ttl,
            tags=tags,
            depends_on=depends_on,
            expected_version=expected_version,
            base_version=base_version,
        )
        return await self.do(made, timeout=timeout)

    async def delete(self, key: str, *, expected_version: int | None = None, timeout: float = TIMEOUT) -> Done:
        """Delete; it is done, too, where there was no entry."""
        return await self.do(commands.delete(key, expected_version=expected_version), timeout=timeout)

    async def increment(
        self, key: str, amount: str | int | Decimal = 1, *, ttl: float | None = None, timeout: float = TIMEOUT
    ) -> Done:
        """Add an exact decimal number; `value` of the answer is the text of the sum."""
        return await self.do(commands.increment(key, amount, ttl=ttl), timeout=timeout)

    async def invalidate(self, wish: Invalidate, *, timeout: float = TIMEOUT) -> Invalidated:
        return await self.do(commands.invalidate(wish), timeout=timeout)

    async def preview(self, wish: Invalidate, *, timeout: float = TIMEOUT) -> Previewed:
        """What an invalidation would hit."""
        return await self.do(commands.preview(wish), timeout=timeout)

    async def publish(self, resource: str, message: object, *, timeout: float = TIMEOUT) -> int:
        """Send a message that is no entry to whoever follows a resource; its sequence."""
        return await self.do(commands.publish(resource, message), timeout=timeout)

    async def may(self, action: str, resource: str, *, timeout: float = TIMEOUT) -> bool:
        """Whether this client may do something (`read`, `write`, …), without doing it."""
        return await self.do(commands.may(action, resource), timeout=timeout)

    async def resolve(
        self, conflict: str, *, option: int | None = None, data: object = None, timeout: float = TIMEOUT
    ) -> Members:
        """Settle a conflict, by one of its options or by other data."""
        return await self.do(commands.resolve(conflict, option=option, data=data), timeout=timeout)

    async def ping(self, *, timeout: float = TIMEOUT) -> PongPayload:
        """How long a message takes to the service, in milliseconds by its clock."""
        return await self.do(commands.ping(self._session.moment(), 0), timeout=timeout)

    async def warm(self, wish: Warm, *, timeout: float = TIMEOUT) -> AsyncGenerator[JobTold | WarmPayload, None]:
        """Begin a warm-up: its job, then how it goes on until it has ended. `timeout`: seconds until it has begun.

        Raises `Unreachable` when the connection is lost after that: the job goes on, and HTTP tells of it.
        """
        number, future = self._ask([commands.warm(wish)], timeout)[0]
        queue = self._progress[number] = asyncio.Queue()  # a warm-up tells four times a second at most
        begun = False
        try:
            while (told := await queue.get()) is not None:
                yield WarmPayload.model_validate(told) if begun else JobTold.model_validate(told)
                begun = True
            yield WarmPayload.model_validate(await future)
        finally:
            del self._progress[number]
            self._forget(number, future)

    async def do(self, command: Command[T], *, timeout: float = TIMEOUT) -> T:
        """Carry out a command of `cachesvc.client.commands`."""
        number, future = self._ask([command], timeout)[0]
        try:
            return cast(T, await future)
        finally:
            self._forget(number, future)

    async def batch(self, wanted: Sequence[Command[Any]], *, timeout: float = TIMEOUT) -> list[Any]:
        """Carry out commands that are sent as one; for each its result, or the error that it ended with."""
        asked = self._ask(wanted, timeout)
        try:
            return await asyncio.gather(*(future for _, future in asked), return_exceptions=True)
        finally:
            for number, future in asked:
                self._forget(number, future)

    # subscriptions

    @asynccontextmanager
    async def subscribe(
        self,
        *resources: str,
        filters: Mapping[str, object] | None = None,
        throttle: float = 0.0,
        compression: Literal["gzip", "brotli"] | None = None,
    ) -> AsyncIterator[Subscription]:
        """Follow resources (`task`, `task:42`, `cache:<glob>`) from here on, whatever becomes of the connection.

        `filters`: by field of the payload the value, or a list of values, that it must have; `throttle`: seconds within which
        only the latest of an entity is told; `compression`: of messages that come together. Where several subscriptions of a
        client cover a key, each is told what any of them is. Raises `ServiceError` where it is refused, `InvalidInput` for
        filters that are no JSON or a resource that another subscription of this client has, and `Ended`.
        """
        payload: dict[str, object] = {"resources": resources, "throttle": round(throttle * 1000, 3)}
        payload["filters"] = commands.rendered(filters or {}, field="filters")
        if compression is not None:
            payload["compression"] = compression
        number = self._session.subscribe(payload, resources)
        subscription = self._subscriptions[number] = Subscription(self._options.max_events)
        self._woken.set()
        try:
            await subscription.opened()
            yield subscription
        finally:
            self._session.unsubscribe(number)
            self._subscriptions.pop(number, None)
            self._woken.set()

    # how

    def _ask(self, wanted: Sequence[Command[Any]], timeout: float) -> list[tuple[int, asyncio.Future[Any]]]:
        loop = asyncio.get_running_loop()
        asked = [(number, loop.create_future()) for number in self._session.ask(wanted, timeout)]
        self._answers.update(asked)
        self._woken.set()
        return asked

    def _forget(self, number: int, future: asyncio.Future[Any]) -> None:
        self._answers.pop(number, None)
        if not future.done():
            future.cancel()
            self._session.forget(number)
        elif not future.cancelled():
            future.exception()  # an error that came after the last look is nobody's any more, and no fault

    async def _run(self, group: asyncio.TaskGroup) -> None:
        """Carry out what the session wants, until it is over and the connection is gone."""
        session = self._session
        while True:
            self._woken.clear()
            session.tick()
            self._carry_out(group)
            if session.error is not None and self._line is None:
                for task in self._aside:
                    task.cancel()
                return
            due = session.due
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - self._clock.monotonic())):
                    await self._woken.wait()

    def _carry_out(self, group: asyncio.TaskGroup) -> None:
        effects = self._session.effects
        while effects:
            match effects.popleft():
                case Dial():
                    self._outgoing.clear()  # it was for the last connection
                    self._line = group.create_task(self._dial())
                case Hang():
                    if self._line is not None:
                        self._line.cancel()
                case Send(frame):
                    self._outgoing.append(frame)
                    self._to_send.set()
                case Renew():
                    if self._credentials.renews:
                        self._do_aside(group, self._renew())
                case Prove(challenge):
                    if self._credentials.signer is None:
                        self._session.cannot_prove()
                    else:
                        self._do_aside(group, self._prove(self._credentials.signer, challenge))
                case effect:
                    self._hand_on(effect)

    def _do_aside(self, group: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
        task = group.create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    def _hand_on(self, effect: Effect) -> None:
        """What is for the user."""
        match effect:
            case Answered(number, outcome):
                self._answer(number, outcome)
            case Progressed(number, payload) if number in self._progress:
                self._progress[number].put_nowait(payload)
            case Opened(number) if number in self._subscriptions:
                self._subscriptions[number].live.set()
            case Told(number, event) if number in self._subscriptions:
                self._subscriptions[number].tell(event)
            case Stopped(number, error) if number in self._subscriptions:
                self._subscriptions[number].stop(error)

    def _answer(self, number: int, outcome: object) -> None:
        future = self._answers.get(number)
        if future is None or future.done():
            return
        if isinstance(outcome, CacheError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        if number in self._progress:
            self._progress[number].put_nowait(None)

    async def _dial(self) -> None:
        """One connection, from its beginning to its end."""
        session = self._session
        try:
            connection = await self._connect()
            if connection is None:
                return
            session.opened()
            try:
                await self._talk(connection)
            finally:
                if session.error is not None:
                    await connection.close()
                connection.transport.abort()
                session.lost(connection.close_code, connection.close_reason or "")
        finally:
            self._line = None
            self._woken.set()

    async def _connect(self) -> ClientConnection | None:
        """None where there is none, which the session is told."""
        try:
            return await connect(
                f"ws{self.url.removeprefix('http')}{PATH}",
                subprotocols=self._credentials.protocols,
                additional_headers=await self._credentials.headers(),
                open_timeout=_CONNECTING,
                close_timeout=_CLOSING,
                ping_interval=_HEARTBEAT,
                ping_timeout=_HEARTBEAT,
                max_size=_MAX_FRAME,
                compression=None,
                proxy=None,
            )
        except InvalidStatus as exc:
            status, after = exc.response.status_code, exc.response.headers.get("Retry-After", "")
            ended = self._credentials.renews and Code.TOKEN_EXPIRED.encode() in (exc.response.body or b"")
            self._session.failed(f"HTTP {status}", status if not ended else None, float(after) if after.isdecimal() else None)
        except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed, NoToken) as exc:
            self._session.failed(str(exc) or type(exc).__name__)
        return None

    async def _talk(self, connection: ClientConnection) -> None:
        """Until it is closed, or cut off by a cancellation."""
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write(connection))
            with suppress(ConnectionClosed):
                while True:
                    frame = await connection.recv()
                    self._session.received(frame if isinstance(frame, str) else frame.decode(errors="replace"))
                    self._woken.set()
            writing.cancel()

    async def _write(self, connection: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                while self._outgoing:
                    await connection.send(self._outgoing.popleft())
                self._to_send.clear()
                await self._to_send.wait()

    async def _renew(self) -> None:
        with suppress(NoToken):  # the service asks for none again, and closes: there is another attempt then
            self._session.renew(await self._credentials.token())
            self._woken.set()

    async def _prove(self, signer: Signer, challenge: Challenge) -> None:
        signature = await self._credentials.sign(signer, challenge)
        self._session.prove(challenge, signer.subject, signature)
        self._woken.set()
