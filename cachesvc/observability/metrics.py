"""Metrics, in Prometheus' text format, on a registry of their own.

Every label is one of a few values that the code names: never a key, a path or anything else that a client chooses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate, islice
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from cachesvc.cluster.delays import BOUNDS, Delays
from cachesvc.observability.catalogue import find

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_BUCKETS: Final = (0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"})
_MOST_SAMPLES: Final = 1_000
SHOWN: Final = tuple(sorted(BOUNDS[::10] + BOUNDS[4::10] + BOUNDS[7::10]))  # 1, 2.5 and 5 of each decade


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

    def render(self, stats: Mapping[str, object], delays: Mapping[str, Delays]) -> bytes:
        """All metrics as text, with these numbers of the node."""
        self._stats.latest, self._stats.delays = stats, delays
        return generate_latest(self.registry)


class _Stats(Collector):
    """The numbers of a node's stats, as the catalogue names them, and its delays."""

    def __init__(self) -> None:
        self.latest: Mapping[str, object] = {}
        self.delays: Mapping[str, Delays] = {}

    def collect(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for path, number in islice(numbers(self.latest), _MOST_SAMPLES):
            found = find(path)
            if found is None:
                continue
            family, labels = found
            made = families.get(family.name)
            if made is None:
                kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
                made = families[family.name] = kind(family.name, family.help, labels=family.labels)
            made.add_metric(labels, number)
        yield from families.values()
        yield _histogram(self.delays)


def _histogram(delays: Mapping[str, Delays]) -> HistogramMetricFamily:
    says = "From the authority's time of a change until it was in force on this node"
    family = HistogramMetricFamily("cachesvc_visibility_seconds", says, labels=("origin",))
    for origin, noted in delays.items():
        upto = dict(zip(BOUNDS, accumulate(noted.counts), strict=False))
        buckets = [(f"{bound:g}", upto[bound]) for bound in SHOWN]
        family.add_metric((origin,), [*buckets, ("+Inf", sum(noted.counts))], noted.total)
    return family


def numbers(stats: Mapping[str, object], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every number of the stats, and where it stands; true is 1."""
    for name, value in stats.items():
        if isinstance(value, Mapping):
            yield from numbers(value, (*path, name))
        elif isinstance(value, bool | int | float):
            yield (*path, name), float(value)
