"""Messages that tell of changes of entries, module by module."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, create_model

from cachesvc.protocol.envelope import Message
from cachesvc.protocol.frames import Wire

Action = Literal["created", "updated", "deleted"]
TaskSource = Literal["internal", "motion", "manual"]
GoogleSource = Literal["internal", "google"]
Importance = Literal["low", "normal", "high"]
MailStatus = Literal["read", "unread", "starred", "unstarred"]


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
    source: TaskSource
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
    source: GoogleSource
    attendees: list[Any] | None = None


class CalendarUpdate(Message):
    type: Literal["calendar:update"]
    payload: CalendarPayload


class ReminderPayload(Wire):
    event_id: str
    key: str
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
    importance: Importance


class EmailNew(Message):
    type: Literal["email:new"]
    payload: EmailNewPayload


class EmailStatusPayload(Pushed):
    message_id: str
    status: MailStatus
    changed_by: str
    message: Any = Field(None, description="the mail as it is now: more than its status may have changed")


class EmailStatus(Message):
    type: Literal["email:status"]
    payload: EmailStatusPayload


class ContactPayload(Pushed):
    action: Action
    contact: Any
    source: GoogleSource
    merge_conflict: bool | None = None


class ContactUpdate(Message):
    type: Literal["contact:update"]
    payload: ContactPayload


def message_of(kind: str, entity: str) -> type[Message]:
    """The message of a module that the settings add: as the others of entities, without what only those have."""
    name = "".join(part.capitalize() for part in re.split("[:-]", kind))
    said: dict[str, Any] = {"action": (Action, ...), "entity": (Any, Field(alias=entity)), "source": (str, ...)}
    payload = create_model(f"{name}Payload", __base__=Pushed, **said)
    members: dict[str, Any] = {"type": (Literal[kind], ...), "payload": (payload, ...)}
    return create_model(name, __base__=Message, **members)
