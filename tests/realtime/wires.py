"""A client's session and a node's, joined by a wire that a test moves frames along, and cuts."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any, Final

import orjson

from cachesvc.client.effects import Dial, Effect, Hang, Send
from cachesvc.client.options import SessionOptions
from cachesvc.client.session import Session
from cachesvc.realtime.session import Request
from tests.fakes import FakeClock
from tests.realtime.nodes import Node, ended
from tests.realtime.sessions import Said

# time goes by in leaps here
PATIENT: Final = SessionOptions(first_pause=0.0, longest_pause=0.0, answer_timeout=1e9, greeting_timeout=1e9)


class Wire:
    """A client that can be connected to one node after the other. `tell` is given the effects that are not for the wire."""

    def __init__(
        self, clock: FakeClock, tell: Callable[[Effect], None], options: SessionOptions = PATIENT, **limits: Any
    ) -> None:
        self.clock = clock
        self.client = Session(PATIENT, clock, Random(0))
        self.node: Node | None = None
        self.said: Said | None = None
        self.sessions = 0
        self._tell = tell
        self._limits = limits
        self._dialled = False
        self._there: deque[str] = deque()  # on the way to the node
        self._back: deque[bytes] = deque()
        self._recoveries: list[tuple[Request, AsyncIterator[dict[str, object]]]] = []

    def settle(self) -> None:
        """Do what the client wants."""
        self.client.tick()
        while self.client.effects:
            effect = self.client.effects.popleft()
            if isinstance(effect, Dial):
                self._dialled = True
            elif isinstance(effect, Send):
                self._there.append(effect.frame)
            elif isinstance(effect, Hang):
                self.cut()
            else:
                self._tell(effect)

    def connect(self, node: Node) -> None:
        """The client gets through to a node, if it wants to."""
        self.settle()
        if not self._dialled:
            return
        self._dialled = False
        self.sessions += 1
        self.node = node
        self.said = Said(hub=node.hub, clock=self.clock, name=f"s-{self.sessions}", **self._limits)
        self._there.clear()
        self.client.opened()
        self.said.session.open()

    def cut(self, code: int | None = None) -> None:
        """The connection is gone, and with it what is on its way."""
        if self.said is None or self.node is None:
            return
        ended(self.node, self.said)
        self.said = self.node = None
        self._there.clear()
        self._back.clear()
        self._recoveries.clear()
        self.client.lost(code, "cut")
        self.settle()

    def ask(self) -> bool:
        """A frame of the client reaches the node."""
        self.settle()
        if self.said is None or self.node is None or not self._there:
            return False
        for request in self.said.session.receive(self._there.popleft()):
            assert request.type == "recovery:request"
            session, asked = self.said.session, request.frame.payload  # type: ignore[attr-defined]
            going = self.node.recovery.recover(session.stream, session.names.session, asked)
            self._recoveries.append((request, going))
        return True

    async def recover(self) -> bool:
        """The node goes on with a recovery."""
        if self.said is None or not self._recoveries:
            return False
        request, going = self._recoveries[0]
        try:
            self.said.session.answer(request.frame, "recovery:response", await anext(going))
        except StopAsyncIteration:
            self._recoveries.pop(0)
        return True

    def send(self) -> bool:
        """The node puts a frame on the wire, or closes."""
        if self.said is None:
            return False
        frame = self.said.session.next_frame()
        if frame is not None:
            self._back.append(frame)
            return True
        if self.said.session.closing is not None and not self._back:
            self.cut(self.said.session.closing.code)
            return True
        return False

    def hear(self) -> bool:
        """A frame reaches the client."""
        if not self._back:
            return False
        frame = self._back.popleft()
        assert orjson.loads(frame)["type"] != "error", frame
        self.client.received(frame.decode())
        self.settle()
        return True

    async def rest(self) -> None:
        """Move everything until nothing moves."""
        moved = True
        while moved:
            moved = self.ask() | await self.recover() | self.send() | self.hear()
