"""Settings: TOML file, environment, command line. A bad one stops the start with one line that names it."""

from cachesvc.settings.sections import (
    Auth,
    Cluster,
    Database,
    Engine,
    Levels,
    LoaderSettings,
    Log,
    Memory,
    Redis,
    Section,
    Server,
    Settings,
    check_consistency,
    is_loopback,
)
from cachesvc.settings.sources import BUILT_IN, load_settings

__all__ = [
    "BUILT_IN",
    "Auth",
    "Cluster",
    "Database",
    "Engine",
    "Levels",
    "LoaderSettings",
    "Log",
    "Memory",
    "Redis",
    "Section",
    "Server",
    "Settings",
    "check_consistency",
    "is_loopback",
    "load_settings",
]
