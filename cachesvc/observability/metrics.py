"""Metrics, in Prometheus' text format, on a registry of their own.

Every label is one of a few values that the code names: never a key, a path or anything else that a client chooses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_BUCKETS: Final = (0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"})
_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9]+")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])([A-Z])")
_MOST_SAMPLES: Final = 1_000
_HELP: Final[Mapping[tuple[str, ...], str]] = {
    ("tiers", "entries"): "Entries by tier, measured now and then; of Redis as a tier all keys of its database",
    ("tiers", "bytes"): "Bytes by tier, measured now and then; of Redis the memory used by the whole server",
}


class Metrics:
    """What is counted of requests, and what a node tells of itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "cachesvc_http_requests", "Requests answered", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "cachesvc_http_request_seconds",
            "Seconds until an answer begins",
            ("route", "method"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._stats = _Stats()
        self.registry.register(self._stats)
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request by its route's template and the class of its status."""
        method = method if method in _METHODS else "other"
        place = (route, method, status // 100)
        children = self._children.get(place)
        if children is None:
            counter = self._requests.labels(route, method, f"{status // 100}xx")
            children = self._children[place] = (counter, self._seconds.labels(route, method))
        children[0].inc()
        children[1].observe(seconds)

    def render(self, stats: Mapping[str, object]) -> bytes:
        """All metrics as text, with these numbers of the node."""
        self._stats.latest = stats
        return generate_latest(self.registry)


class _Stats(Collector):
    """The numbers of a node's stats: `{"tiers": {"memory": {"hits": 1}}}` is `cachesvc_tiers_hits{tier="memory"} 1`."""

    def __init__(self) -> None:
        self.latest: Mapping[str, object] = {}

    def collect(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for place, (path, tier, number) in enumerate(_numbers(self.latest)):
            if place == _MOST_SAMPLES:
                break
            name = "_".join(("cachesvc", *map(_name, path)))
            family = families.get(name)
            if family is None:
                labels = ("tier",) if tier else ()
                family = families[name] = GaugeMetricFamily(
                    name, _HELP.get(path, "Of this node: " + " ".join(path)), labels=labels
                )
            family.add_metric((tier,) if tier else (), number)
        yield from families.values()


def _numbers(stats: Mapping[str, object], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, float]]:
    for name, value in stats.items():
        if name == "tiers" and not path and isinstance(value, Mapping):
            for tier, numbers in value.items():
                if isinstance(numbers, Mapping):
                    yield from ((below, str(tier), number) for below, _, number in _numbers(numbers, ("tiers",)))
        elif isinstance(value, Mapping):
            yield from _numbers(value, (*path, name))
        elif isinstance(value, bool | int | float):
            yield (*path, name), "", float(value)


def _name(part: str) -> str:
    return _NOT_IN_NAMES.sub("_", _CAMEL.sub(r"_\1", part)).strip("_").lower()
