"""Who lets callers in, as the settings say."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final

import httpx

from cachesvc.errors import SettingsError, Unavailable
from cachesvc.model.revocation import Revocations
from cachesvc.node.bodies import body_of
from cachesvc.ports import Clock
from cachesvc.realtime.identity import Doorman, OpenDoor
from cachesvc.settings import Auth

_MOST: Final = 1 << 20  # bytes of a document of keys
_WITHIN: Final = 5.0  # seconds


def doorman_of(auth: Auth, clock: Clock, revocations: Revocations) -> tuple[Doorman, list[Coroutine[Any, Any, None]]]:
    """The doorman, and what must run in the background for him. Raises `SettingsError`."""
    if auth.mode == "none":
        return OpenDoor(), []
    from cachesvc.web.tokens import Tokens, follow_keys, own_keys  # noqa: PLC0415 - its library is not small

    pems = []
    for path in auth.public_keys:
        try:
            pems.append((str(path), path.read_bytes()))
        except OSError as exc:
            raise SettingsError("auth.public_keys", str(path), f"cannot be read: {exc.strerror}") from exc
    keys = own_keys(auth.algorithms, auth.secrets, pems)
    tokens = Tokens(
        keys,
        issuer=auth.issuer,
        audience=auth.audience,
        leeway=auth.leeway,
        most=auth.max_tokens,
        clock=clock,
        revocations=revocations,
    )
    if not auth.jwks_url:
        return tokens, []

    async def fetch() -> bytes:
        return await fetched(auth.jwks_url)

    return tokens, [follow_keys(tokens, fetch, auth.algorithms, clock, interval=auth.jwks_interval)]


async def fetched(url: str) -> bytes:
    """The document of published keys. Raises `Unavailable`."""
    try:
        async with httpx.AsyncClient(timeout=_WITHIN) as client, client.stream("GET", url) as answer:
            answer.raise_for_status()
            return await body_of(answer, _MOST)
    except ValueError as exc:
        raise Unavailable(f"the document of keys {exc}") from exc
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise Unavailable(f"the document of keys: {type(exc).__name__}") from exc
