"""Client: the HTTP API as Python calls, blocking, with typed answers.

    with Client("http://127.0.0.1:8080") as client:
        client.put("greeting", b'"hello"')

Every write carries an `Idempotency-Key`, so that it is sent again after a lost answer and still happens once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal, NamedTuple, Self, TypeVar
from uuid import uuid4

import httpx
import orjson
from pydantic import BaseModel, ValidationError

from cachesvc.client.amounts import exactly
from cachesvc.client.connection import Connection, Parameters, path_of, raised
from cachesvc.client.errors import ClientError, NotFound, NotTheService, Unreachable
from cachesvc.client.events import Event, EventParser
from cachesvc.client.snapshot import checked
from cachesvc.errors import InvalidInput
from cachesvc.model.position import Position, parse_position
from cachesvc.protocol.api import Done, EntryPage, Invalidate, Invalidated, KeyPage, Previewed, Problem, Sync
from cachesvc.protocol.exact import Parts, parts, read_object
from cachesvc.protocol.operations import Change, Explanation, Jobs, JobTold, Nodes, Stats, SyncAnswer, SyncOverview, Warm
from cachesvc.protocol.revoking import Revoke, Revoked
from cachesvc.protocol.snapshot import MEDIA_TYPE, SnapshotReader

Model = TypeVar("Model", bound=BaseModel)

JSON: Final = "application/json"
ABSENT: Final = 0  # as `if_version`: only where there is no entry
SILENCE: Final = 45.0  # seconds; a stream of events beats at least every 15
VERIFYING: Final = 600.0  # seconds in which a restored snapshot is verified, after it was sent
RECONNECTS: Final = 10
ENDED: Final = frozenset(("done", "failed", "cancelled"))
_WHOLE: Final = parts()
_VALUE: Final = parts("value")
_VALUES: Final = parts("value", within=("entries",))
_VERSION: Final = re.compile(r'"([0-9]{1,16})"')


@dataclass(frozen=True, slots=True)
class Value:
    """An entry as it was read. `status` is its `Cache-Status`: the tier that answered, and the seconds left."""

    key: str
    data: bytes
    content_type: str
    version: int
    age: int
    status: str


class Followed(NamedTuple):
    """How far the log was read, and the change there; None where only the position moved."""

    position: Position
    change: Change | None


class Client:
    """The service at a URL."""

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
        self._connection = Connection(url, token=token, timeout=timeout, transport=transport, sleep=sleep)

    @property
    def url(self) -> str:
        return self._connection.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    # entries

    def get(self, key: str, *, cache_control: str | None = None) -> Value | None:
        """The entry of a key; None where there is none."""
        headers = {"Cache-Control": cache_control} if cache_control else {}
        try:
            response = self._connection.send("GET", path_of("/v1/cache/", key), headers=headers)
        except NotFound as error:
            if error.field == "key":
                return None
            raise
        version = _VERSION.fullmatch(response.headers.get("etag", ""))
        if version is None:
            raise self._foreign()
        kind, status = response.headers.get("content-type", JSON), response.headers.get("cache-status", "")
        age = response.headers.get("age", "0")
        return Value(key, response.content, kind, int(version[1]), int(age) if age.isdecimal() else 0, status)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str = JSON,
        ttl: float | None = None,
        tags: Sequence[str] = (),
        depends_on: Sequence[str] = (),
        if_version: int | None = None,
    ) -> Done:
        """Write. With `if_version` only over that version (`ABSENT`: none); raises `Conflict` otherwise."""
        params = [("tags", tag) for tag in tags] + [("depends_on", parent) for parent in depends_on]
        if ttl is not None:
            params.append(("ttl", f"{ttl:g}" if ttl == int(ttl) else repr(ttl)))
        headers = {"Content-Type": content_type} | _condition(if_version)
        return self._write("PUT", path_of("/v1/cache/", key), Done, data, headers=headers, params=params, read=_VALUE)

    def delete(self, key: str, *, if_version: int | None = None) -> bool:
        """Delete; whether there was an entry."""
        try:
            self._connection.send("DELETE", path_of("/v1/cache/", key), headers=_condition(if_version) | _key())
        except NotFound as error:
            if error.field == "key":
                return False
            raise
        return True

    def increment(self, key: str, amount: str | int | Decimal = 1, *, ttl: float | None = None) -> Done:
        """Add an exact decimal number; the answer has the sum. Raises `InvalidInput`."""
        wish: dict[str, object] = {"operation": "increment", "value": exactly(amount)}
        if ttl is not None:
            wish["ttl"] = ttl
        return self._write("POST", path_of("/v1/cache/", key), Done, orjson.dumps(wish), read=_VALUE)

    def keys(self, pattern: str = "*", *, limit: int = 100, cursor: str | None = None) -> KeyPage:
        """A page of keys that match, in byte order."""
        return self._read("/v1/keys", KeyPage, [("pattern", pattern), *_page(limit, cursor)])

    def query(self, fields: Mapping[str, Sequence[str]], *, limit: int = 100, cursor: str | None = None) -> EntryPage:
        """A page of the entries whose indexed fields have one of the values given for each."""
        wanted = [(name, value) for name, values in fields.items() for value in values]
        return self._read("/v1/query", EntryPage, [*wanted, *_page(limit, cursor)], read=_VALUES)

    def explain(self, key: str) -> Explanation:
        return self._read(path_of("/v1/explain/", key), Explanation)

    # operations

    def preview(self, wish: Invalidate) -> Previewed:
        """What an invalidation would hit."""
        asked = wish.model_copy(update={"dry_run": True})
        return self._write("POST", "/v1/invalidate", Previewed, _body(asked))

    def invalidate(self, wish: Invalidate, *, wait: bool = False) -> Invalidated:
        """Invalidate. With `wait` it is answered when all live nodes have applied it, or with those that have not."""
        params = [("wait", "all")] if wait else []
        return self._write("POST", "/v1/invalidate", Invalidated, _body(wish), params=params)

    def revoke(self, wish: Revoke, *, wait: bool = False) -> Revoked:
        """Have tokens believed no more. With `wait` it is answered when all live nodes have applied it."""
        params = [("wait", "all")] if wait else []
        return self._write("POST", "/v1/revocations", Revoked, _body(wish), params=params)

    def warm(self, wish: Warm) -> JobTold:
        """Start a warm-up; its job."""
        return self._write("POST", "/v1/warm", JobTold, _body(wish))

    def jobs(self, *, limit: int = 100) -> Jobs:
        """The newest jobs."""
        return self._read("/v1/jobs", Jobs, [("limit", str(limit))])

    def job(self, job: str) -> JobTold:
        return self._read(path_of("/v1/jobs/", job), JobTold)

    def cancel(self, job: str) -> JobTold:
        """Ask for a job's end; as it stands then."""
        return self._answer(JobTold, self._connection.send("DELETE", path_of("/v1/jobs/", job)))

    def follow_job(self, job: str) -> Iterator[JobTold]:
        """A job as it goes on, up to its end; the connection is made anew when it is lost."""
        for event in self._follow(f"{path_of('/v1/jobs/', job)}/events"):
            if not event.data:
                continue
            told = self._parsed(JobTold, event.data)
            yield told
            if told.state in ENDED:
                return

    @contextmanager
    def snapshot(self, told: SnapshotReader, pattern: str = "*") -> Iterator[Iterator[bytes]]:
        """The entries that match, in pieces as they come, checked by `told`. Raises `Damaged`."""
        with self._connection.stream("GET", "/v1/snapshot", params=[("pattern", pattern)], silence=SILENCE) as response:
            yield checked(response.iter_bytes(), told)

    def restore(self, chunks: Iterator[bytes], *, force: bool = False) -> JobTold:
        """Hand a snapshot back; its job. Not sent again by itself, since it is read as it is sent; whoever does joins the job.

        `force` takes it although what was deleted since may come back; raises `Conflict` where that is so, without.
        """
        params = [("force", "true")] if force else []
        headers = {"Content-Type": MEDIA_TYPE}
        with self._connection.stream(
            "POST", "/v1/restore", params=params, headers=headers, content=chunks, silence=VERIFYING
        ) as response:
            response.read()
            return self._answer(JobTold, response)

    def stats(self) -> Stats:
        return self._read("/v1/stats", Stats)

    def nodes(self) -> Nodes:
        return self._read("/v1/nodes", Nodes)

    def sync(self, wish: Sync) -> SyncAnswer:
        """Have the answering node compare what it holds with the authority; one that takes long is told as running."""
        return self._write("POST", "/v1/sync", SyncAnswer, _body(wish))

    def synced(self) -> SyncOverview:
        """The latest comparisons of every node."""
        return self._read("/v1/sync", SyncOverview)

    def changes(self, *, after: str | None = None, pattern: str | None = None) -> Iterator[Followed]:
        """The change log from a position (`epoch:sequence`; None: now) on, without end, resumed where it was cut.

        Raises `StartOver` where it cannot be, and the last error once it failed more than `RECONNECTS` times in a row.
        """
        params = [("pattern", pattern)] if pattern is not None else []
        for event in self._follow("/v1/changes", after=after or "", params=params):
            try:
                position = parse_position(event.id, field="id")
            except InvalidInput as exc:
                raise self._foreign() from exc
            yield Followed(position, self._parsed(Change, event.data, _VALUE) if event.data else None)

    # how

    def _read(self, path: str, model: type[Model], params: Parameters = (), *, read: Parts = _WHOLE) -> Model:
        return self._answer(model, self._connection.send("GET", path, params=params), read)

    def _write(
        self,
        method: Literal["PUT", "POST"],
        path: str,
        model: type[Model],
        content: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        params: Parameters = (),
        read: Parts = _WHOLE,
    ) -> Model:
        sent = {"Content-Type": JSON} | dict(headers or {}) | _key()
        return self._answer(model, self._connection.send(method, path, params=params, headers=sent, content=content), read)

    def _answer(self, model: type[Model], response: httpx.Response, read: Parts = _WHOLE) -> Model:
        return self._parsed(model, response.content, read)

    def _parsed(self, model: type[Model], text: bytes, read: Parts = _WHOLE) -> Model:
        """An answer as its model; a value stays as it was written."""
        try:
            return model.model_validate(read_object(text, read))
        except (InvalidInput, ValidationError) as exc:
            raise self._foreign() from exc

    def _foreign(self) -> NotTheService:
        return NotTheService(f"{self.url} answered with what no cachesvc does: is the URL right?")

    def _follow(self, path: str, *, after: str = "", params: Parameters = ()) -> Iterator[Event]:
        failures = 0
        while True:
            headers = {"Last-Event-ID": after} if after else {}
            parser = EventParser()
            error: ClientError = Unreachable(f"{self.url} ended the stream")
            try:
                with self._connection.stream("GET", path, params=params, headers=headers, silence=SILENCE) as response:
                    if response.headers.get("content-type", "").partition(";")[0] != "text/event-stream":
                        raise self._foreign()
                    for chunk in response.iter_bytes():
                        for event in parser.feed(chunk):
                            failures, after = 0, event.id
                            if event.name == "error":
                                raise raised(self._parsed(Problem, event.data))
                            yield event
            except ValueError as exc:
                raise NotTheService(f"what {self.url} answered cannot be read: {exc}") from exc
            except ClientError as exc:
                error = exc
            failures += 1
            self._connection.again(error, failures, RECONNECTS)


def _key() -> dict[str, str]:
    return {"Idempotency-Key": uuid4().hex}


def _condition(if_version: int | None) -> dict[str, str]:
    if if_version is None:
        return {}
    return {"If-None-Match": "*"} if if_version == ABSENT else {"If-Match": f'"{if_version}"'}


def _page(limit: int, cursor: str | None) -> list[tuple[str, str]]:
    return [("limit", str(limit)), *([("cursor", cursor)] if cursor is not None else [])]


def _body(wish: BaseModel) -> bytes:
    return orjson.dumps(wish.model_dump(by_alias=True, exclude_defaults=True))
