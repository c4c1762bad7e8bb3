"""Commands: what a client asks over the socket, and how the answer is read. Values stay as they were written.

Each write carries an idempotency key, so that it is sent again after a lost answer and still happens once.
"""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from typing import Any, Final, Generic, NamedTuple, TypeVar
from uuid import uuid4

import orjson

from cachesvc.client.amounts import exactly
from cachesvc.client.connection import raised
from cachesvc.client.errors import ServiceError
from cachesvc.errors import InvalidInput
from cachesvc.protocol.api import Done, Invalidate, Invalidated, Previewed, Problem
from cachesvc.protocol.codes import Code
from cachesvc.protocol.exact import RawJson, check_json, parts, read_object
from cachesvc.protocol.messages import PongPayload
from cachesvc.protocol.operations import JobTold, Warm

T = TypeVar("T")
Members = Mapping[str, Any]

_STATUS: Final = {  # as over HTTP
    Code.VERSION_CONFLICT: 412,
    Code.NOT_FOUND: 404,
    Code.CONFLICT_CLOSED: 409,
    Code.RECOVERY_UNAVAILABLE: 410,
    Code.TOO_MANY_REQUESTS: 429,
    Code.UNAVAILABLE: 503,
    Code.OUTCOME_UNKNOWN: 503,
    Code.INTERNAL: 500,
    Code.UNAUTHENTICATED: 401,
    Code.TOKEN_EXPIRED: 401,
    Code.FORBIDDEN: 403,
    Code.TOO_LARGE: 413,
}
_VALUE: Final = parts("value", within=("payload",))


class Answer(NamedTuple):
    """A frame that answers: its members, and its text."""

    members: Members
    text: str

    @property
    def payload(self) -> Members:
        payload: Members = self.members["payload"]
        return payload

    @property
    def exact(self) -> Members:
        """The payload with its `value` as it was written."""
        payload = read_object(self.text.encode(), _VALUE, field="message")["payload"]
        assert isinstance(payload, dict)
        return payload


@dataclass(frozen=True, slots=True)
class Command(Generic[T]):
    """A frame to be sent, and how its answer is read. `key` is its idempotency key, of what writes."""

    kind: str
    payload: Mapping[str, object]
    read: Callable[[Answer], T]
    key: str | None = None
    progress: str = ""  # the type of messages that follow its ack, the last of which ends it


class Got(NamedTuple):
    """An entry as it was read: its bytes, and the seconds that it has left (None: it does not end)."""

    key: str
    data: bytes
    content_type: str
    version: int
    ttl: float | None

    def json(self) -> Any:
        """The value decoded; numbers past what a double holds are rounded."""
        return orjson.loads(self.data)


def get(key: str) -> Command[Got | None]:
    """Reads an entry; None where there is none."""
    return Command("cache:get", {"key": key}, _got)


def put(
    key: str,
    value: object,
    *,
    ttl: float | None = None,
    tags: Sequence[str] = (),
    depends_on: Sequence[str] = (),
    expected_version: int | None = None,
    base_version: int | None = None,
    distribute: bool = True,
) -> Command[Done]:
    """Writes a JSON value: anything that `orjson` renders, or a text that stays as it is (`RawJson`). `ttl`: seconds.

    `expected_version` refuses (0: only where there is no entry); `base_version` writes and has a conflict told. Raises
    `InvalidInput`.
    """
    more = {
        "value": rendered(value, field="value"),
        "ttl": ttl,
        "tags": list(tags) or None,
        "dependsOn": list(depends_on) or None,
        "expectedVersion": expected_version,
        "baseVersion": base_version,
    }
    return _update(key, "set", distribute, {name: one for name, one in more.items() if one is not None or name == "value"})


def delete(key: str, *, expected_version: int | None = None, distribute: bool = True) -> Command[Done]:
    """Deletes; it is done, too, where there was no entry."""
    more = {} if expected_version is None else {"expectedVersion": expected_version}
    return _update(key, "delete", distribute, more)


def increment(key: str, amount: str | int | Decimal = 1, *, ttl: float | None = None, distribute: bool = True) -> Command[Done]:
    """Adds an exact decimal number; the answer's `value` is the text of the sum. Raises `InvalidInput`."""
    more: dict[str, object] = {"value": exactly(amount)}
    return _update(key, "increment", distribute, more if ttl is None else more | {"ttl": ttl})


