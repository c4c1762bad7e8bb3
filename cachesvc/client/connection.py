"""Connection: requests to one service, sent again where that is safe, and what goes wrong translated once.

The rule that must not break: a request that may have been carried out is sent again only if it can be repeated, that is a
read, or a write with an `Idempotency-Key`.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote, urlsplit

import httpx
from pydantic import ValidationError

from cachesvc import __version__
from cachesvc.client.errors import (
    Away,
    ClientError,
    Conflict,
    NotFound,
    NotTheService,
    ServiceError,
    StartOver,
    Unknown,
    Unreachable,
)
from cachesvc.errors import InvalidInput
from cachesvc.protocol.api import Problem
from cachesvc.protocol.codes import Code

Parameters = Sequence[tuple[str, str]]
Content = bytes | Iterator[bytes]

_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")  # a proxy for these is never meant
_BY_STATUS: Final = {404: NotFound, 409: Conflict, 412: Conflict, 410: StartOver, 429: Away, 503: Away}
_GATEWAY: Final = (502, 503, 504)
_ATTEMPTS: Final = 3
MAX_PAUSE: Final = 5.0  # seconds; a service that asks for a longer one is not waited for


class Connection:
    """Requests to the service at a URL; several share its connections, one after the other."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 30.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Raises `InvalidInput` for a URL or a token that cannot be one."""
        self.url = checked_url(url)
        headers = {"User-Agent": f"cachesvc/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {checked_token(token)}"
        self._timeout = timeout
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=timeout,
            # to read the authorities takes 20 ms, and without TLS there is nothing to verify: then none is trusted
            verify=True if self.url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            transport=transport,
            mounts={f"all://{host}": transport for host in _LOOPBACK},
        )

    def close(self) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Parameters = (),
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        repeatable: bool = True,
    ) -> httpx.Response:
        """The answer, whole. Raises `ClientError` for whatever is no success."""
        attempt = 1
        while True:
            try:
                with self.stream(method, path, params=params, headers=headers, content=content) as response:
                    response.read()
                    return response
            except ClientError as error:
                pause = pause_after(error, attempt)
                if attempt >= _ATTEMPTS or not _again(error, repeatable=repeatable) or pause > MAX_PAUSE:
                    raise
                self._sleep(pause)
                attempt += 1

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        params: Parameters = (),
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        silence: float | None = None,
    ) -> Iterator[httpx.Response]:
        """The answer, to be read as it comes, once. `silence` is how long it may pause, in seconds."""
        timeout = httpx.Timeout(self._timeout, read=silence or self._timeout)
        sent = False
        try:
            request = self._http.build_request(
                method, path, params=list(params), headers=headers, content=content, timeout=timeout
            )
            response = self._http.send(request, stream=True)
            sent = True
            try:
                if response.status_code >= 300:
                    response.read()
                    raise refusal(response)
                yield response
            finally:
                response.close()
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise Unreachable(f"{self.url} cannot be reached: {_why(exc)}", sent=False) from exc
        except httpx.TimeoutException as exc:
            raise Unreachable(f"{self.url} did not answer in time") from exc
        except httpx.TransportError as exc:
            where = "in the middle of its answer" if sent else "before it answered"
            raise Unreachable(f"{self.url} closed the connection {where} ({_why(exc)})") from exc
        except httpx.InvalidURL as exc:
            raise InvalidInput("url", f"cannot be asked for: {_why(exc)}") from exc
        except httpx.DecodingError as exc:
            raise NotTheService(f"what {self.url} answered cannot be read: {_why(exc)}") from exc

    def again(self, error: ClientError, failures: int, most: int) -> None:
        """Wait before a stream is opened again; raises the error where that is of no use, or too often."""
        if failures > most or not _again(error, repeatable=True):
            raise error
        self._sleep(min(pause_after(error, failures), MAX_PAUSE))


def refusal(response: httpx.Response) -> ClientError:
    """What an answer that is no success means."""
    status = response.status_code
    kind = response.headers.get("content-type", "").partition(";")[0]
    if kind == "application/problem+json":
        try:
            return raised(Problem.model_validate_json(response.content))
        except ValidationError:
            pass
    where = response.request.url.copy_with(query=None)
    if status in _GATEWAY:
        return Unreachable(f"a proxy before {where} answered {status}: the service behind it cannot be reached")
    if 300 <= status < 400:
        return NotTheService(f"{where} redirects elsewhere: give the service's own URL")
    return NotTheService(f"{where} answered {status} with {kind or 'nothing'}, which no cachesvc does: is the URL right?")


def raised(problem: Problem) -> ServiceError:
    """A problem as an error."""
    kind = Unknown if problem.code == Code.OUTCOME_UNKNOWN else _BY_STATUS.get(problem.status, ServiceError)
    if kind is NotFound and problem.field is None:
        kind = ServiceError  # not the key, or the job, but the path: an older service
    return kind(
        problem.detail,
        status=problem.status,
        code=problem.code,
        field=problem.field,
        retry_after=problem.retry_after,
        request_id=problem.request_id,
        current_version=problem.current_version,
    )


def path_of(prefix: str, name: str) -> str:
    """A path that ends in a name. Dots are encoded too: `..` would be taken for a step up."""
    return prefix + quote(name, safe=":").replace(".", "%2E")


def pause_after(error: ClientError, attempt: int) -> float:
    """Seconds to wait before attempt + 1: longer each time, at random so that clients do not come back all at once."""
    asked = error.retry_after if isinstance(error, ServiceError) else None
    backoff: float = 0.2 * 2 ** min(attempt - 1, 5) * (0.5 + random.random())
    return (asked or 0.0) + backoff


def _again(error: ClientError, *, repeatable: bool) -> bool:
    match error:
        case Unknown():
            return repeatable
        case Away():
            return True  # nothing was done
        case Unreachable():
            return repeatable or not error.sent
        case _:
            return False


def checked_url(url: str) -> str:
    """A service's URL; raises `InvalidInput`."""
    try:
        parts = urlsplit(url)
        httpx.URL(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        good = good and not (parts.query or parts.fragment or parts.username)
        (parts.hostname or "").encode("idna")
    except (ValueError, httpx.InvalidURL):
        good = False
    if not good:
        raise InvalidInput("url", "must be like http://127.0.0.1:8080")
    return url.rstrip("/")


def checked_token(token: str) -> str:
    """A token as a header can carry it; raises `InvalidInput`."""
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise InvalidInput("token", "has characters that no token has")
    return token


def _why(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
