"""Messages that tell of conflicts."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field

from cachesvc.protocol.envelope import Message
from cachesvc.protocol.frames import Wire

RESOLVED_BY: Final = "who settled it, or wrote last where that settles it; `system` where the policy did, or its time was over"


class Metadata(Wire):
    created_at: str
    updated_at: str
    updated_by: str
    source: str


class ConflictResolution(Wire):
    strategy: Literal["last-write-wins", "merge", "manual"]
    resolved_at: str | None = None
    resolved_by: str | None = Field(None, description=RESOLVED_BY)


class VersionedData(Wire):
    """A version of an entity."""

    id: str
    version: int
    data: Any
    metadata: Metadata
    conflict_resolution: ConflictResolution | None = None
    deleted: bool | None = None
    truncated: bool | None = Field(None, description="the value is too large to be told: GET /v1/conflicts/{id} has it")
    encoding: Literal["base64"] | None = None
    content_type: str | None = None


class ConflictVersions(Wire):
    local: VersionedData
    remote: VersionedData
    base: VersionedData | None = None
    external: VersionedData | None = None


class Named(Wire):
    """Which conflict, of which entity."""

    conflict_id: str
    entity_type: str = Field(description="the module of its key")
    entity_id: str
    key: str


class ConflictDetectPayload(Named):
    versions: ConflictVersions
    conflict_type: Literal["version", "data", "schema"]


class ConflictDetect(Message):
    """An update was made from another version than the current one."""

    type: Literal["conflict:detect"]
    payload: ConflictDetectPayload


class MergeResult(Wire):
    merged: VersionedData
    rejected: list[VersionedData]
    accepted: list[VersionedData]


class AutoMergePayload(Named):
    strategy: Literal["field-level", "timestamp", "priority"]
    result: MergeResult


class ConflictAutoMerge(Message):
    """A conflict was settled by the policy of its module."""

    type: Literal["conflict:auto-merge"]
    payload: AutoMergePayload


class ResolutionUi(Wire):
    title: str
    description: str
    fields: list[str]


class ManualResolutionPayload(Named):
    options: list[VersionedData]
    ui: ResolutionUi
    expires_at: str = Field(description="then the last write stands")


class ConflictManualResolution(Message):
    """A conflict waits for somebody to settle it; told to those who may."""

    type: Literal["conflict:manual-resolution"]
    payload: ManualResolutionPayload


class ConflictResolvedPayload(Named):
    strategy: Literal["last-write-wins", "manual"]
    resolved_by: str = Field(description=RESOLVED_BY)
    resolved_at: str
    result: VersionedData


class ConflictResolved(Message):
    """A conflict was settled, by hand or by the last write."""

    type: Literal["conflict:resolved"]
    payload: ConflictResolvedPayload


class ConflictVersion(Wire):
    """A version that is kept, by the part that it plays."""

    role: Literal["local", "remote", "base", "merged", "overwritten"]
    version: VersionedData


class ConflictTold(Named):
    """A conflict, as it is kept."""

    conflict_type: Literal["version", "data", "schema"]
    state: Literal["open", "settled"]
    strategy: Literal["field-level", "timestamp", "priority", "last-write-wins", "manual"]
    detected_at: str
    expires_at: str = Field(description="of an open one: when the last write stands; else when it is forgotten")
    version: int = Field(description="of the entry, that it left")
    fields: list[str]
    accepted: list[str] = Field(description="roles of the versions that stand")
    rejected: list[str]
    resolved_at: str | None = None
    resolved_by: str | None = Field(None, description=RESOLVED_BY)


class ConflictWhole(ConflictTold):
    """A conflict with its versions."""

    versions: list[ConflictVersion]


class ConflictList(Wire):
    conflicts: list[ConflictTold]
    cursor: str | None = Field(None, description="for the next page, where there is one")
