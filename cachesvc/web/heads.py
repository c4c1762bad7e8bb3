"""Heads: what is refused of the head of a request though the parser lets it pass (RFC 9112).

The rule that must not break: what has two readings is refused, since who is in front of this service may have read it the other
way. httptools itself refuses bare CRs and LFs, folded headers, spaces before colons, lengths that are given twice or together
with chunks, and chunks that are not as they say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from cachesvc.protocol.codes import Code
from cachesvc.web.problems import Problem

HOST: Final = re.compile(  # RFC 3986, 3.2.2, with a port; a user is none of it
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
)
_LINE: Final = re.compile(rb"(?:\r\n)*[A-Z-]+ [\x21-\x22\x24-\x7e]+ HTTP/1\.[01]\r\n")  # no fragment
_SPOKEN: Final = frozenset(("1.0", "1.1"))


def fault(  # noqa: PLR0911 - one return a fault
    head: bytes | bytearray, version: str, headers: Iterable[tuple[bytes, bytes]]
) -> Problem | None:
    """What is wrong with a head, in which the parser found this version, and these headers by names in small letters."""
    hosts = [value for name, value in headers if name == b"host"]
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if version not in _SPOKEN:
        return Problem(505, Code.BAD_MESSAGE, "HTTP/1.1 is spoken here")
    if not _LINE.match(head):
        return Problem(
            400,
            Code.BAD_MESSAGE,
            "the first line must have a method, a target without a fragment and HTTP/1.1, and one space between two",
        )
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        return Problem(400, Code.BAD_MESSAGE, "must be given, once", "Host")
    if hosts and not HOST.fullmatch(hosts[0].strip()):
        return Problem(400, Code.BAD_MESSAGE, "must be a host, and may have a port", "Host")
    if codings and version == "1.0":
        return Problem(400, Code.BAD_MESSAGE, "is not known to HTTP/1.0", "Transfer-Encoding")
    if codings not in ([], [b"chunked"]):
        return Problem(501, Code.BAD_MESSAGE, "must be chunked, without another coding", "Transfer-Encoding")
    return None


def length_of(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """Of the body, in bytes, as said by headers that were let pass; None for one in chunks."""
    length = 0
    for name, value in headers:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            return None
    return length
