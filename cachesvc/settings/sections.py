"""The sections of the settings, with their defaults and limits.

Every number has a range: no setting makes anything unbounded.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from cachesvc.errors import SettingsError
from cachesvc.settings.refusals import NOT_GIVEN, without_secrets

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SIZES = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def _seconds(value: object) -> object:
    """`"5m"`, `"1.5h"`, `"250ms"` or a number of seconds."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)?\s*", value)
        if found is None:
            raise ValueError("not a duration")
        return float(found[1]) * _UNITS[found[2] or "s"]
    return value


def _bytes(value: object) -> object:
    """`"64MiB"`, `"1GB"` or a number of bytes."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9]+)\s*([a-zA-Z]*)\s*", value)
        if found is None or found[2].lower() not in _SIZES:
            raise ValueError("not a size")
        return int(found[1]) * _SIZES[found[2].lower()]
    return value


def _listed(value: object) -> object:
    """`"a, b"`, as a list is written in the environment."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


MAX_TTL = 10 * 365 * 86_400.0
Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=MAX_TTL, allow_inf_nan=False)]
Size = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
HeadSize = Annotated[int, BeforeValidator(_bytes), Field(ge=1 << 10, le=1 << 20)]
FieldPath = Annotated[str, Field(pattern=r"^[^.\x00-\x1f]+(\.[^.\x00-\x1f]+)*$", max_length=200)]


class Section(BaseModel):
    """A table of the file. The specification's camelCase names are accepted beside the names here."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        alias_generator=AliasGenerator(validation_alias=to_camel),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_near_number(cls, value: object, info: ValidationInfo) -> object:
        """`true` is not 1, and 1.5 workers are not one: pydantic would take some of them."""
        kind = cls.model_fields[info.field_name].annotation if info.field_name else None
        if (kind in (int, float) and isinstance(value, bool)) or (kind is int and isinstance(value, float)):
            raise ValueError("not such a number")
        return value


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
    header_timeout: Duration = 10.0  # from the first byte of a request to the end of its headers
    max_invalidate_keys: int = Field(100_000, ge=1, le=1_000_000)  # named by one request
    max_followers: int = Field(1_000, ge=1)  # streams of GET /v1/changes open at once
    max_pipelined: int = Field(100, ge=1, le=10_000)  # requests of a connection that wait for the one before
    max_connections: int = Field(10_000, ge=1, le=1_000_000)  # of each worker; over it the next is refused
    max_requests: int = Field(10_000, ge=1, le=1_000_000)  # in progress in each worker; over it the next gets 503
    max_delay: Duration = 0.1  # work that waits longer for its turn, and goes on to, is overload: some requests get 503
    stall_timeout: Duration = 30.0  # a client that takes nothing of its answer for so long is dropped
    access_log: bool = False


class Auth(Section):
    """Who may call."""

    mode: Literal["none", "jwt"] = "none"


class Memory(Section):
    """The memory tier of each node."""

    enabled: bool = True
    ttl: Duration = 300.0
    max_size: int = Field(1_000, ge=1)
    max_bytes: Size = 256 << 20
    eviction_policy: Literal["LRU", "FIFO", "S3FIFO"] = "LRU"


class Redis(Section):
    """The Redis tier: Valkey or Redis 7, standalone or Cluster (`redis+cluster://`, `rediss+cluster://`)."""

    enabled: bool = True
    url: str = ""
    embedded: bool = False
    embedded_max_bytes: Size = 256 << 20
    ttl: Duration = 3_600.0
    ttl_jitter: float = Field(0.1, ge=0, le=0.5)  # share of the ttl that is taken off at random
    key_prefix: str = Field("cachesvc", min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:-]+$")
    compression: bool = True
    timeout: Duration | None = None  # of a call; not given: 0.25 s above a database, 5 s as the authority
    max_connections: int = Field(16, ge=1)
    max_pending: int = Field(10_000, ge=1)  # entries waiting to be put; over it the oldest are let go
    max_pending_bytes: Size = 64 << 20  # of their values
    max_recent: int = Field(10_000, ge=16)  # versions remembered per partition


class Database(Section):
    """The database tier: SQLite or PostgreSQL."""

    enabled: bool = True
    url: str = ""
    ttl: Duration = 86_400.0
    indexed_fields: Annotated[tuple[FieldPath, ...], BeforeValidator(_listed), Field(max_length=64)] = ()
    timeout: Duration = 5.0
    pool_size: int = Field(4, ge=2)
    sweep_interval: Duration = 5.0
    sweep_batch: int = Field(1_000, ge=1, le=10_000)
    sweep_pause: Duration = 0.01  # between two batches of an invalidated pattern's sweep
    idempotency_ttl: Duration = 86_400.0
    tombstone_ttl: Duration = 86_400.0


class Levels(Section):
    """The tiers. The deepest that is enabled is the authority."""

    memory: Memory = Memory()
    redis: Redis = Redis()
    database: Database = Database()


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


class LoaderSettings(Section):
    """`[loaders.NAME]`: where a miss of the module NAME gets its data."""

    kind: Literal["python"]
    target: str = Field(pattern=r"^[\w.]+:[\w.]+$")  # module:function
    timeout: Duration = 5.0


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        env_prefix="CACHESVC_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    server: Server = Server()
    auth: Auth = Auth()
    levels: Levels = Levels()
    log: Log = Log()
    engine: Engine = Engine()
    cluster: Cluster = Cluster()
    loaders: dict[str, LoaderSettings] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @property
    def authority(self) -> Literal["memory", "redis", "database"]:
        """The deepest enabled level."""
        if self.levels.database.enabled:
            return "database"
        return "redis" if self.levels.redis.enabled else "memory"

    @property
    def redis_timeout(self) -> float:
        """The time limit of a call to Redis: short above a database, long enough for a slow disk as the authority."""
        given = self.levels.redis.timeout
        if given is not None:
            return given
        return 5.0 if self.authority == "redis" else 0.25

    @property
    def database_url(self) -> str:
        """The database's URL; the file of an `sqlite:` one made absolute, a relative one being under `server.data_dir`."""
        url = self.levels.database.url
        if not url.startswith("sqlite:"):
            return url
        return f"sqlite:///{(self.server.data_dir / _sqlite_file(url)).resolve()}"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_consistency(self)
        return self


