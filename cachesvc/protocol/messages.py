"""Messages that the server sends: one model for each type. They document and test what is sent; frames are made by hand, since
one change makes thousands of them.

A member is added, never renamed, never left out once it was always there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from cachesvc.protocol.api import Invalidated
from cachesvc.protocol.frames import CacheSyncPayload, Compression, Wire, type_of
from cachesvc.protocol.operations import JobTold

Action = Literal["created", "updated", "deleted"]


class Message(Wire):
    """The envelope of all that the server sends."""

    timestamp: str
    correlation_id: str | None = Field(None, description="the requestId that this answers")
    seq: int | None = Field(None, description="of pushed messages: their number in this session, from 1, without holes")
    version: int | None = Field(None, description="sequence of the change that is told")
    epoch: int | None = Field(None, description="of the change log that version and position belong to")
    position: int | None = Field(None, description="every change up to it that is due to this session has been told")


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


class CacheValue(Message):
    type: Literal["cache:value"]
    payload: ValuePayload


class Pushed(Wire):
    """What every message of a change has beside its own members."""

    key: str
    reason: Literal["expired"] | None = None
    truncated: bool | None = Field(None, description="the value is too large to be pushed: read it")
    content_type: str | None = None
    encoding: Literal["base64"] | None = None


class CacheUpdatePayload(Pushed):
    value: Any
    operation: Literal["set", "delete", "increment"]
    ttl: float | None = None
    distribute: bool


class CacheUpdate(Message):
    type: Literal["cache:update"]
    payload: CacheUpdatePayload


class CacheInvalidatePayload(Wire):
    keys: list[str]
    pattern: str | None = None
    cascade: bool


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


class DashboardChange(Wire):
    previous: Any
    current: Any
    delta: float


class DashboardPayload(Pushed):
    module: str
    metric: str
    value: Any
    change: DashboardChange


class DashboardUpdate(Message):
    type: Literal["dashboard:update"]
    payload: DashboardPayload


class TaskPayload(Pushed):
    action: Action
    task: Any
    source: str
    conflict: dict[str, Any] | None = None


class TaskUpdate(Message):
    type: Literal["task:update"]
    payload: TaskPayload


class TaskSyncPayload(Wire):
    sync_id: str
    status: Literal["started", "progress", "completed", "error"]
    progress: float
    processed: int
    total: int
    errors: list[str] | None = None


class TaskSync(Message):
    type: Literal["task:sync"]
    payload: TaskSyncPayload


class CalendarPayload(Pushed):
    action: Action
    event: Any
    source: str
    attendees: list[Any] | None = None


class CalendarUpdate(Message):
    type: Literal["calendar:update"]
    payload: CalendarPayload


class ReminderPayload(Wire):
    event_id: str
    title: str
    start_time: str
    reminder_type: Literal["email", "popup"]
    minutes_before: float


class CalendarReminder(Message):
    type: Literal["calendar:reminder"]
    payload: ReminderPayload


class EmailNewPayload(Pushed):
    message: Any
    folder: str
    importance: str


class EmailNew(Message):
    type: Literal["email:new"]
    payload: EmailNewPayload


class EmailStatusPayload(Pushed):
    message_id: str
    status: str
    changed_by: str


class EmailStatus(Message):
    type: Literal["email:status"]
    payload: EmailStatusPayload


class ContactPayload(Pushed):
    action: Action
    contact: Any
    source: str
    merge_conflict: bool | None = None


class ContactUpdate(Message):
    type: Literal["contact:update"]
    payload: ContactPayload


class PublishedPayload(Wire):
    resource: str
    message: Any
    published_by: str


class Published(Message):
    """A message that is no entry, as it was published."""

    type: Literal["publish"]
    payload: PublishedPayload


class ConflictVersions(Wire):
    local: dict[str, Any]
    remote: dict[str, Any]
    base: dict[str, Any] | None = None
    external: dict[str, Any] | None = None


class ConflictDetectPayload(Wire):
    conflict_id: str
    entity_type: str
    entity_id: str
    versions: ConflictVersions
    conflict_type: Literal["version", "data", "schema"]


class ConflictDetect(Message):
    type: Literal["conflict:detect"]
    payload: ConflictDetectPayload


class MergeResult(Wire):
    merged: dict[str, Any]
    rejected: list[dict[str, Any]]
    accepted: list[dict[str, Any]]


class AutoMergePayload(Wire):
    conflict_id: str
    strategy: Literal["field-level", "timestamp", "priority"]
    result: MergeResult


class ConflictAutoMerge(Message):
    type: Literal["conflict:auto-merge"]
    payload: AutoMergePayload


class ResolutionUi(Wire):
    title: str
    description: str
    fields: list[str]


class ManualResolutionPayload(Wire):
    conflict_id: str
    options: list[dict[str, Any]]
    ui: ResolutionUi


class ConflictManualResolution(Message):
    type: Literal["conflict:manual-resolution"]
    payload: ManualResolutionPayload


class ConflictResolvedPayload(Wire):
    conflict_id: str
    strategy: str


class ConflictResolved(Message):
    type: Literal["conflict:resolved"]
    payload: ConflictResolvedPayload


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
