"""Leaving: the connections of a node that is to end. The next answer of each is its last, and says so.

HTTP/1.1 lets either side close an idle connection at any time, and a request that crosses that is lost (RFC 9112, 9.5). So
one that is idle is let be for `PATIENCE`: a client that goes on asking is told in time, and only who says nothing is cut off.
"""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cachesvc.web.protocol import LimitedProtocol

PATIENCE: Final = 0.5  # seconds


class LeavingProtocol(LimitedProtocol):
    """A connection that can be asked to leave."""

    def leave(self) -> None:
        """From now on all takes the plain route, which says that an answer is the last."""
        self.last = True
        if self._busy():
            self.shutdown()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.last and not self._shedding:
            self.cycle.keep_alive = False


def leaving(protocol: type[HttpToolsProtocol]) -> type[HttpToolsProtocol]:
    """The protocol `protocol`, which can be asked to leave; one that is uvicorn's own stays as it is."""
    if not issubclass(protocol, LimitedProtocol):
        return protocol
    return type(protocol.__name__, (LeavingProtocol, protocol), {})
