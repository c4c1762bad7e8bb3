"""Credentials: what a client shows of who it is: a token, one after the other where they end, and a signer of challenges."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from websockets.typing import Subprotocol

from cachesvc.client.connection import checked_token
from cachesvc.client.signing import Signer
from cachesvc.protocol.challenge import NODE_PROTOCOL, Challenge

Token = str | Callable[[], Awaitable[str]]

VERSION: Final = Subprotocol("v1")
_log = logging.getLogger(__name__)


class NoToken(Exception):
    """None was given."""


class Credentials:
    """Of one client. Raises `InvalidInput` for a token that cannot be one."""

    def __init__(self, token: Token | None, signer: Signer | None) -> None:
        self._token = checked_token(token) if isinstance(token, str) else token
        self.signer = signer

    @property
    def protocols(self) -> Sequence[Subprotocol]:
        """Who signs, and has no token, asks to be challenged."""
        return (VERSION, Subprotocol(NODE_PROTOCOL)) if self._token is None and self.signer is not None else (VERSION,)

    @property
    def renews(self) -> bool:
        """Whether there is another token when one ends."""
        return not (self._token is None or isinstance(self._token, str))

    async def headers(self) -> Mapping[str, str]:
        """Of the handshake. Raises `NoToken`."""
        return {} if self._token is None else {"Authorization": f"Bearer {await self.token()}"}

    async def token(self) -> str:
        """The token, or the next one. Raises `NoToken`."""
        if self._token is None or isinstance(self._token, str):
            return self._token or ""
        try:
            return checked_token(await self._token())
        except Exception as exc:
            _log.warning("no token is given: %r", exc)
            raise NoToken(f"no token was given: {exc!r}") from exc

    async def sign(self, signer: Signer, challenge: Challenge) -> str | None:
        """None where it cannot be signed now."""
        try:
            return await signer.sign(challenge)
        except Exception as exc:  # noqa: BLE001 - whatever a user's code raises
            _log.warning("the challenge of the service was not signed: %r", exc)
            return None