def check_consistency(settings: Settings) -> None:
    """What no setting can tell alone; raises `SettingsError`."""
    levels, server = settings.levels, settings.server
    if not (levels.memory.enabled or levels.redis.enabled or levels.database.enabled):
        raise SettingsError("levels", "none enabled", "at least one level must be enabled")
    if settings.auth.mode == "none" and not is_loopback(server.host):
        raise SettingsError("server.host", server.host, 'must be a loopback address while auth.mode = "none"')
    if settings.auth.mode == "jwt":
        raise SettingsError("auth.mode", "jwt", 'this version checks no tokens; allowed is "none"')
    if settings.authority == "memory" and server.workers > 1:
        raise SettingsError("server.workers", server.workers, "must be 1 while memory is the authority (its log is not shared)")
    if levels.redis.enabled:
        _check_redis(levels.redis, settings.authority)
    if levels.database.enabled:
        _check_database(levels.database)


def _check_redis(redis: Redis, authority: str) -> None:
    name, shown = "levels.redis.url", without_secrets(redis.url)
    if redis.url and redis.embedded:
        raise SettingsError(name, shown, "give either a url or embedded = true")
    if redis.embedded:
        return
    if not redis.url:
        needed = "give levels.redis.url, or levels.redis.embedded = true, or levels.redis.enabled = false"
        raise SettingsError(name, NOT_GIVEN, needed)
    if not re.match(r"^(rediss?|rediss?\+cluster|unix)://", redis.url):
        schemes = "redis://, rediss://, redis+cluster://, rediss+cluster:// or unix://"
        raise SettingsError(name, shown, f"starts with {schemes}")
    if not redis.url.startswith("unix:") and not _has_host(redis.url):
        raise SettingsError(name, shown, "names a host and, if any, a port from 1 to 65535")
    if not _has_database_number(redis.url):
        raise SettingsError(name, shown, "names its database, if any, by a number: redis://host/0, or unix:///path?db=0")
    if authority == "redis" and "+cluster://" in redis.url:
        raise SettingsError(
            name, shown, "a Cluster cannot be the authority: enable levels.database, or use a standalone server"
        )


def _check_database(database: Database) -> None:
    name, shown = "levels.database.url", without_secrets(database.url)
    if not database.url:
        raise SettingsError(name, NOT_GIVEN, "give levels.database.url, or levels.database.enabled = false")
    if not re.match(r"^(sqlite:|postgresql://)", database.url):
        raise SettingsError(name, shown, "starts with sqlite: or postgresql://")
    if database.url.startswith("postgresql:") and not _has_host(database.url):
        raise SettingsError(name, shown, "names a host and, if any, a port from 1 to 65535")
    if database.url.startswith("sqlite:") and not re.fullmatch(r"sqlite:(///)?/?[^/:][^:]*", database.url):
        raise SettingsError(name, shown, "names a file, like sqlite:cachesvc.db (under server.data_dir)")


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _has_database_number(url: str) -> bool:
    """Whether the path (but that of a socket) and `db=` are numbers or empty: redis-py takes others for database 0."""
    parts = urlsplit(url)
    path = "" if parts.scheme == "unix" else parts.path.removeprefix("/")
    numbers = [path, *parse_qs(parts.query, keep_blank_values=True).get("db", [])]
    return all(re.fullmatch("[0-9]{0,9}", number) for number in numbers)


def _sqlite_file(url: str) -> str:
    """The path in `sqlite:PATH` or, as SQLAlchemy writes it, `sqlite:///PATH`."""
    return re.sub(r"^sqlite:(///)?", "", url)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
