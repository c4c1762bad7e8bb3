"""The sections of the settings beside the levels, with their defaults and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from cachesvc.settings.values import Duration, HeadSize, Origins, Rate, Section, Size, Span, Words

_MISSED = 5  # heartbeats, of a node that is gone


class Server(Section):
    """Where and how the service listens."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65_535)
    workers: int = Field(1, ge=1, le=64)
    data_dir: Path = Path("var")
    max_value_size: Size = Field(1 << 20, le=64 << 20)
    max_batch_operations: int = Field(1_000, ge=1, le=100_000)
    shutdown_timeout: Duration = 10.0
    max_request_line: HeadSize = 8 << 10  # bytes of a request's target
    max_header_bytes: HeadSize = 32 << 10
    max_headers: int = Field(100, ge=10, le=10_000)
    header_timeout: Duration = 10.0  # from the first byte of a request to the end of its headers; and for a socket to be let in
    max_invalidate_keys: int = Field(100_000, ge=1, le=1_000_000)  # named by one request
    max_followers: int = Field(1_000, ge=1)  # streams of GET /v1/changes open at once
    max_pipelined: int = Field(100, ge=1, le=10_000)  # requests of a connection that wait for the one before
    max_connections: int = Field(10_000, ge=1, le=1_000_000)  # of each worker; over it the next is refused
    max_requests: int = Field(10_000, ge=1, le=1_000_000)  # in progress in each worker; over it the next gets 503
    max_delay: Duration = 0.1  # work that waits longer for its turn, and goes on to, is overload: some requests get 503
    stall_timeout: Duration = 30.0  # a client that takes nothing of its answer for so long is dropped
    access_log: bool = False
    hot_path: bool = True  # usual requests are answered where their bytes arrive; else all take the plain route


class Log(Section):
    """How much of the change log is kept."""

    max_age: Duration = 86_400.0
    max_count: int = Field(1_000_000, ge=1_000)
    max_bytes: Size = 1 << 30
    poll_interval: Duration = 0.25


class Engine(Section):
    """Limits of a node."""

    max_floors: int = Field(200_000, ge=1_000)
    max_patterns: int = Field(1_000, ge=1, le=10_000)  # invalidations by pattern that are active at once
    max_cascade: int = Field(1_000_000, ge=1, le=10_000_000)  # keys of one cascade
    max_cascade_depth: int = Field(1_000, ge=1, le=10_000)  # levels of dependents
    max_pending_reads: int = Field(50_000, ge=1)
    max_pending_writes: int = Field(50_000, ge=1)
    max_pending_write_bytes: Size = 64 << 20  # of the values waiting to be appended; over it a write gets 503
    batch_drafts: int = Field(512, ge=1, le=10_000)
    batch_bytes: Size = 4 << 20
    batch_reads: int = Field(512, ge=1, le=10_000)
    read_lanes: int = Field(4, ge=1, le=64)
    min_version_wait: Duration = 1.0
    request_timeout: Duration = 10.0


