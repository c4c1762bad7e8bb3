"""Effects: what a session wants to be done, by whoever has a socket, and what it has to tell."""

from __future__ import annotations

from typing import NamedTuple

from cachesvc.client.commands import Members
from cachesvc.client.errors import ClientError
from cachesvc.client.told import Event
from cachesvc.protocol.challenge import Challenge


class Dial(NamedTuple):
    """Connect; say `opened`, or `failed`."""


class Send(NamedTuple):
    """Send a text."""

    frame: str


class Hang(NamedTuple):
    """Cut the connection, or the attempt to make one; say `lost`."""


class Renew(NamedTuple):
    """Another token is asked for; say it by `renew`, if there is one."""


class Prove(NamedTuple):
    """The service asks for a proof before it believes who this is; say it by `prove`, or `cannot_prove`."""

    challenge: Challenge


class Answered(NamedTuple):
    """A command has come to its end."""

    number: int
    outcome: object  # a `CacheError` where it failed


class Progressed(NamedTuple):
    """A command goes on."""

    number: int
    payload: Members


class Opened(NamedTuple):
    """A subscription is live."""

    number: int


class Told(NamedTuple):
    """A subscription is told something."""

    number: int
    event: Event


class Stopped(NamedTuple):
    """A subscription has ended: as the client wanted (no error), or for a reason."""

    number: int
    error: ClientError | None


Effect = Dial | Send | Hang | Renew | Prove | Answered | Progressed | Opened | Told | Stopped