def invalidate(wish: Invalidate) -> Command[Invalidated]:
    """Invalidates what is named."""
    payload = wish.model_dump(by_alias=True, exclude_defaults=True)
    return _write("cache:invalidate", payload, lambda answer: Invalidated.model_validate(answer.payload))


def preview(wish: Invalidate) -> Command[Previewed]:
    """What an invalidation would hit."""
    payload = wish.model_dump(by_alias=True, exclude_defaults=True) | {"dryRun": True}
    return Command("cache:invalidate", payload, lambda answer: Previewed.model_validate(answer.payload))


def publish(resource: str, message: object, *, distribute: bool = True) -> Command[int]:
    """Sends a message that is no entry to the subscribers of a resource; its sequence."""
    payload = {"resource": resource, "message": rendered(message, field="message"), "distribute": distribute}
    return _write("publish", payload, lambda answer: int(answer.payload["sequence"]))


def warm(wish: Warm) -> Command[JobTold]:
    """Begins a warm-up."""
    payload = wish.model_dump(by_alias=True, exclude_defaults=True)
    return Command("cache:warm", payload, lambda answer: JobTold.model_validate(answer.payload), progress="cache:warm")


def may(action: str, resource: str) -> Command[bool]:
    """Whether the client may do something, without doing it."""
    return Command("authz:check", {"action": action, "resource": resource}, lambda answer: bool(answer.payload["allowed"]))


def ping(sent_at: str, number: int) -> Command[PongPayload]:
    """Asks how long a message takes."""
    payload = {"timestamp": sent_at, "sequenceNumber": number}
    return Command("ping", payload, lambda answer: PongPayload.model_validate(answer.payload))


def resolve(conflict: str, *, option: int | None = None, data: object = None) -> Command[Members]:
    """Settles a conflict by one of its options, or by other data."""
    payload: dict[str, object] = {"conflictId": conflict}
    if option is not None:
        payload["option"] = option
    if data is not None:
        payload["data"] = rendered(data, field="data")
    return Command("conflict:resolve", payload, lambda answer: answer.payload)


def rendered(value: object, *, field: str) -> orjson.Fragment:
    """A JSON value, to be sent; raises `InvalidInput` for what is none."""
    if isinstance(value, RawJson):
        check_json(value, field=field)
        return orjson.Fragment(bytes(value))
    try:
        text = orjson.dumps(value)
    except TypeError as exc:
        raise InvalidInput(field, f"is not JSON: {exc}") from exc
    if b"null" in text:  # what it makes of numbers that JSON does not have, too
        _check_finite(value, field)
    return orjson.Fragment(text)


def _check_finite(value: object, field: str) -> None:
    """Raises `InvalidInput` that names the number, where there is one that is none in JSON."""
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(field, f"is {value}, which JSON does not have")
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    elif is_dataclass(value):
        parts = ((member.name, getattr(value, member.name)) for member in fields(value))
    for name, part in parts:
        _check_finite(part, f"{field}.{name}")


def refused(payload: Members, key: str | None) -> ServiceError:
    """The payload of an `error` as what over HTTP would be raised for it; `key` finds out what became of a write."""
    details = payload.get("details") or {}
    return raised(
        Problem(
            type="about:blank",
            title="",
            status=_STATUS.get(payload["code"], 422),
            detail=payload["message"],
            code=payload["code"],
            recoverable=payload["recoverable"],
            retryAfter=payload.get("retryAfter"),
            requestId=key,
            field=details.get("field"),
            currentVersion=details.get("currentVersion"),
        )
    )


def _update(key: str, operation: str, distribute: bool, more: Mapping[str, object]) -> Command[Done]:
    payload = {"key": key, "operation": operation, "distribute": distribute, **more}
    return _write("cache:update", payload, lambda answer: Done.model_validate(answer.exact))


def _write(kind: str, payload: Mapping[str, object], read: Callable[[Answer], T]) -> Command[T]:
    key = uuid4().hex
    return Command(kind, {**payload, "idempotencyKey": key}, read, key=key)


def _got(answer: Answer) -> Got | None:
    payload = answer.exact
    if not payload["found"]:
        return None
    data = bytes(payload["value"])
    if payload.get("encoding") == "base64":
        data = b64decode(orjson.loads(data))
    return Got(payload["key"], data, payload["contentType"], payload["version"], payload.get("ttl"))
