"""The envelope of all that the server sends."""

from __future__ import annotations

from pydantic import Field

from cachesvc.protocol.frames import Wire


class Message(Wire):
    """The envelope of all that the server sends."""

    timestamp: str = Field(json_schema_extra={"format": "date-time"})
    correlation_id: str | None = Field(None, description="the requestId that this answers")
    seq: int | None = Field(None, description="of pushed messages: their number in this session, from 1, without holes")
    version: int | None = Field(None, description="sequence of the change that is told")
    epoch: int | None = Field(None, description="of the change log that version and position belong to")
    position: int | None = Field(None, description="every change up to it that is due to this session has been told")
