"""Session: the client's side of the protocol, sans-IO: frames in, effects out, time from a clock.

The rule that must not break: no command is carried out twice, and each is answered once, whatever becomes of the connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum, auto
from random import Random
from typing import Any, Final

import orjson
from pydantic import ValidationError

from cachesvc.client.commands import Answer, Command, Members
from cachesvc.client.effects import Answered, Dial, Effect, Hang, Progressed, Prove, Renew, Send
from cachesvc.client.errors import ClientError, Ended, NotTheService, Unreachable
from cachesvc.client.feed import Feed
from cachesvc.client.following import Following
from cachesvc.client.options import SessionOptions
from cachesvc.client.pace import Pace
from cachesvc.client.pending import Asked, Pending, batch
from cachesvc.client.told import unpacked
from cachesvc.errors import InvalidInput
from cachesvc.ports import Clock
from cachesvc.protocol.challenge import Challenge
from cachesvc.protocol.codes import CloseCode, Code
from cachesvc.protocol.exact import read_message
from cachesvc.protocol.messages import AuthChallengePayload, EstablishedPayload, RateLimitPayload

_HOPELESS: Final = frozenset({400, 401, 403, 404})  # statuses of a handshake that another attempt would meet again
_JOB_ENDED: Final = frozenset({"done", "failed", "cancelled"})
_ROOM: Final = 1_000  # bytes that a batch has around its messages


class State(Enum):
    """Of the connection."""

    WAITING = auto()  # to make one
    DIALLING = auto()
    GREETING = auto()  # waiting for the first message
    OPEN = auto()
    LEAVING = auto()  # it is to be cut
    OVER = auto()  # and none is made any more


class Session:
    """What a client asks for and follows, over one connection after the other. `effects` are to be carried out, in order."""

    def __init__(self, options: SessionOptions, clock: Clock, random: Random) -> None:
        self.state = State.WAITING
        self.effects: deque[Effect] = deque()
        self.error: Ended | None = None  # why it is over
        self._options = options
        self._clock = clock
        self._random = random
        self._pending = Pending(options.max_pending, random)
        self._feed = Feed(options, clock, self.effects, self._send, self._hang)
        self._greeting: EstablishedPayload | None = None
        self._numbers = 0
        self._until = self._since = clock.monotonic()  # of the state that it is in
        self._attempts = 0
        self._pace = Pace()
        self._challenge: Challenge | None = None  # that is to be signed
        self._hint: float | None = None  # seconds, after which the service asked to come back
        self._away = 0.0  # seconds, for which it does not want to be asked

    # what the client wants

    def ask(self, commands: Sequence[Command[Any]], timeout: float) -> list[int]:
        """Send commands, several in one frame, now or when there is a connection; the numbers of their answers.

        Raises `QueueFull` and `Ended`.
        """
        self._check()
        self._pending.check(len(commands))
        made = [Asked(self._next(), command, self._clock.monotonic() + timeout) for command in commands]
        for asked in made:
            self._pending.add(asked)
        self._flush()
        return [asked.number for asked in made]

    def forget(self, number: int) -> None:
        """Nobody waits for the answer of a command any more. It may be carried out all the same."""
        asked = self._pending.find(f"c-{number}")
        if asked is not None:
            self._pending.remove(asked)

    def subscribe(self, payload: Mapping[str, object], resources: Sequence[str]) -> int:
        """Follow resources; the number of the subscription. Raises `InvalidInput` and `Ended`."""
        self._check()
        following = Following(self._next(), payload, resources)
        self._feed.follow(following)
        return following.number

    def unsubscribe(self, number: int) -> None:
        """Follow no longer."""
        self._feed.unfollow(number)

    def renew(self, token: str) -> None:
        """Another token, after `Renew`."""
        if self._greeting is not None:
            frame = {"type": "auth", "token": token, "userId": self._greeting.user_id, "timestamp": self.moment()}
            self.effects.append(Send(orjson.dumps(frame).decode()))

    def prove(self, challenge: Challenge, subject: str, signature: str | None) -> None:
        """The challenge is signed, after `Prove`; None: it could not be, and there is another attempt."""
        if challenge != self._challenge:
            return
        self._challenge = None
        if signature is None:
            self._hang(0.0)
        else:
            frame = {"type": "auth", "userId": subject, "signature": signature, "timestamp": self.moment()}
            self.effects.append(Send(orjson.dumps(frame).decode()))

    def cannot_prove(self) -> None:
        """There is nobody who could sign."""
        error = Ended("the service asks for a proof (auth:challenge), and no signer was given")
        self._over(error, error)

    def close(self) -> None:
        """The client has had enough."""
        self._over(Ended("the client was closed"), None)

    # what becomes of the connection

    def opened(self) -> None:
        """The connection stands."""
        if self.state is State.DIALLING:
            self._enter(State.GREETING, self._options.greeting_timeout)

    def failed(self, reason: str, status: int | None = None, retry_after: float | None = None) -> None:
        """There is no connection. `status`: what the handshake was answered with, `retry_after`: seconds that it asked for."""
        if self.state is State.OVER:
            return
        self._enter(State.WAITING, 0.0)
        if status in _HOPELESS:
            error = Ended(f"the service refuses the connection: {reason}", code=status)
            self._over(error, error)
        else:
            self._wait(self._jitter() + (retry_after or 0.0))

    def lost(self, code: int | None, reason: str) -> None:
        """The connection is gone. `code`: by which it was closed."""
        was, self._greeting = self._greeting, None
        self._challenge = None
        self._feed.leave()
        if self.state is State.OVER:
            return
        if was is not None and self._clock.monotonic() - self._since >= self._options.stable:
            self._attempts = 0
        self._enter(State.WAITING, 0.0)
        for asked in self._pending.lost():
            self.effects.append(Answered(asked.number, Unreachable("the connection was lost; what had begun goes on")))
        if code is not None and (code >= CloseCode.BAD_TOKEN or code == CloseCode.TOO_BIG):
            error = Ended(f"the service closed the connection for good: {reason or 'no reason given'} ({code})", code=code)
            self._over(error, error)
            return
        (hint, self._hint), (away, self._away) = (self._hint, None), (self._away, 0.0)
        self._wait((self._jitter() if hint is None else hint) + away)

    @property
    def due(self) -> float | None:
        """When `tick` has something to do, by the monotonic clock."""
        times = [self._pending.due(self._pace.free_at if self.state is State.OPEN else None), self._answer_due]
        if self.state in (State.WAITING, State.GREETING):
            times.append(self._until)
        return min((time for time in times if time is not None), default=None)

    def tick(self) -> None:
        """Do what is due."""
        now = self._clock.monotonic()
        for asked, error in self._pending.overdue(now):
            self.effects.append(Answered(asked.number, error))
        answer_due = self._answer_due
        if self.state is State.WAITING and self._until <= now:
            self._enter(State.DIALLING, 0.0)
            self.effects.append(Dial())
        elif (self.state is State.GREETING and self._until <= now) or (answer_due is not None and answer_due <= now):
            self._hang(0.0)
        else:
            self._flush()

    def received(self, text: str) -> None:
        """A frame came. One that cannot be read ends everything: it is not of this service."""
        if self.state not in (State.GREETING, State.OPEN):
            return
        try:
            self._take(read_message(text), text)
        except (InvalidInput, ValidationError, LookupError, TypeError, AttributeError) as exc:
            detail = f"what came is no message of this service: {exc!r}"
            self._over(Ended(detail), NotTheService(detail))

    # what came

    def _take(self, members: Members, text: str) -> None:
        kind, answers = members["type"], members.get("correlationId")
        if kind == "connection:established":
            self._establish(EstablishedPayload.model_validate(members["payload"]))
        elif answers is not None:
            answer = Answer(members, text)
            if not self._feed.answered(answers, answer):
                self._answered(answers, answer)
        elif "seq" in members:
            self._feed.pushed(members)
        elif kind == "batch:update":
            for update in unpacked(members["payload"]):
                self._feed.pushed(update)
        elif kind == "connection:status":
            self._hint = members["payload"]["nextReconnectIn"] / 1000
        elif kind == "auth:challenge" and self._greeting is not None:
            self.effects.append(Renew())
        elif kind == "auth:challenge":
            asked = AuthChallengePayload.model_validate(members["payload"])
            self._challenge = Challenge(asked.nonce, asked.connection_id, asked.timestamp)
            self.effects.append(Prove(self._challenge))
        elif kind == "rate-limit":
            self._pace.told(RateLimitPayload.model_validate(members["payload"]), members["timestamp"], self._clock.monotonic())

    def _establish(self, greeting: EstablishedPayload) -> None:
        self._greeting = greeting
        self._pace = Pace()
        self._enter(State.OPEN, 0.0)
        self._feed.begin(greeting)
        self._flush()

    def _answered(self, name: str, answer: Answer) -> None:
        asked = self._pending.find(name)
        if asked is None:
            return  # its time was up
        kind, payload = answer.members["type"], answer.payload
        if kind == "error":
            error = self._pending.refuse(asked, payload, self._clock.monotonic())
            if error is not None:
                self.effects.append(Answered(asked.number, error))
            elif payload["code"] == Code.TOO_MANY_REQUESTS and asked.due is not None:
                self._pace.hold(asked.due)
        elif not asked.command.progress:
            self._pending.remove(asked)
            self.effects.append(Answered(asked.number, _outcome(asked.command, answer)))
        elif kind == asked.command.progress and payload["status"] in _JOB_ENDED:
            self._pending.remove(asked)
            self.effects.append(Answered(asked.number, payload))
        else:
            self._pending.extend(asked, max(asked.deadline, self._clock.monotonic() + self._options.answer_timeout))
            self.effects.append(Progressed(asked.number, payload))

    @property
    def _answer_due(self) -> float | None:
        """When what the feed asked should have been answered."""
        return self._feed.due if self.state is State.OPEN else None

    # states

    def _jitter(self) -> float:
        """Seconds to wait, at random up to a time that doubles from one attempt to the next (full jitter)."""
        options = self._options
        return self._random.uniform(0.0, min(options.longest_pause, options.first_pause * 2 ** min(self._attempts, 30)))

    def _wait(self, seconds: float) -> None:
        self._attempts += 1
        self._enter(State.WAITING, seconds)

    def _hang(self, away: float) -> None:
        self._away = away
        self._enter(State.LEAVING, 0.0)
        self.effects.append(Hang())

    def _over(self, error: Ended, reason: ClientError | None) -> None:
        if self.state is State.OVER:
            return
        self.error = error
        if self.state is not State.WAITING:
            self.effects.append(Hang())
        self._enter(State.OVER, 0.0)
        self._greeting = None
        for asked in self._pending.clear():
            self.effects.append(Answered(asked.number, error))
        self._feed.stop(reason)

    def _enter(self, state: State, seconds: float) -> None:
        self.state = state
        self._since = self._clock.monotonic()
        self._until = self._since + seconds

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers

    # sending

    def _flush(self) -> None:
        """Send the commands that are due, as few frames as may be."""
        if self.state is not State.OPEN or self._greeting is None:
            return
        limits, timestamp, now = self._greeting.limits, self.moment(), self._clock.monotonic()
        together: list[bytes] = []
        size = 0
        taken = self._pending.take(now, self._pace.allows(now))
        self._pace.spend(len(taken))
        for asked in taken:
            frame = orjson.dumps(asked.members(timestamp))
            if len(frame) > limits.max_frame_size:
                self._pending.remove(asked)
                error = InvalidInput("value", f"makes a message over {limits.max_frame_size} bytes", too_large=True)
                self.effects.append(Answered(asked.number, error))
                continue
            if len(together) == limits.max_batch or size + len(frame) > limits.max_frame_size - _ROOM:
                self._send_all(together, timestamp)
                together, size = [], 0
            together.append(frame)
            size += len(frame) + 1
        self._send_all(together, timestamp)

    def _send_all(self, frames: list[bytes], timestamp: str) -> None:
        if len(frames) == 1:
            self.effects.append(Send(frames[0].decode()))
        elif frames:
            self.effects.append(Send(batch(frames, f"b-{self._next()}", timestamp).decode()))

    def _send(self, kind: str, payload: Mapping[str, object]) -> str:
        """Send a request of its own; its name."""
        name = f"s-{self._next()}"
        frame = {"type": kind, "payload": payload, "timestamp": self.moment(), "requestId": name}
        self.effects.append(Send(orjson.dumps(frame).decode()))
        return name

    def moment(self) -> str:
        """Now, as frames have it."""
        return datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _outcome(command: Command[Any], answer: Answer) -> object:
    try:
        return command.read(answer)
    except (InvalidInput, ValidationError, LookupError, TypeError, ValueError) as exc:
        return NotTheService(f"an answer to {command.kind} that no cachesvc gives: {exc!r}")
