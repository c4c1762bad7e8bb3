"""What the operations answer, as models: they document it, and what is answered is made of them where it is small.

Names are camelCase on the wire. A number that is not known is null, never 0.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, StrictStr
from pydantic.alias_generators import to_camel

from cachesvc.protocol.api import AnyJson, Body, Name, Time


class _Told(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class Read(_Told):
    """How a read ended."""

    reason: str = Field(
        description="hit, absent, expired, deleted, below the floor, behind the horizon, away, overtaken, not loaded, stale, "
        "negative or left to another node"
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


class InForce(_Told):
    """An invalidation by pattern that is in force: of what matches, nothing older than `sequence` is served."""

    pattern: str
    sequence: int
    at: float = Field(description="Unix seconds")
    soft: bool
    swept: bool = Field(
        description="the authority holds nothing any more that it ended; it is kept for what is still on its way"
    )


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
    invalidations: list[InForce] = Field(
        default_factory=list, description="by pattern, in force on this node, that match; the newest first, up to a hundred"
    )
    floor: int = Field(description="the lowest version that this node still serves; 0: any")
    applied: str = Field(description="up to where this node has applied the log")
    horizon: str = Field(description="up to where this node has forgotten floors: what was not seen since is not believed")


class AuditReport(_Told):
    """What an audit of one tier of a node came to: what it holds, compared with the authority."""

    at: float = Field(description="Unix seconds: when it began")
    seconds: float
    asked: bool = Field(description="by POST /v1/sync, not by the clock")
    whole: bool = Field(description="all of the tier was looked at, not a sample")
    audited: int = Field(description="entries of which it could be told whether they agree")
    agreed: int
    repaired: int = Field(description="that differed, and were taken out; in normal operation each is a fault of the service")
    undecided: int = Field(description="of which it could not be told, since the tier had not been told what the authority had")
    coherence: float | None = Field(description="the share of the audited that agreed; null where nothing was audited")
    bytes: int = Field(description="of what was looked at, as it lies there")
    error: str | None = Field(description="why it ended early")


class SiteComparison(_Told):
    """What a comparison with another site came to."""

    at: float = Field(description="Unix seconds: when it began")
    seconds: float
    asked: bool = Field(description="by POST /v1/sync, not by the clock")
    initial: bool = Field(description="the first since the other's log could not be gone on with: it may have had much more")
    entries: int = Field(description="that this site has, what was deleted lately among them")
    differing: int = Field(description="that the other had otherwise, on the first look")
    relayed: int = Field(0, description="that a third site wrote, whose own log has not told of it yet")
    ended: int = Field(0, description="that ended at one of the two alone, and are alike now")
    repaired: int = Field(description="that it had otherwise on the second look too; unless initial, each is a fault found")
    held: int = Field(description="of a time too far ahead, which wait for it")
    refused: int = Field(description="that could not be understood, or not be carried out")
    rounds: int
    sent_bytes: int
    received_bytes: int
    policies_differ: bool = Field(False, description="[conflicts] is not the same there: it settles by other policies")
    error: str | None = Field(description="why it ended early")


class SyncAnswer(_Told):
    """An audit that was asked for."""

    node: str
    state: Literal["running", "done"] = Field(description="running: it goes on, and GET /v1/sync tells of it")
    joined: bool = Field(description="it was under way already: one at a time, so this is the one that was asked for before")
    sample: int | None = Field(description="entries of each tier at most; null: all")
    tiers: dict[str, AuditReport] = Field(description="those begun so far")
    sites: dict[str, SiteComparison] = Field(default_factory=dict, description="where other sites were asked for")


class NodeAudits(_Told):
    """The latest audits of one node."""

    node: str
    address: str
    is_self: bool = Field(alias="self")
    tiers: dict[str, AuditReport]
    sites: dict[str, SiteComparison] = Field(default_factory=dict, description="the latest comparisons with other sites")


class SyncOverview(_Told):
    """The latest audits of every node that was heard of lately, and the one that was asked for here, if it is under way."""

    running: SyncAnswer | None
    nodes: list[NodeAudits]


class Health(_Told):
    """That the process answers."""

    status: Literal["ok"]


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
        description="beyond memory measured about every 10 s, when somebody asks; of redis as a tier all keys of its Redis"
        " database (DBSIZE), two for each of 64 partitions that are no entries and those of others among them; of PostgreSQL"
        " beyond 10,000 its own estimate"
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


class Visibility(_Told):
    """How long changes took until they were in force on this node: seconds, of the last minute, too high by a quarter at most.

    From the time that the authority gave the change, as far as this node knows the authority's clock.
    """

    count: int
    p50: float | None
    p99: float | None
    max: float | None


class Stats(_Told):
    """What a node tells of itself."""

    model_config = ConfigDict(extra="allow")

    node: str
    version: str
    authority: str
    uptime: float = Field(description="seconds")
    tiers: dict[str, TierStats]
    visibility: dict[Literal["own", "others"], Visibility] = Field(description="of what was written here, and elsewhere")


class NodeTold(_Told):
    """A node that was heard of lately."""

    model_config = ConfigDict(extra="allow")

    node: str
    is_self: bool = Field(alias="self", description="whether it is the one that answers")
    address: str
    version: str
    started_at: float = Field(description="Unix seconds")
    seen_at: float = Field(description="Unix seconds")
    epoch: int
    applied: int = Field(description="the sequence up to which it has applied the log")
    lag: int | None = Field(description="changes that it is behind; null: it is in another epoch")


class Nodes(_Told):
    """The nodes."""

    nodes: list[NodeTold]


class Change(_Told):
    """A change of the log, as an event of `GET /v1/changes` tells it."""

    model_config = ConfigDict(extra="allow")

    sequence: int
    kind: str
    key: str | None = Field(description="null: it may concern any")
    at: float = Field(description="Unix seconds")
    content_type: str | None = None
    value: AnyJson = None
    encoding: Literal["base64"] | None = None
    truncated: bool = Field(False, description="the value is too long to be told")


class Warm(Body):
    """What `POST /v1/warm` takes: one of module (with userId and dataTypes), pattern and keys; with source peer none is needed.

    The pace is at most what the settings allow.
    """

    module: StrictStr | None = Field(None, description="with userId and dataTypes: the loader's keys of that user")
    user_id: StrictStr | None = None
    data_types: list[StrictStr] = Field(default_factory=list)
    pattern: Name | None = None
    keys: list[Name] = Field(default_factory=list)
    source: Literal["loader", "database", "peer"] | None = Field(
        None, description="from where it is taken; not given: loader for a module, database (the authority) otherwise"
    )
    peer: StrictStr | None = Field(None, description="the node whose hot keys are taken; not given: the one longest there")
    rate: float | None = Field(None, strict=True, gt=0, description="keys a second, at most what the settings allow")
    concurrency: int | None = Field(
        None, strict=True, ge=1, description="keys that a loader is asked for at once, at most what the settings allow"
    )


class JobError(_Told):
    """What went wrong with one key."""

    key: str
    message: str


class JobTold(_Told):
    """A job: a warm-up, a restore, or the sweep of an invalidation by pattern."""

    id: str
    kind: Literal["warm", "restore", "invalidation"]
    title: str = Field(description="what it does, in words")
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    reason: str | None = Field(description="why it failed")
    created_at: float = Field(description="Unix seconds")
    started_at: float | None
    updated_at: float
    ended_at: float | None
    node: str | None = Field(description="that runs it, or ran it last")
    done: int = Field(description="keys that are dealt with; of an invalidation: that were looked at")
    total: int | None = Field(description="null: not known")
    rate: float | None = Field(description="keys a second since it started")
    eta: float | None = Field(description="seconds, at that rate")
    counts: dict[str, int] = Field(
        description="what became of them: of a warm-up warmed, skipped and absent; of a restore restored, skipped"
        " (as new or newer here) and refused (deleted or invalidated since);"
        " of an invalidation buried"
    )
    errors: list[JobError] = Field(description="the first hundred")
    error_count: int
    attempts: int = Field(0, description="how often a node began with it since it last came further")
    note: str | None = Field(None, description="what else to know, of a job that was there already")


class Jobs(_Told):
    """Jobs, the newest first."""

    jobs: list[JobTold]


class HotKey(_Told):
    """A key that memory holds."""

    key: str
    version: int


class HotKeys(_Told):
    """What a node's memory holds, the most recently used first."""

    keys: list[HotKey]


class SnapshotHeader(_Told):
    """The first line of a snapshot. `snapshot` is the version of the format."""

    snapshot: Literal[1]
    position: str = Field(description="epoch:sequence when it began; what was written since is in it or is not")
    at: float = Field(description="Unix seconds")
    pattern: str
    service: str = Field(description="the version of the service that wrote it")


class SnapshotEntry(_Told):
    """A line of a snapshot for each entry. The value is `text`, or where it is not UTF-8, `base64`."""

    key: str
    version: int
    content_type: str
    created_at: Time
    updated_at: Time
    expires_at: Time | None
    hash: str = Field(description="xxh3-128 of content type, a zero byte and value, in hex")
    tags: list[str] = Field(default_factory=list)
    depends_on: list[str] = Field(default_factory=list)
    updated_by: str = ""
    source: str = ""
    text: str | None = None
    base64: str | None = None


class SnapshotChecksum(_Told):
    """After every thousand entries, and as the last line with `end`: xxh3-128 of all bytes before this line, in hex."""

    checksum: str
    count: int = Field(description="entries so far")
    end: bool = False
