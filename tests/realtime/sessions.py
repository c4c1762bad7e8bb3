"""A session and what it says, without a socket."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.realtime.authentication import NO_PROOFS, Names, Proofs
from cachesvc.realtime.hub import Hub
from cachesvc.realtime.identity import ANONYMOUS, Doorman, Identity, OpenDoor
from cachesvc.realtime.session import Request, Session
from cachesvc.realtime.session_limits import SessionLimits
from tests.fakes import FakeClock
from tests.wire import golden_frames

NOW = 1_705_314_600.0  # 2024-01-15T10:30:00Z
LIMITS = SessionLimits()


def one(requests: list[Request]) -> Request | None:
    """The only request, if there is one."""
    assert len(requests) <= 1
    return requests[0] if requests else None


class Said:
    """A session under test; `frames` are those it has said and nobody has looked at."""

    def __init__(
        self,
        *,
        identity: Identity | None = ANONYMOUS,
        doorman: Doorman | None = None,
        hub: Hub | None = None,
        clock: FakeClock | None = None,
        name: str = "s-1",
        proofs: Proofs = NO_PROOFS,
        node: bool = False,
        **limits: Any,
    ) -> None:
        self.clock = clock or FakeClock(NOW)
        self.hub = hub or Hub(Position(Epoch(7), Seq(1000)))
        self.woken = 0
        self.session = Session(
            Names("c-1", name, "c-1"),
            replace(LIMITS, **limits),
            self.clock,
            doorman or OpenDoor(),
            self.hub,
            identity,
            self._wake,
            proofs,
            node,
        )

    def _wake(self) -> None:
        self.woken += 1

    def send(self, kind: str, payload: object = None, **more: object) -> Request | None:
        members = {"type": kind, **more} | ({} if payload is None else {"payload": payload})
        return one(self.session.receive(orjson.dumps(members).decode()))

    def golden(self, kind: str, **more: object) -> Request | None:
        """Send the golden frame of a type."""
        return one(self.session.receive(orjson.dumps(golden_frames.read(kind, "client") | more).decode()))

    def raw(self) -> list[bytes]:
        frames = []
        while (frame := self.session.next_frame()) is not None:
            frames.append(frame)
        return frames

    def frames(self) -> list[dict[str, Any]]:
        return [orjson.loads(frame) for frame in self.raw()]

    def frame(self) -> dict[str, Any]:
        (frame,) = self.frames()
        return frame

    def error(self) -> tuple[str, str | None, str | None]:
        """The code, field and correlationId of the error that is all it said."""
        frame = self.frame()
        assert frame["type"] == "error", frame
        return frame["payload"]["code"], frame["payload"].get("details", {}).get("field"), frame.get("correlationId")
