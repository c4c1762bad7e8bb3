"""The sections of the levels, and what their URLs may be."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field

from cachesvc.errors import SettingsError
from cachesvc.settings.refusals import NOT_GIVEN, without_secrets
from cachesvc.settings.values import Duration, FieldPaths, Section, Size, Span


class Memory(Section):
    """The memory tier of each node."""

    enabled: bool = True
    ttl: Duration = 300.0
    max_size: int = Field(1_000, ge=1)
    max_bytes: Size = 256 << 20
    eviction_policy: Literal["LRU", "FIFO", "S3FIFO"] = "LRU"

    @property
    def serves_for(self) -> float:
        """Seconds for which a node that is cut off may serve what it holds."""
        return self.ttl if self.enabled else 0.0


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
    indexed_fields: FieldPaths = ()
    timeout: Duration = 5.0
    pool_size: int = Field(4, ge=2)
    sweep_interval: Duration = 5.0
    sweep_batch: int = Field(1_000, ge=1, le=10_000)
    sweep_pause: Span = 0.01  # between two batches of an invalidated pattern's sweep, at least
    sweep_share: float = Field(0.2, gt=0, le=1)  # of the time that such a sweep may take up
    idempotency_ttl: Duration = 86_400.0
    tombstone_ttl: Duration = 86_400.0


class Levels(Section):
    """The tiers. The deepest that is enabled is the authority."""

    memory: Memory = Memory()
    redis: Redis = Redis()
    database: Database = Database()


def check_redis(redis: Redis, authority: str) -> None:
    name, shown = "levels.redis.url", without_secrets(redis.url)
    if redis.url and redis.embedded:
        raise SettingsError(name, shown, "give either a url or embedded = true")
    if redis.embedded:
        return
    if not redis.url:
        needed = "give levels.redis.url, or levels.redis.embedded = true, or levels.redis.enabled = false"
        raise SettingsError(name, NOT_GIVEN, needed)
    if not re.match(r"^(rediss?(\+cluster|\+sentinel)?|unix)://", redis.url):
        schemes = "redis:// or rediss://, either with +cluster or +sentinel before the colon, or with unix://"
        raise SettingsError(name, shown, f"starts with {schemes}")
    if "+sentinel://" in redis.url:
        _check_sentinels(redis, name, shown, authority)
        return
    if not redis.url.startswith("unix:") and not _has_host(redis.url):
        raise SettingsError(name, shown, "names a host and, if any, a port from 1 to 65535")
    if not _has_database_number(redis.url):
        raise SettingsError(name, shown, "names its database, if any, by a number: redis://host/0, or unix:///path?db=0")
    if authority == "redis" and "+cluster://" in redis.url:
        raise SettingsError(
            name, shown, "a Cluster cannot be the authority: enable levels.database, or use a standalone server"
        )


def _check_sentinels(redis: Redis, name: str, shown: str, authority: str) -> None:
    if authority == "redis":
        needed = "enable levels.database, or use a standalone server"
        raise SettingsError(name, shown, f"a replica that is promoted may lack what was acknowledged: {needed}")
    if not _has_hosts(redis.url):
        raise SettingsError(name, shown, "names each Sentinel as host or host:port, a comma between two")
    if not re.fullmatch(r"/[\w.-]+(/[0-9]{1,9})?", urlsplit(redis.url).path):
        raise SettingsError(
            name, shown, "names the master that the Sentinels watch: redis+sentinel://host:26379/NAME, or /NAME/DB"
        )


def check_database(database: Database) -> None:
    name, shown = "levels.database.url", without_secrets(database.url)
    if not database.url:
        raise SettingsError(name, NOT_GIVEN, "give levels.database.url, or levels.database.enabled = false")
    if not re.match(r"^(sqlite:|postgresql://)", database.url):
        raise SettingsError(name, shown, "starts with sqlite: or postgresql://")
    if database.url.startswith("postgresql:") and not _has_hosts(database.url):
        raise SettingsError(name, shown, "names a host, or several with commas between them, and ports from 1 to 65535")
    if database.url.startswith("sqlite:") and not re.fullmatch(r"sqlite:(///)?/?[^/:][^:]*", database.url):
        raise SettingsError(name, shown, "names a file, like sqlite:cachesvc.db (under server.data_dir)")


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _has_hosts(url: str) -> bool:
    """Whether a URL names a host, or several with commas between them."""
    scheme, _, rest = url.partition("://")
    hosts = re.split("[/?#]", rest)[0].rpartition("@")[2]
    return all(_has_host(f"{scheme}://{host}") for host in hosts.split(","))


def _has_database_number(url: str) -> bool:
    """Whether the path (but that of a socket) and `db=` are numbers or empty: redis-py takes others for database 0."""
    parts = urlsplit(url)
    path = "" if parts.scheme == "unix" else parts.path.removeprefix("/")
    numbers = [path, *parse_qs(parts.query, keep_blank_values=True).get("db", [])]
    return all(re.fullmatch("[0-9]{0,9}", number) for number in numbers)


def sqlite_file(url: str) -> str:
    """The path in `sqlite:PATH` or, as SQLAlchemy writes it, `sqlite:///PATH`."""
    return re.sub(r"^sqlite:(///)?", "", url)
