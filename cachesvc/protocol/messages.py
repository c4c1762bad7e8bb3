"""Messages that the server sends: one model for each type. They document and test what is sent; frames are made by hand, since
one change makes thousands of them.

A member is added, never renamed, never left out once it was always there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from cachesvc.protocol.api import Invalidated
from cachesvc.protocol.conflicts import ConflictAutoMerge, ConflictDetect, ConflictManualResolution, ConflictResolved
from cachesvc.protocol.envelope import Message
from cachesvc.protocol.frames import CacheSyncPayload, Compression, Wire, type_of
from cachesvc.protocol.operations import JobTold
from cachesvc.protocol.pushed import (
    CacheUpdate,
    CalendarReminder,
    CalendarUpdate,
    ContactUpdate,
    DashboardUpdate,
    EmailNew,
    EmailStatus,
    TaskSync,
    TaskUpdate,
)


class SessionLimits(Wire):
    max_frame_size: int = Field(description="bytes")
    max_subscriptions: int
    max_in_flight: int = Field(description="commands that are carried out at once; more wait")
    max_batch: int = Field(description="messages in one batch:update")


class Heartbeat(Wire):
    interval: int = Field(description="milliseconds between WebSocket pings")
    timeout: int = Field(description="milliseconds within which one must be answered")


class EstablishedPayload(Wire):
    connection_id: str
    user_id: str
    session_id: str
    heartbeat: Heartbeat
    limits: SessionLimits
    epoch: int
    position: int


class ConnectionEstablished(Message):
    type: Literal["connection:established"]
    payload: EstablishedPayload


class StatusPayload(Wire):
    status: Literal["connected", "disconnected", "reconnecting"]
    reason: str | None = None
    reconnect_attempts: int
    next_reconnect_in: int = Field(description="milliseconds")


class ConnectionStatus(Message):
    type: Literal["connection:status"]
    payload: StatusPayload


class AuthChallengePayload(Wire):
    nonce: str
    timestamp: str
    expires_at: str
    connection_id: str


class AuthChallenge(Message):
    type: Literal["auth:challenge"]
    payload: AuthChallengePayload


class AuthzResultPayload(Wire):
    resource: str
    action: str
    allowed: bool


class AuthzResult(Message):
    type: Literal["authz:result"]
    payload: AuthzResultPayload


class Subscribed(Wire):
    resources: list[str]


class Written(BaseModel):
    """What a write did, as over HTTP."""

    key: str
    version: int
    operation: str
    value: Any = None


class Ack(Message):
    """The answer to a command, with the same object as over HTTP."""

    type: Literal["ack"]
    payload: Subscribed | Written | Invalidated | JobTold | dict[str, Any]


class PongPayload(Wire):
    timestamp: str
    sequence_number: int
    latency: float = Field(description="milliseconds from the ping's timestamp until now, by this node's clock")


class Pong(Message):
    type: Literal["pong"]
    payload: PongPayload


class ErrorPayload(Wire):
    code: str
    message: str
    details: dict[str, Any] | None = None
    recoverable: bool
    retry_after: float | None = Field(None, description="seconds")


class Error(Message):
    type: Literal["error"]
    payload: ErrorPayload


class RateLimitPayload(Wire):
    limit: int
    remaining: int
    reset_at: str
    window: str


class RateLimit(Message):
    type: Literal["rate-limit"]
    payload: RateLimitPayload


class ValuePayload(Wire):
    key: str
    found: bool
    value: Any
    version: int
    content_type: str | None = None
    encoding: Literal["base64"] | None = None
    ttl: float | None = Field(None, description="seconds left")
    fill_token: str | None = Field(None, description="of a miss: to be given with the value that is then written")


class CacheValue(Message):
    type: Literal["cache:value"]
    payload: ValuePayload


class CacheInvalidatePayload(Wire):
    keys: list[str]
    pattern: str | None = None
    cascade: bool
    soft: bool | None = Field(None, description="what is named is past its life, and may be served as stale")


class CacheInvalidate(Message):
    type: Literal["cache:invalidate"]
    payload: CacheInvalidatePayload


class WarmPayload(Wire):
    module: str | None
    job: str
    status: str = Field(description="of the job: waiting, running, or how it ended")
    done: int
    total: int | None
    errors: int


class CacheWarm(Message):
    type: Literal["cache:warm"]
    payload: WarmPayload


class PublishedPayload(Wire):
    resource: str
    message: Any
    published_by: str
    truncated: bool | None = Field(None, description="the message could not be told")


class Published(Message):
    """A message that is no entry, as it was published."""

    type: Literal["publish"]
    payload: PublishedPayload


class BatchPayload(Wire):
    batch_id: str
    updates: list[dict[str, Any]]
    compression: Compression | None = None
    total_size: int = Field(description="bytes of the array before compression")
    data: str | None = Field(None, description="the compressed array in base64")


class BatchUpdate(Message):
    type: Literal["batch:update"]
    payload: BatchPayload


class RecoveryResponsePayload(Wire):
    sequence_number: int = Field(description="`seq` of the last message in data; without any, the last that was sent")
    data: list[dict[str, Any]]
    is_complete: bool
    session_id: str | None = Field(None, description="whose numbers the messages in data have: of the lost one, or of this one")
    error: ErrorPayload | None = None


class RecoveryResponse(Message):
    type: Literal["recovery:response"]
    payload: RecoveryResponsePayload


class CacheSync(Message):
    type: Literal["cache:sync"]
    payload: CacheSyncPayload


FROM_SERVER: Final[Mapping[str, type[Message]]] = {
    type_of(model): model
    for model in (
        ConnectionEstablished,
        ConnectionStatus,
        AuthChallenge,
        AuthzResult,
        Ack,
        Pong,
        Error,
        RateLimit,
        CacheValue,
        CacheUpdate,
        CacheInvalidate,
        CacheWarm,
        DashboardUpdate,
        TaskUpdate,
        TaskSync,
        CalendarUpdate,
        CalendarReminder,
        EmailNew,
        EmailStatus,
        ContactUpdate,
        Published,
        ConflictDetect,
        ConflictAutoMerge,
        ConflictManualResolution,
        ConflictResolved,
        BatchUpdate,
        RecoveryResponse,
        CacheSync,
    )
}
