"""What the operations answer, as models: they document it, and what is answered is made of them where it is small.

Names are camelCase on the wire. A number that is not known is null, never 0.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class _Told(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class Read(_Told):
    """How a read ended."""

    reason: str = Field(
        description="hit, absent, expired, deleted, below the floor, behind the horizon, away, overtaken or not loaded"
    )
    at: float = Field(description="Unix seconds; of a hit in memory, which is not noted: since when reads hit there")


class TierExplained(_Told):
    """What one tier holds under a key."""

    present: bool = Field(description="whether it holds an entry, be it past its life or in doubt")
    live: bool = Field(description="whether a read would be answered with it")
    version: int | None = Field(description="also of a deletion that is remembered")
    ttl: float | None = Field(description="seconds left of the entry's life; null: does not end")
    stays: float | None = Field(description="seconds until this tier lets go of it; null: not by time")
    size: int | None = Field(description="bytes of the value")
    stored_size: int | None = Field(description="bytes as Redis holds it, compressed and with what is known of it")
    believed: bool
    doubt: str | None = Field(description="why what is held, or is not, is not believed")
    replayed_to: str | None = Field(description="of Redis: up to where the log was replayed into the key's partition")
    last_read: Read | None = Field(
        description="how the last read of this key that came here ended on this node; null: none lately; memory notes none"
    )


class WrittenBy(_Told):
    """The record of the log that wrote the newest version."""

    sequence: int
    kind: str
    at: float = Field(description="Unix seconds")
    actor: str | None
    source: str | None
    batch: str = Field(description="the id of the append that it was part of")


class Dependents(_Told):
    """Entries that name this key as a parent."""

    keys: list[str]
    more: bool = Field(description="whether there are more than are listed")


class Explanation(_Told):
    """What is known of a key on this node, now."""

    key: str
    tiers: dict[str, TierExplained] = Field(description="the enabled ones, from the top; the last is the authority")
    content_type: str | None
    tags: list[str]
    parents: list[str]
    dependents: Dependents | None = Field(description="null where the authority keeps no index of them")
    written_by: WrittenBy | None = Field(description="null when the record is no longer kept")
    last_load: Read | None = Field(description="how the last call of the loader for this key ended on this node")
    floor: int = Field(description="the lowest version that this node still serves; 0: any")
    applied: str = Field(description="up to where this node has applied the log")
    horizon: str = Field(description="up to where this node has forgotten floors: what was not seen since is not believed")


class Readiness(_Told):
    """Whether the node can serve, and each of its parts."""

    status: Literal["ready", "not ready"]
    tiers: dict[str, str] = Field(
        description="ok, or why not. Only clock, log and authority make a node unready; an authority that takes no writes"
        " says 'reads only'"
    )


class TierStats(_Told):
    """Counts of a tier since the start of this node."""

    model_config = ConfigDict(extra="allow")

    hits: int
    misses: int
    entries: int | None = Field(
        description="measured at most every 10 s; of redis as a tier all keys of its Redis database, of PostgreSQL beyond"
        " 10,000 its own estimate"
    )
    bytes: int | None = Field(
        description="of memory what its entries are counted for; of redis the memory used by the whole server, of a Cluster by"
        " all masters; of SQLite the file; of PostgreSQL the table with its indexes"
    )
    evictions: int
    latency: dict[str, float] = Field(description="p50, p95 and p99 of the latest calls, in seconds")
    breaker: Literal["closed", "open", "half-open"]
    writes_breaker: Literal["closed", "open", "half-open"] | None = Field(None, description="of the authority")
    error: str | None = None


class Stats(_Told):
    """What a node tells of itself."""

    model_config = ConfigDict(extra="allow")

    node: str
    version: str
    authority: str
    uptime: float = Field(description="seconds")
    tiers: dict[str, TierStats]
