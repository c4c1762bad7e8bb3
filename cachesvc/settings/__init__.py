"""Settings: TOML file, environment, command line. A bad one stops the start with one line that names it."""

from cachesvc.settings.auth import Auth
from cachesvc.settings.conflicts import ConflictPolicy, Conflicts
from cachesvc.settings.levels import Database, Levels, Memory, Redis
from cachesvc.settings.loading import LoaderSettings, Loading, terms_of
from cachesvc.settings.sections import Audit, Cluster, Engine, Jobs, Log, Realtime, Server, Sites, Warm
from cachesvc.settings.sources import BUILT_IN, load_settings
from cachesvc.settings.values import Section
from cachesvc.settings.whole import Settings, check_consistency, is_loopback

__all__ = [
    "BUILT_IN",
    "Audit",
    "Auth",
    "Cluster",
    "ConflictPolicy",
    "Conflicts",
    "Database",
    "Engine",
    "Jobs",
    "Levels",
    "LoaderSettings",
    "Loading",
    "Log",
    "Memory",
    "Realtime",
    "Redis",
    "Section",
    "Server",
    "Settings",
    "Sites",
    "Warm",
    "check_consistency",
    "is_loopback",
    "load_settings",
    "terms_of",
]
