"""All settings together, and what no setting can tell alone."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from cachesvc.errors import InvalidInput, SettingsError
from cachesvc.model.pattern import parse_pattern
from cachesvc.settings.auth import LEAST_SECRET, Auth, check_auth
from cachesvc.settings.conflicts import Conflicts
from cachesvc.settings.levels import Levels, check_database, check_redis, sqlite_file
from cachesvc.settings.loading import LoaderSettings, Loading, check_loader
from cachesvc.settings.rates import Rates
from cachesvc.settings.sections import Audit, Cluster, Engine, Jobs, Log, Realtime, Server, Sites, Warm

MAX_PEERS: Final = 50
SITE_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


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
    sites: Sites = Sites()
    jobs: Jobs = Jobs()
    audit: Audit = Audit()
    realtime: Realtime = Realtime()
    conflicts: Conflicts = Conflicts()
    warm: Warm = Warm()
    rates: Rates = Rates()
    loading: Loading = Loading()
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
        return f"sqlite:///{(self.server.data_dir / sqlite_file(url)).resolve()}"

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
    check_auth(settings.auth)
    if settings.authority == "memory" and server.workers > 1:
        raise SettingsError("server.workers", server.workers, "must be 1 while memory is the authority (its log is not shared)")
    if levels.redis.enabled:
        check_redis(levels.redis, settings.authority)
    if levels.database.enabled:
        check_database(levels.database)
    for module, loader in settings.loaders.items():
        check_loader(module, loader)
    check_sites(settings)
    try:
        parse_pattern(settings.warm.on_start_pattern)
    except InvalidInput as wrong:
        raise SettingsError("warm.on_start_pattern", settings.warm.on_start_pattern, wrong.reason) from None


def check_sites(settings: Settings) -> None:
    """What is to be true of other sites; raises `SettingsError`."""
    own, peers = settings.cluster.site, settings.sites.peers
    if peers and settings.authority != "database":
        raise SettingsError("sites.peers", ", ".join(peers), "needs the database level, which remembers what was deleted")
    if len(peers) > MAX_PEERS:
        raise SettingsError("sites.peers", len(peers), f"names at most {MAX_PEERS} sites")
    for name, peer in peers.items():
        if name == own or not SITE_NAME.fullmatch(name):
            raise SettingsError("sites.peers", name, f"must be the name of a site other than this one, {own} (cluster.site)")
        if len(peer.secret.encode()) < LEAST_SECRET:
            raise SettingsError(f"sites.peers.{name}.secret", "***", f"must be of at least {LEAST_SECRET} bytes")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
