"""A loader that asks an HTTP origin, one GET for each key.

The rule that must not break: what a key says is data in a URL, never a part of its structure; and an answer takes no more
memory than a value may have, however long it is.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from string import Formatter
from typing import Final
from urllib.parse import quote, unquote

import httpx

from cachesvc.errors import Unavailable
from cachesvc.loaders.checked import checked, had, media_type
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded

_ABSENT: Final = (404, 410)
_LIFE: Final = re.compile(r"(?:^|[,\s])(s-maxage|max-age)\s*=\s*\"?([0-9]{1,9})", re.IGNORECASE)
_LEAST: Final = 1.0  # seconds of life of what says that it has none
_DOTS: Final = (".", "..")  # in a path they name another place


@dataclass(frozen=True, slots=True)
class Origin:
    """Where and how an origin is asked. `url` has `{key}`, `{id}` (behind the module) or `{0}` to `{9}` (a segment)."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    expect: str = ""  # the media type that an answer must have
    use_max_age: bool = False
    tags_header: str = "Cache-Tag"
    parents_header: str = "Depends-On"


class HttpLoader:
    """`ports.Loader` over a client that follows no redirect and waits as long as its caller does."""

    def __init__(self, name: str, origin: Origin, client: httpx.AsyncClient, *, max_value_size: int) -> None:
        self._name = name
        self._origin = origin
        self._client = client
        self._max_value_size = max_value_size
        self._parts = [(text, named) for text, named, _, _ in Formatter().parse(origin.url)]

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Loaded | Unavailable]:
        """See `ports.Loader`."""
        outcomes = await asyncio.gather(*map(self._get, keys), return_exceptions=True)
        found: dict[Key, Loaded | Unavailable] = {}
        for key, outcome in zip(keys, outcomes, strict=True):
            if isinstance(outcome, Unavailable | Loaded):
                found[key] = outcome
            elif outcome is not None:
                raise outcome
        return had(found, keys)

    def url_of(self, key: Key) -> str | None:
        """Where the key's value is; None where there can be none: it lacks a part, or one that a path cannot say."""
        segments = key.split(":")
        parts = {"key": key, "id": key.partition(":")[2], **{str(place): segment for place, segment in enumerate(segments)}}
        used = {name: parts.get(name, "") for _, name in self._parts if name is not None}
        if any(not part or part in _DOTS for part in used.values()):
            return None
        encoded = {name: quote(part, safe="") for name, part in used.items()}
        return "".join(text + (encoded[name] if name is not None else "") for text, name in self._parts)

    async def _get(self, key: Key) -> Loaded | None:
        url = self.url_of(key)
        if url is None:
            return None
        # as it is: what is compressed may be of any size when it is not
        headers = {**self._origin.headers, "Accept-Encoding": "identity"}
        try:
            async with self._client.stream("GET", url, headers=headers) as response:
                return await self._taken(response)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
            raise self._failure(f"the origin cannot be asked ({type(exc).__name__})") from exc

    async def _taken(self, response: httpx.Response) -> Loaded | None:
        if response.status_code in _ABSENT:
            return None
        if response.status_code != 200:
            raise self._failure(f"the origin answered {response.status_code}")
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise self._failure("the origin answered with a content coding, which was not asked for")
        content_type = media_type(response.headers.get("content-type", "application/octet-stream"))
        expected = self._origin.expect
        if expected and content_type.partition(";")[0].strip().lower() != expected.lower():
            raise self._failure(f"the origin answered with {content_type[:100]!r}, not {expected}")
        loaded = Loaded(
            await self._body(response),
            content_type,
            ttl=_life(response.headers) if self._origin.use_max_age else None,
            tags=_names(response.headers, self._origin.tags_header),
            parents=_names(response.headers, self._origin.parents_header),
        )
        return checked(self._name, loaded, most=self._max_value_size)

    async def _body(self, response: httpx.Response) -> bytes:
        most = self._max_value_size
        said = response.headers.get("content-length", "")
        if said.isascii() and said.isdigit() and int(said[:20]) > most:
            raise self._failure(f"the value has {said[:20]} bytes; allowed are {most}")
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.aiter_raw():
            size += len(chunk)
            if size > most:
                raise self._failure(f"the value has over {most} bytes, which are allowed")
            chunks.append(chunk)
        return b"".join(chunks)

    def _failure(self, reason: str) -> Unavailable:
        return Unavailable(f"loader {self._name}: {reason}")


def _life(headers: httpx.Headers) -> float | None:
    """The freshness lifetime of an answer for a shared cache (RFC 9111, 4.2.1), less its age; None where it says none."""
    said = {name.lower(): int(seconds) for name, seconds in _LIFE.findall(headers.get("cache-control", ""))}
    life = said.get("s-maxage", said.get("max-age"))
    if life is None:
        return None
    age = headers.get("age", "")
    return max(_LEAST, float(life - (int(age) if age.isascii() and age.isdigit() and len(age) < 10 else 0)))


def _names(headers: httpx.Headers, header: str) -> tuple[str, ...]:
    """The names of a header that lists them, percent-decoded; each once."""
    listed = (unquote(name.strip()) for name in headers.get(header, "").split(",")) if header else ()
    return tuple(dict.fromkeys(name for name in listed if name))


@asynccontextmanager
async def opened(name: str, origin: Origin, *, connections: int, max_value_size: int) -> AsyncIterator[HttpLoader]:
    """The loader of that origin, with connections of its own. Nothing is asked yet."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    # no proxy, no netrc: what it reaches is what the settings say; its caller sets the time limit
    async with httpx.AsyncClient(limits=limits, timeout=None, follow_redirects=False, trust_env=False) as client:  # noqa: S113
        yield HttpLoader(name, origin, client, max_value_size=max_value_size)
