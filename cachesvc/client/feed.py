"""Feed: what a client follows, over one connection after the other.

The rule that must not break: from the acknowledgement of a subscription on, each change of it is told once, in order for each
key, or `Missed` is told in its place. What is told live while a recovery goes on is held back until that has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSequence
from typing import Final, NamedTuple

from cachesvc.client.commands import Answer, Members, refused
from cachesvc.client.effects import Effect, Opened, Stopped, Told
from cachesvc.client.errors import ClientError
from cachesvc.client.following import Following
from cachesvc.client.numbers import Numbers
from cachesvc.client.options import SessionOptions
from cachesvc.client.told import Missed, event_of
from cachesvc.errors import InvalidInput
from cachesvc.ports import Clock
from cachesvc.protocol.messages import EstablishedPayload

_NOWHERE: Final = "-"  # as a session that nobody knows: what was missed is read from the log


class Place(NamedTuple):
    """Up to where nothing was missed: the session that was lost with the number of its last message, and a position."""

    session: str
    last: int
    epoch: int
    position: int


class Line:
    """What is known of one connection."""

    def __init__(self, greeting: EstablishedPayload, *, recovering: bool) -> None:
        self.session = greeting.session_id
        self.epoch = greeting.epoch
        self.numbers = Numbers()
        self.recovering = recovering
        self.held: list[Members] = []
        self.subscribing: set[str] = set()  # requests that are acknowledged before a recovery is asked for
        self.expected: dict[str, tuple[Following | None, float]] = {}  # requests for a subscription, or a recovery: until when
        self.holes: list[tuple[int, int]] = []  # numbers of this connection that are recovered

    @property
    def place(self) -> Place:
        return Place(self.session, self.numbers.whole, self.epoch, self.numbers.position)


class Feed:
    """Sends its requests by `send`, which names them, and gives a connection up by `hang`."""

    def __init__(
        self,
        options: SessionOptions,
        clock: Clock,
        effects: MutableSequence[Effect],
        send: Callable[[str, Mapping[str, object]], str],
        hang: Callable[[float], None],
    ) -> None:
        self._options = options
        self._clock = clock
        self._effects = effects
        self._send = send
        self._hang = hang
        self._followings: dict[int, Following] = {}
        self._place: Place | None = None
        self._line: Line | None = None

    # what is followed

    def follow(self, following: Following) -> None:
        """Raises `InvalidInput` where another follows one of its resources: the service keeps one subscription of each."""
        taken = {name for other in self._followings.values() for name in other.names}
        twice = taken.intersection(following.names)
        if twice:
            raise InvalidInput("resources", f"{min(twice)} is followed by another subscription of this client already")
        self._followings[following.number] = following
        if self._line is not None:
            self._subscribe(self._line, following)

    def unfollow(self, number: int) -> None:
        following = self._followings.pop(number, None)
        if following is None:
            return
        self._effects.append(Stopped(number, None))
        if self._line is not None:  # commands take effect in order: whoever follows the same afterwards is not touched
            self._send("unsubscribe", {"resources": following.names})

    def stop(self, error: ClientError | None) -> None:
        """Everything ends."""
        self._line = None
        self._effects.extend(Stopped(number, error) for number in self._followings)
        self._followings.clear()

    # connections

    def begin(self, greeting: EstablishedPayload) -> None:
        """There is a connection: subscribe to everything on it."""
        if not self._opened():
            self._place = None
        line = self._line = Line(greeting, recovering=self._place is not None)
        for following in self._followings.values():
            name = self._subscribe(line, following)
            if line.recovering:
                line.subscribing.add(name)

    def leave(self) -> None:
        """The connection is gone: remember up to where nothing was missed."""
        line, self._line = self._line, None
        if line is None:
            return
        if not line.recovering:
            self._place = line.place
        elif self._place is not None and not line.holes:
            # the session of an earlier connection does not know who was first followed on this one
            first = any(following.floor == following.began for following in self._opened())
            self._place = self._place._replace(session=_NOWHERE) if first else self._place

    @property
    def due(self) -> float | None:
        """When an answer should have come."""
        if self._line is None:
            return None
        return min((until for _, until in self._line.expected.values()), default=None)

    def answered(self, name: str, answer: Answer) -> bool:
        """Whether an answer was to a request of its own."""
        line = self._line
        if line is None or name not in line.expected:
            return False
        following, _ = line.expected[name]
        if following is None:
            self._recovered(line, name, answer)
        else:
            del line.expected[name]
            self._subscribed(line, name, following, answer)
        return True

    def pushed(self, members: Members) -> None:
        """A numbered message came."""
        line = self._line
        if line is None:
            return
        line.numbers.note(members["seq"], members.get("position", 0))
        if not line.recovering and line.numbers.whole < members["seq"]:
            self._place = line.place
            line.recovering, line.holes = True, line.numbers.holes()
            self._recover(line, line.place._replace(last=line.numbers.top))
        if not line.recovering:
            self._tell(members)
            self._complete(line)
            return
        line.held.append(members)
        if len(line.held) > self._options.max_held:
            self._give_up(f"more than {self._options.max_held} messages came while what was missed was recovered")

    # subscriptions

    def _opened(self) -> list[Following]:
        return [following for following in self._followings.values() if following.opened]

    def _subscribe(self, line: Line, following: Following) -> str:
        return self._request(line, "subscribe", following.payload, following)

    def _request(self, line: Line, kind: str, payload: Mapping[str, object], following: Following | None) -> str:
        name = self._send(kind, payload)
        line.expected[name] = following, self._clock.monotonic() + self._options.answer_timeout
        return name

    def _subscribed(self, line: Line, name: str, following: Following, answer: Answer) -> None:
        payload = answer.payload
        if answer.members["type"] == "error":
            if payload["recoverable"]:
                self._hang(payload.get("retryAfter") or 0.0)
                return
            self._followings.pop(following.number, None)
            self._effects.append(Stopped(following.number, refused(payload, None)))
        elif following.number in self._followings:
            following.acknowledged(payload["resources"], answer.members["position"])
            self._effects.append(Opened(following.number))
            if following.missed is not None:
                self._effects.append(Told(following.number, Missed(following.missed)))
                following.missed = None
        if name in line.subscribing:  # who is followed later has missed nothing
            line.subscribing.discard(name)
            if not line.subscribing and self._place is not None:
                self._recover(line, self._place)

    def _tell(self, members: Members) -> None:
        version = members.get("version")
        opened = self._opened()
        covering = [following for following in opened if following.covers(members)]
        if not covering and "key" not in members["payload"] and members["type"] != "cache:invalidate":
            covering = opened  # whose it is cannot be told
        payload = members["payload"]
        keys = [payload["key"]] if "key" in payload else []  # what names none, or several, stands for itself
        fresh = [following for following in covering if version is None or following.accept(version, keys)]
        if fresh:
            event = event_of(members)
            self._effects.extend(Told(following.number, event) for following in fresh)
        if any(len(following) > self._options.max_seen for following in fresh):
            self._give_up(f"more than {self._options.max_seen} messages came past the last position")

    def _complete(self, line: Line) -> None:
        """What was to be told is told up to the position of the line."""
        for following in self._opened():
            following.complete(line.numbers.position)

    # recovery

    def _recover(self, line: Line, place: Place) -> None:
        position = min((following.floor for following in self._opened()), default=place.position)
        payload = {
            "sessionId": place.session,
            "lastSequenceNumber": place.last,
            "missingRanges": [{"start": start, "end": end} for start, end in line.holes],
            "epoch": place.epoch,
            "position": position,
        }
        self._request(line, "recovery:request", payload, None)

    def _recovered(self, line: Line, name: str, answer: Answer) -> None:
        payload = answer.payload
        refusal = payload if answer.members["type"] == "error" else payload.get("error")
        if refusal is not None:
            del line.expected[name]
            if answer.members["type"] == "error" and refusal["recoverable"]:
                self._hang(refusal.get("retryAfter") or 0.0)  # and try on another connection
                return
            for following in self._opened():
                following.start_over()
                self._effects.append(Told(following.number, Missed(refusal["message"])))
            self._resume(line)
            return
        line.expected[name] = None, self._clock.monotonic() + self._options.answer_timeout
        own = payload.get("sessionId") == line.session
        for members in payload["data"]:
            if own:
                line.numbers.note(members["seq"], members.get("position", 0))
            self._tell(members)
        if payload["isComplete"] and self._line is line:
            del line.expected[name]
            self._resume(line)

    def _resume(self, line: Line) -> None:
        """What was missed was told, or is known to be missed: what was held back comes now."""
        line.numbers.forgive(line.holes)
        line.recovering, line.holes = False, []
        held, line.held = line.held, []
        for members in sorted(held, key=lambda members: members.get("version", 0)):
            self._tell(members)
        self._complete(line)

    def _give_up(self, reason: str) -> None:
        """Begin anew on another connection, and say so when that is live."""
        for following in self._opened():
            following.opened, following.missed = False, reason
            following.start_over()
        self._line = None
        self._hang(0.0)
