"""Handshakes: which requests ask to become a WebSocket, and what is wrong with one that does (RFC 6455, 4.2.1).

The rule that must not break: each is answered. The WebSocket library reads heads by limits and rules of its own, and says
nothing of what fails them; so it is shown one that none of them is about, and all is judged here.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from httptools import HttpParserInvalidURLError, parse_url

from cachesvc.protocol.codes import Code
from cachesvc.web.heads import length_of
from cachesvc.web.problems import Problem

Headers = Sequence[tuple[bytes, bytes]]  # names in small letters

_VERSION: Final = b"13"
_ONCE: Final = (b"sec-websocket-key", b"sec-websocket-version", b"origin")
_NAMES: Final = {
    b"origin": "Origin",
    b"sec-websocket-key": "Sec-WebSocket-Key",
    b"sec-websocket-version": "Sec-WebSocket-Version",
}
_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]*")  # RFC 9110, 5.6.2; an empty member of a list is none
_SHOWN: Final = (
    b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
)


def asked(method: bytes, version: str, headers: Headers) -> bool:
    """Whether a request asks to become a WebSocket. Others are requests of HTTP, and answered as such (RFC 9110, 7.8)."""
    wanted = _listed(headers, b"upgrade")
    return (
        method == b"GET"
        and version == "1.1"
        and [name.lower() for name in wanted] == ["websocket"]
        and "upgrade" in (name.lower() for name in _listed(headers, b"connection"))
        and length_of(headers) == 0
    )


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a client sent to become a WebSocket."""

    target: bytes
    headers: Headers

    @classmethod
    def read(cls, head: bytes) -> Self:
        """From a head as it was put together again of what was parsed: whole, and without anything odd."""
        line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        pairs = (line.partition(b":") for line in lines)
        return cls(line.split(b" ")[1], [(name.lower(), value.strip()) for name, _, value in pairs])

    @property
    def place(self) -> tuple[bytes, bytes]:
        """The path and the query of the target, which may name a host, too (RFC 9112, 3.2.2)."""
        url = parse_url(self.target)
        return url.path or b"/", url.query or b""

    @property
    def subprotocols(self) -> list[str]:
        return _listed(self.headers, b"sec-websocket-protocol")

    @property
    def shown(self) -> bytes:
        """A head with the same key, and nothing that the library would not take."""
        return _SHOWN % self._given(b"sec-websocket-key")[0]

    def fault(self) -> Problem | None:
        """What is wrong with it."""
        try:
            parse_url(self.target)
        except HttpParserInvalidURLError:
            return Problem(400, Code.BAD_MESSAGE, "the target is none of HTTP")
        for name in _ONCE:
            if len(self._given(name)) > 1:
                return Problem(400, Code.BAD_MESSAGE, "is given more than once", _NAMES[name])
        if self._given(b"sec-websocket-version") != [_VERSION]:
            told = {"Sec-WebSocket-Version": _VERSION.decode()}
            return Problem(426, Code.BAD_MESSAGE, "must be 13", "Sec-WebSocket-Version", headers=told)
        if not any(_is_key(key) for key in self._given(b"sec-websocket-key")):
            return Problem(400, Code.BAD_MESSAGE, "must be 16 bytes in base64", "Sec-WebSocket-Key")
        if not all(_TOKEN.fullmatch(name) for name in self.subprotocols):
            return Problem(400, Code.BAD_MESSAGE, "must be names with commas between them", "Sec-WebSocket-Protocol")
        return None

    def _given(self, name: bytes) -> list[bytes]:
        return [value for other, value in self.headers if other == name]


def _is_key(key: bytes) -> bool:
    try:
        return len(b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False


def _listed(headers: Headers, name: bytes) -> list[str]:
    """The members of a list, which several headers of that name make up."""
    values = [value.decode("latin-1") for other, value in headers if other == name]
    return [member.strip() for value in values for member in value.split(",")]
