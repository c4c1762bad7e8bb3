"""Bodies: what other servers answer, read up to a limit."""

from __future__ import annotations

import httpx


async def body_of(answer: httpx.Response, most: int) -> bytes:
    """All of a body that is streamed. Raises `ValueError` as soon as it is over `most` bytes."""
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > most:
            raise ValueError(f"is over {most} bytes")
    return bytes(body)
