"""Many histories, over all cores. The same seeds are the same histories, on any machine."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.properties.history import play
from tests.properties.rules import RULES
from tests.properties.site import small

BATCH: Final = 50  # histories between two collections of garbage: within one there is little that is not


@dataclass(frozen=True, slots=True)
class Convicted:
    """A history in which something was violated: its seed, and what in words."""

    seed: int
    violations: tuple[str, ...]

    without: str = ""

    @property
    def replay(self) -> str:
        """How to see it again, step by step."""
        rule = f" --without '{self.without}'" if self.without else ""
        return f".venv/bin/python -m tests.properties --replay {self.seed}{rule}"


def convict(seeds: range, *, without: str = "") -> list[Convicted]:
    """Play the histories of these seeds, in this process."""
    found: list[Convicted] = []
    gc.disable()
    try:
        with small(), unlogged():
            for seed in seeds:
                violations = play_without(seed, without)
                if violations:
                    found.append(Convicted(seed, tuple(violations), without))
    finally:
        gc.enable()
        gc.collect()
    return found


@contextmanager
def unlogged() -> Iterator[None]:
    """Without what nodes log of faults that are meant."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def play_without(seed: int, without: str) -> list[str]:
    if not without:
        return play(seed)
    rule = RULES[without]
    with rule.without():
        return play(seed, without=rule.name)


def convict_all(seeds: range, *, without: str = "", processes: int | None = None) -> Iterator[tuple[int, list[Convicted]]]:
    """Play them in as many processes as there are cores; after each batch how many it were, and what they convicted."""
    batches = [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]
    # spawned: a process that was forked has the loops and the locks of its parent
    with multiprocessing.get_context("spawn").Pool(processes or os.cpu_count()) as pool:
        yield from pool.imap(_batch, [(batch, without) for batch in batches])


def _batch(asked: tuple[range, str]) -> tuple[int, list[Convicted]]:
    seeds, without = asked
    return len(seeds), convict(seeds, without=without)
