"""Messages that tell of conflicts."""

from __future__ import annotations

from typing import Any, Literal

from cachesvc.protocol.envelope import Message
from cachesvc.protocol.frames import Wire


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
