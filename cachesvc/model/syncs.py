"""Syncs: how far a batch or a restore has come, as the subscribers of `task` are told of it."""

from __future__ import annotations

from typing import Final

import orjson

from cachesvc.model.change import Publication

MESSAGE: Final = "task:sync"
STEP: Final = 0.1  # of the whole, after which it is told again
MOST: Final = 20  # errors that are told


class Sync:
    """One of them, by its name; `told` is how far it was told to have come, None before its begin was."""

    def __init__(self, name: str, total: int, *, processed: int = 0, begun: bool = False) -> None:
        self.name = name
        self.total = total
        self.processed = processed
        self.errors: list[str] = []
        self.failed = 0
        self.told: float | None = 0.0 if begun else None
        self._over = False

    def note(self, done: int, *errors: str) -> None:
        """So many more are done, and these of them are wrong."""
        self.processed = min(self.total, self.processed + done)
        self.failed += len(errors)
        self.errors += errors[: MOST - len(self.errors)]

    def next(self, broken: str = "") -> Publication | None:
        """What is to be told now, if anything is; `broken` says why it goes on no more."""
        begins = self.told is None and not broken  # which is told as it was, whatever has been done since
        processed = 0 if begins else self.processed
        progress = processed / self.total if self.total else float(not begins)
        over = bool(broken) or (self.told is not None and self.processed >= self.total)
        if self._over or (self.told is not None and not over and progress < self.told + STEP):
            return None
        if over:
            failed = broken or (self.total and self.failed >= self.total)
            status = "error" if failed else "completed"
        else:
            status = "started" if begins else "progress"
        self.told, self._over = progress, over
        said: dict[str, object] = {
            "syncId": self.name,
            "status": status,
            "progress": round(progress, 4),
            "processed": processed,
            "total": self.total,
        }
        errors = [] if begins else [*self.errors, *([broken] if broken else ())]
        if errors:
            said["errors"] = errors
        return Publication(resource_of(self.name), orjson.dumps(said), type=MESSAGE)


def resource_of(name: str) -> str:
    return f"task:{name}"