class Cluster(Section):
    """Nodes that share an authority."""

    site: str = Field("local", min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    heartbeat: Duration = 1.0
    lease: Duration = 5.0
    replay_interval: Duration = 0.01

    @property
    def gone_after(self) -> float:
        """Seconds without a heartbeat after which a node is not counted any more."""
        return _MISSED * self.heartbeat


class PeerSettings(Section):
    """`[sites.peers.NAME]`: another site, by the name that it calls itself."""

    url: str = Field(pattern=r"^https?://[^\s/?#]+/?$", max_length=1_000)  # of any of its nodes, or what is before them
    secret: str = Field(max_length=1_000, repr=False)  # that both sites have


class Sites(Section):
    """Other sites, with stores of their own, that this one follows."""

    peers: dict[str, PeerSettings] = Field(default_factory=dict)
    interval: Duration = 60.0  # between two comparisons with a site
    bandwidth: Rate = 0.0  # bytes a second that are taken from each site; 0: as many as come
    max_ahead: Span = 60.0  # of this clock; what another site writes beyond that waits until then
    max_held: int = Field(10_000, ge=0, le=1_000_000)  # such entries of a site that wait in memory
    max_held_bytes: Size = 64 << 20  # of their values
    digest_idle: Duration = 600.0  # after the last comparison, for which a node keeps the digest


class Jobs(Section):
    """Jobs: warm-ups and restores."""

    at_once: int = Field(2, ge=1, le=16)  # on each node
    max_open: int = Field(100, ge=1, le=10_000)  # waiting or running; over it the next gets 503
    poll_interval: Duration = 1.0  # how often a node looks for a job that another began
    kept_for: Duration = 86_400.0  # after their end
    max_kept: int = Field(1_000, ge=1, le=10_000)
    max_attempts: int = Field(5, ge=1, le=1_000)  # times that a node may go while it runs a job, before the job fails
    max_spool: Size = 1 << 30  # of snapshots under server.data_dir that wait to be restored
    max_snapshots: int = Field(4, ge=1, le=100)  # streams of GET /v1/snapshot open at once, and of POST /v1/restore
    max_listeners: int = Field(100, ge=1, le=10_000)  # streams of GET /v1/jobs/{id}/events open at once


class Audit(Section):
    """How what memory and Redis hold is compared with the authority while the service runs."""

    interval: Duration = 60.0  # between two rounds: of each node over its memory, of one node over Redis
    sample: int = Field(1_000, ge=0, le=1_000_000)  # entries of a round; 0: only what is asked for by POST /v1/sync
    rate: float = Field(5_000.0, gt=0, le=1_000_000)  # entries a second, also of what is asked for


class ModuleSettings(Section):
    """`[realtime.modules.NAME]`: as which message changes of the keys NAME:… are told."""

    type: str = Field(pattern=r"^[a-z][a-z-]*:[a-z][a-z-]*$", max_length=64)
    entity: str = Field("", max_length=64)  # the member of the payload that carries the value; not given: NAME
    also: Words = ()  # other names of the module as a resource


class Realtime(Section):
    """The socket at /v1/ws/realtime."""

    allowed_origins: Origins = ()  # of pages in browsers, exactly; what sends no Origin is no page
    max_subscriptions: int = Field(1_000, ge=1, le=100_000)  # of a connection
    max_in_flight: int = Field(64, ge=1, le=10_000)  # commands of a connection that are carried out at once; more wait
    max_batch: int = Field(256, ge=1, le=10_000)  # messages in one batch:update
    queue_size: Size = 1 << 20  # that wait for a connection to read; over it the connection is dropped
    send_timeout: Duration = 10.0  # for a connection to take a message; and for one that is over to end
    ping_interval: Duration = 20.0
    ping_timeout: Duration = 20.0
    auth_timeout: Duration = 10.0  # until the first message must have said who the client is
    challenge_timeout: Duration = 30.0  # until a challenge must be signed
    renewal_notice: Span = 30.0  # before the end of a token its client is asked for another
    renewal_grace: Span = 25.0  # after it, for that to come
    max_errors: int = Field(100, ge=1)  # that a client may cause within a window
    max_refusals: int = Field(1_000, ge=1)  # by the rate, within a window
    error_window: Duration = 60.0
    max_connections: int = Field(10_000, ge=1, le=1_000_000)  # of each worker; over it the next is closed at once
    max_connections_per_address: int = Field(10_000, ge=1, le=1_000_000)
    drain_spread: Span = 5.0  # over which clients are asked to come back when the node stops
    drain_timeout: Duration = 2.0  # for them to be told
    remembered: int = Field(1_000, ge=0, le=100_000)  # messages pushed to a connection, for when it missed some
    remembered_bytes: Size = 256 << 10
    kept_for: Duration = 120.0  # what was pushed to a connection that ended, for when its client comes back
    max_kept: int = Field(10_000, ge=0, le=1_000_000)  # such connections
    max_kept_bytes: Size = 64 << 20
    agenda_interval: Duration = 1.0  # how often the node that tells reminders looks whether one is due
    reminder_late: Duration = 3_600.0  # a reminder that nobody was there to tell for so long is not told any more
    modules: dict[str, ModuleSettings] = Field(default_factory=dict)


class Warm(Section):
    """Warm-ups: their pace, and what a new node warms before it says that it is ready."""

    rate: float = Field(10_000.0, gt=0, le=10_000_000)  # keys a second, where a request names none
    max_rate: float = Field(100_000.0, gt=0, le=10_000_000)
    concurrency: int = Field(16, ge=1, le=10_000)  # keys that a loader is asked for at once, where a request names none
    max_concurrency: int = Field(256, ge=1, le=10_000)
    max_keys: int = Field(100_000, ge=1, le=1_000_000)  # named by one request
    on_start: Literal["no", "peer", "database"] = "no"
    on_start_pattern: str = Field("*", min_length=1, max_length=512)
    on_start_within: Duration = 30.0  # then the node says that it is ready, however far it came
