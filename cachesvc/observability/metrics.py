"""Metrics, in Prometheus' text format, on a registry of their own.

Every label is one of a few values that the code names: never a key, a path or anything else that a client chooses.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import accumulate, islice
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from cachesvc.cluster.delays import BOUNDS, Delays
from cachesvc.observability.catalogue import find

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_BUCKETS: Final = (0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"})
_MOST_SAMPLES: Final = 20_000  # 50 sites and hundreds of loaders have fewer
SHOWN: Final = tuple(sorted(BOUNDS[::10] + BOUNDS[4::10] + BOUNDS[7::10]))  # 1, 2.5 and 5 of each decade


Place = tuple[str, str, int]  # what a request is counted under


def place_of(route: str, method: str, status: int) -> Place:
    return route, method if method in _METHODS else "other", status // 100


class Metrics:
    """What is counted of requests, and what a node tells of itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = _Requests()
        self.note = self._requests.note
        self._stats = _Stats()
        self.registry.register(self._requests)
        self.registry.register(self._stats)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request by its route's template and the class of its status."""
        self.note(place_of(route, method, status), seconds)

    def render(self, stats: Mapping[str, object], delays: Mapping[str, Delays]) -> bytes:
        """All metrics as text, with these numbers of the node."""
        self._stats.latest, self._stats.delays = stats, delays
        return generate_latest(self.registry)


class _Requests(Collector):
    """Requests answered and their seconds: plain numbers, put together when they are asked for.

    prometheus_client's own take five times as long for each request, a tenth of what a hit in memory costs.
    """

    def __init__(self) -> None:
        self._counted: dict[Place, list[int]] = {}  # by bucket, the last without a bound
        self._seconds: dict[Place, float] = {}

    def note(self, place: Place, seconds: float) -> None:
        try:
            self._counted[place][bisect_left(_BUCKETS, seconds)] += 1
            self._seconds[place] += seconds
        except KeyError:
            self._counted[place] = [0] * (len(_BUCKETS) + 1)
            self._seconds[place] = 0.0
            self.note(place, seconds)

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("cachesvc_http_requests", "Requests answered", labels=("route", "method", "status"))
        took: dict[tuple[str, str], list[int]] = {}
        seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        for (route, method, status), counted in self._counted.items():
            requests.add_metric((route, method, f"{status}xx"), sum(counted))
            so_far = took.get((route, method), [0] * len(counted))
            took[route, method] = [a + b for a, b in zip(so_far, counted, strict=True)]
            seconds[route, method] += self._seconds[route, method, status]
        histogram = HistogramMetricFamily(
            "cachesvc_http_request_seconds", "Seconds until an answer begins", labels=("route", "method")
        )
        bounds = (*map(floatToGoString, _BUCKETS), "+Inf")
        for place, counted in took.items():
            histogram.add_metric(place, list(zip(bounds, accumulate(counted), strict=True)), seconds[place])
        yield from (requests, histogram)


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
