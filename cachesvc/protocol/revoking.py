"""Revoking: how it is asked for that tokens are not believed any more, and what that is answered with."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictStr
from pydantic.alias_generators import to_camel

from cachesvc.protocol.api import MAX_TTL

MAX_CLAIM = 512  # characters of an id or a subject
_MOST = 4e9 + MAX_TTL  # Unix seconds

Claim = Annotated[StrictStr, Field(min_length=1, max_length=MAX_CLAIM)]
Moment = Annotated[float, Field(strict=True, ge=0, le=_MOST, allow_inf_nan=False)]


class Revoke(BaseModel):
    """One token by its `jti`, or those of a subject that were issued up to a time."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    jti: Claim | None = Field(None, description="the id of a token")
    sub: Claim | None = Field(None, description="a subject, instead")
    before: Moment | None = Field(
        None, description="Unix seconds: tokens of the subject issued up to then, or without iat; the default is now"
    )
    expires_at: Moment | None = Field(
        None, description="Unix seconds: when the last such token ends, and the revocation is forgotten (auth.revoked_for)"
    )

    @property
    def named(self) -> tuple[str, str, float]:
        """What stands for the wish when it is sent again."""
        return self.jti or "", f"{self.sub or ''} {self.expires_at}", self.before or 0.0


class Revoked(BaseModel):
    """What was revoked."""

    model_config = ConfigDict(alias_generator=to_camel)

    sequence: int = Field(description="a node that has applied it believes no such token")
    operation: str
    expires_at: float
    jti: str | None = None
    sub: str | None = None
    before: float | None = None
    applied: bool | None = Field(None, description="with wait=all: by every live node")
    missing: list[str] | None = None
    silent: list[str] | None = None
