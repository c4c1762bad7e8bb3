"""Phrases: what a status is called (RFC 9110, 15), whatever the version of Python calls it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

# http.HTTPStatus has the older names of these in some versions
PHRASES: Final[dict[int, str]] = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
STATUS_LINES: Final[dict[int, bytes]] = {
    status: b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode()) for status, phrase in PHRASES.items()
}
