"""Drift: what grows while the load stays the same. Samples of a service's processes, and of how soon it answers."""

from __future__ import annotations

import http.client
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import psutil

SAMPLES: Final = 120  # of a soak, whatever its length
_PROBES: Final = 20  # reads for each sample
_LEAST: Final = 8  # samples that say anything


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory in bytes and open descriptors of all processes, and the median time of a read in seconds."""

    memory: int
    descriptors: int
    latency: float


@dataclass(frozen=True, slots=True)
class Bound:
    """How much more the last quarter may have than the second: a share of it, and so much besides."""

    share: float
    more: float
    unit: float
    shown: str


BOUNDS: Final = {
    "memory": Bound(0.10, 8 << 20, 1 << 20, "{:,.1f} MiB"),
    "descriptors": Bound(0.10, 8, 1, "{:,.0f}"),
    "latency": Bound(1.00, 0.005, 1e-3, "{:,.2f} ms"),
}


def drift(samples: Sequence[Sample]) -> tuple[list[str], bool]:
    """What became of each, in lines, and whether all stayed as it was.

    The first quarter, in which caches fill, does not count.
    """
    if len(samples) < _LEAST:
        return [f"too short to tell of any drift: {len(samples)} samples"], False
    quarter = len(samples) // 4
    lines, steady = [], True
    for name, bound in BOUNDS.items():
        before = statistics.median(float(getattr(sample, name)) for sample in samples[quarter : 2 * quarter])
        after = statistics.median(float(getattr(sample, name)) for sample in samples[-quarter:])
        grown = after > before * (1 + bound.share) + bound.more
        steady = steady and not grown
        was, now = (bound.shown.format(value / bound.unit) for value in (before, after))
        lines.append(f"{name}: {was} in the second quarter, {now} in the last{': DRIFTED' if grown else ''}")
    return lines, steady


@dataclass(slots=True)
class Watch:
    """Looks at a process, its children and its answers every so often."""

    url: str
    pid: int
    every: float
    samples: list[Sample] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Until it is over."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        while not self._over.wait(self.every):
            with suppress(OSError, http.client.HTTPException, psutil.Error):  # what is wrong with it the load finds out
                self.samples.append(self._sample(connection))
        connection.close()

    def end(self) -> None:
        self._over.set()

    def _sample(self, connection: http.client.HTTPConnection) -> Sample:
        times = []
        for _ in range(_PROBES):
            began = time.perf_counter()
            connection.request("GET", "/v1/cache/soak%3Aabsent")
            connection.getresponse().read()
            times.append(time.perf_counter() - began)
        service = psutil.Process(self.pid)
        processes = [service, *service.children(recursive=True)]
        memory = sum(process.memory_info().rss for process in processes)
        return Sample(memory, sum(process.num_fds() for process in processes), statistics.median(times))


@contextmanager
def watched(url: str, pid: int, seconds: float) -> Iterator[Watch]:
    """A watch that goes on meanwhile."""
    watch = Watch(url, pid, seconds / SAMPLES)
    thread = threading.Thread(target=watch.look)
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join()
