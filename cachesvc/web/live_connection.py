"""One socket and its session: what comes is taken up, what is to be said is sent, in the turn of the loop in which it happens.

The rule that must not break: a message is taken up only while there is room for what it is answered with, and is written only
while the transport takes it. What cannot go out at once waits in the outbox, which is bounded, and only for so long. No task
waits for any of it: a connection that does nothing costs its state and no more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from cachesvc.errors import CacheError
from cachesvc.ports import Clock
from cachesvc.protocol.codes import CloseCode
from cachesvc.realtime.commands import CARRIED_OUT, Commands
from cachesvc.realtime.outbox import nowhere
from cachesvc.realtime.quick import Quick
from cachesvc.realtime.session import Request, Session
from cachesvc.web.live_protocol import LiveProtocol
from cachesvc.web.outlet import Traffic

_log = logging.getLogger(__name__)
_NONE: Final[deque[str | bytes]] = deque(maxlen=0)  # stands for a queue that was never needed
_TURN: Final = 32 << 10  # bytes of messages that are taken up at once; others have their turn before more is
_EACH: Final = 256  # that a message counts for beside its own


@dataclass(frozen=True, slots=True)
class Driver:
    """What the connections of a node have in common. Commands run in `group`, which outlives each of them."""

    group: asyncio.TaskGroup
    commands: Commands
    quick: Quick
    clock: Clock
    traffic: Traffic
    max_in_flight: int
    send_timeout: float


class Connection:
    """A listener of its socket. `left` is done once either side wants no more of it."""

    __slots__ = (
        "_due", "_gone", "_held", "_idle", "_loop", "_requests", "_room", "_scheduled", "_slow", "_taken", "_timer",
        "_watching", "driver", "in_flight", "left", "peer", "session",
    )  # fmt: skip

    def __init__(self, driver: Driver, peer: LiveProtocol, session: Callable[[Connection], Session]) -> None:
        self.driver = driver
        self.peer = peer
        peer.outlet.traffic = driver.traffic
        self.in_flight = 0
        self._loop = asyncio.get_running_loop()
        self.left: asyncio.Future[None] = self._loop.create_future()
        self._gone = False
        self._scheduled = False
        self._taken = 0  # of what may be taken up in this turn
        self._held = _NONE  # messages that are not taken up yet
        self._requests: deque[Request] | None = None  # that wait for others to be answered
        self._watching: set[asyncio.Task[None]] | None = None
        self._room: asyncio.Event | None = None  # that replies in many parts wait for
        self._idle: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None  # of what is due
        self._due: float | None = None
        self._slow: asyncio.TimerHandle | None = None  # of a peer that takes nothing
        self.session = session(self)

    async def ended(self) -> None:
        """Wait for what is still carried out."""
        self._leave()
        if self.in_flight:
            self._idle = self._loop.create_future()
            await self._idle

    # what the session calls

    def wake(self) -> None:
        """The session has something to say, or to wait for."""
        closing = self.session.closing
        if closing is not None:
            self._stop_watching()
            if closing.code is CloseCode.SLOW and self.peer.outlet.paused:
                self.peer.abort()  # who takes nothing takes no goodbye either
        self._soon()

    # what the socket calls

    def received(self, data: str | bytes) -> None:
        if self._gone:
            return
        if self._held or self._is_full():
            if self._held is _NONE:
                self._held = deque()
            self._held.append(data)  # no more than came at once: nothing is read while one waits
            self.peer.pause()
            if self._taken >= _TURN:
                self._soon()
        else:
            self._take_up(data)

    def writable(self) -> None:
        self._turn()

    def lost(self) -> None:
        self._leave()

    # taking up

    def _is_full(self) -> bool:
        """Whether what comes now has to wait."""
        session = self.session
        waits = self._requests or session.halted is not None or session.outbox.crowded
        return bool(waits) or self._taken >= _TURN

    def _take_up(self, data: str | bytes) -> None:
        self._taken += _EACH + len(data)
        self.driver.traffic.received += 1
        if isinstance(data, str) and self.driver.quick.answers(self.session, data):
            return
        self._carry(self.session.receive(data))

    def _carry(self, requests: Iterable[Request]) -> None:
        for request in requests:
            if self.in_flight < self.driver.max_in_flight:
                self._begin(request)
            else:
                if self._requests is None:
                    self._requests = deque()
                self._requests.append(request)

    def _take_up_held(self) -> None:
        while self._requests and self.in_flight < self.driver.max_in_flight:
            self._begin(self._requests.popleft())
        self._carry(self.session.go_on())
        if self._held is _NONE:
            return
        self.peer.outlet.cork()
        try:
            while self._held and not self._is_full():
                self._take_up(self._held.popleft())
        finally:
            self.peer.outlet.uncork()
        if not self._held:
            self._held = _NONE
            self.peer.resume()
        elif self._taken >= _TURN:
            self._soon()

    def _begin(self, request: Request) -> None:
        task = self.driver.group.create_task(self._carry_out(request))
        self.in_flight += 1
        if CARRIED_OUT[request.type].watches:
            if self._watching is None:
                self._watching = set()
            self._watching.add(task)
            task.add_done_callback(self._watching.discard)

    async def _carry_out(self, request: Request) -> None:
        session = self.session
        try:
            async for reply in self.driver.commands.carry_out(request):
                session.answer(request.frame, reply.type, reply.payload)
                if session.outbox.crowded:
                    await self._until_room()
                if self._gone:
                    return
        except CacheError as error:
            session.fail(request.frame, error)
        except Exception as error:  # noqa: BLE001 - the connection lives; the log has it
            _log.exception("a command failed", extra={"type": request.type})
            session.fail(request.frame, CacheError(str(error)))
        finally:
            self.in_flight -= 1
            if self._idle is not None and not self.in_flight and not self._idle.done():
                self._idle.set_result(None)
            if self._requests or self.session.closing is not None:
                self._soon()

    async def _until_room(self) -> None:
        """Wait until a good part of what was answered is sent: what comes in many parts is not kept for who does not read."""
        if self._room is None:
            self._room = asyncio.Event()
        while not self._gone and self.session.closing is None and self.session.outbox.crowded:
            self._room.clear()
            await self._room.wait()

    def _stop_watching(self) -> None:
        for task in self._watching or ():
            task.cancel()

    # sending

    def _soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Send what can be sent, take up what there is room for, and see to it that what is due comes to its turn."""
        self._scheduled = False
        self._taken = 0
        if self._gone:
            return
        session = self.session
        session.tick()
        while not self.peer.outlet.paused and (frame := session.next_frame()) is not None:
            self.peer.outlet.write(frame)
        if self._room is not None:
            self._room.set()
        self._take_up_held()
        closing = session.closing
        if not len(session.outbox) and closing is not None and not (self.in_flight and closing.code is CloseCode.DRAIN):
            self._leave()
            return
        self._watch(session)

    def _watch(self, session: Session) -> None:
        """Wake when something is due; a peer that does not take what waits for it has so much time."""
        now = self.driver.clock.monotonic()
        due = session.due
        stuck = self.peer.outlet.paused and (len(session.outbox) > 0 or (due is not None and due <= now))
        if not stuck and self._slow is not None:
            self._slow.cancel()
            self._slow = None
        elif stuck and self._slow is None:
            self._slow = self._loop.call_later(self.driver.send_timeout, self._too_slow)
        if stuck:
            due = None  # it comes to its turn when there is room again, or this ends
        if due == self._due and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = due
        if due is not None:
            self._timer = self._loop.call_later(max(0.0, due - now), self._rung)

    def _rung(self) -> None:
        self._timer = None
        self._turn()

    def _too_slow(self) -> None:
        self._slow = None
        self.session.close(CloseCode.SLOW, "what was to be read was not read")
        self.peer.abort()  # also where another reason was there before

    def _leave(self) -> None:
        """Either side has had enough."""
        if self._gone:
            return
        self._gone = True
        self.session.outbox.straight = nowhere
        self._stop_watching()
        self._held = _NONE
        self._requests = None
        if self._room is not None:
            self._room.set()
        for timer in (self._timer, self._slow):
            if timer is not None:
                timer.cancel()
        self._timer = self._slow = None
        if not self.left.done():  # it is cancelled with who waited for it
            self.left.set_result(None)
