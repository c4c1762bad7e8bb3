"""A fair turn among processes, by two file locks.

Whoever waits for the lock holds the turn, so the one that has just let the lock go queues behind it, never in front.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Turns:
    """The locks of one directory. Used by one thread at a time; blocks it until its turn has come."""

    def __init__(self, directory: Path) -> None:
        self._turn = os.open(directory / "database.turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._lock = os.open(directory / "database.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @contextmanager
    def taken(self) -> Iterator[None]:
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._turn)
        os.close(self._lock)
