"""`[conflicts]`: what becomes of updates that were made from another version than the current one, module by module."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cachesvc.settings.values import Duration, Section, Words


class ConflictPolicy(Section):
    """How conflicts of a module are settled."""

    strategy: Literal["last-write-wins", "field-level", "timestamp", "priority", "manual"] = "last-write-wins"
    otherwise: Literal["last-write-wins", "manual"] = "last-write-wins"  # where fields clash, or the base is not known any more
    sources: Words = ()  # for strategy = "priority": the first wins
    time_field: str = Field("updatedAt", min_length=1, max_length=200)  # for strategy = "timestamp": the value's own time

    @model_validator(mode="after")
    def _ranks(self) -> Self:
        if self.strategy == "priority" and not self.sources:
            raise ValueError('needs sources with strategy = "priority"')
        return self


class Conflicts(ConflictPolicy):
    """The policy of modules that have none of their own, and for how long conflicts are kept."""

    expire_after: Duration = 86_400.0  # a conflict that nobody settles is settled by the last write
    kept_for: Duration = 7 * 86_400.0  # after it was settled, with the versions that lost
    max_kept: int = Field(10_000, ge=1, le=1_000_000)  # the oldest go first
    modules: dict[str, ConflictPolicy] = Field(default_factory=dict)
