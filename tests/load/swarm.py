"""The swarm: locust's users against the service, in a process of its own (importing locust changes its sockets).

What a read must show is taken down before its request is sent, what a write achieved after its answer has come.
"""

from __future__ import annotations

import html
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final
from urllib.parse import quote

import gevent
from gevent.event import Event
from locust import FastHttpUser, constant, constant_throughput
from locust.contrib.fasthttp import FastHttpSession
from locust.env import Environment
from locust.event import EventHook
from locust.html import get_html_report
from locust.stats import stats_history

from tests.load.checker import Checker
from tests.load.figures import ALL, Figures, tier_of, verdict
from tests.load.plan import Failed, Plan
from tests.load.popularity import Popularity

TIMEOUT: Final = 15.0  # seconds for a request
MAX_REQUESTS: Final = 10_000_000
MAX_FAILED: Final = 1_000  # then the run is over: nothing more is to be learned
DELETIONS: Final = 5.0  # a second at most
_BATCH: Final = 200  # keys loaded in one request
_TEXT: Final = "All that a reader sees of a value is that it is the one written: its key, its number, and this much text. " * 4
_ETAG: Final = re.compile(r'"([0-9]{1,16})"')


class Load:
    """What the users of a run share."""

    def __init__(self, plan: Plan, popularity: Popularity) -> None:
        self.plan = plan
        self.popularity = popularity
        self.checker = Checker(one_node=plan.nodes == 1)
        self.figures = Figures()
        self.over = Event()
        self.ttl = int(plan.seconds) + 3_600  # what a run wrote to a running service goes away
        self._seeds = iter(range(plan.seed, sys.maxsize))

    def random(self) -> Random:
        return Random(next(self._seeds))

    def record(self, name: str, response_time: float, exception: Exception | None, **_: object) -> None:
        """A request has ended (locust's event); its time comes in milliseconds."""
        self.figures.add(name, response_time / 1_000, None if exception is None else str(exception) or repr(exception))
        self._end_if_enough()

    def broke(self, exception: Exception, **_: object) -> None:
        """A user has met what it does not understand (locust's event)."""
        self.figures.fail("user", repr(exception))
        self._end_if_enough()

    def _end_if_enough(self) -> None:
        if self.figures.timings[ALL].count >= MAX_REQUESTS or self.figures.failed[ALL] >= MAX_FAILED:
            self.over.set()


def content(key: str, counter: int) -> dict[str, object]:
    return {"key": key, "counter": counter, "text": _TEXT}


class CacheUser(FastHttpUser):  # type: ignore[misc]
    """A user with a connection of its own, and a pace."""

    abstract = True
    network_timeout = connection_timeout = TIMEOUT
    most: ClassVar[float] = 0.0  # tasks a second; 0: no limit

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.load: Load = environment.load
        self.rng = self.load.random()
        plan = self.load.plan
        rates = [rate for rate in (self.most, plan.rate / plan.users) if rate]
        self._interval = 1 / min(rates) if rates else 0.0
        self._pace: Callable[[CacheUser], float] = constant_throughput(min(rates)) if rates else constant(0)

    def on_start(self) -> None:
        gevent.sleep(self.rng.random() * self._interval)  # else all would ask at once, each time

    def wait_time(self) -> float:
        return self._pace(self)

    def asked(self, method: str, name: str, key: str, **arguments: Any) -> Any:
        query = f"?ttl={self.load.ttl}" if method == "PUT" else ""
        path = f"/v1/cache/{quote(key)}{query}"
        return self.client.request(method, path, name=name, catch_response=True, allow_redirects=False, **arguments)

    def put(self, name: str, key: str, headers: dict[str, str]) -> None:
        write = self.load.checker.begin_write(key)
        headers = {"Content-Type": "application/json", **headers}
        with self.asked("PUT", name, key, data=json.dumps(content(key, write.counter)), headers=headers) as answer:
            if answer.status_code == 412 and "Fill-Token" in headers:
                self.load.figures.refused += 1
                answer.success()
            elif answer.status_code not in {200, 201}:
                failed(answer)
            elif (version := version_of(answer)) is not None:
                self.load.checker.end_write(write, version)


class Reader(CacheUser):
    """Reads; what it misses it computes and sends with the token of the miss."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._keys = self.load.popularity.reads(self.rng)
        self._plain = False

    def read(self) -> None:
        key = next(self._keys)
        token = self._read(key)
        if token is not None:
            self.put("fill", key, {"Fill-Token": token})

    tasks: ClassVar = [read]

    def _read(self, key: str) -> str | None:
        """The token to fill a miss with."""
        self._plain = not self._plain
        read = self.load.checker.begin_read(key, exact=not self._plain)
        # one node needs no telling; of several every other read tells, and the others show how far they lag
        tells = self.load.plan.nodes > 1 and not self._plain and read.floor
        headers = {"Min-Version": str(read.floor)} if tells else {}
        with self.asked("GET", "read", key, headers=headers) as answer:
            if answer.status_code not in {200, 404}:
                failed(answer)
                return None
            tier = tier_of(answer.headers.get("Cache-Status"), answer.status_code)
            if tier is None:
                failed(answer, f"Cache-Status: {answer.headers.get('Cache-Status')}")
                return None
            self.load.figures.tiers[tier] += 1
            if answer.status_code == 404:
                self.load.checker.end_miss(read)
                answer.success()
                return str(answer.headers.get("Fill-Token") or "") or None
            version = version_of(answer)
            if version is not None:
                about, counter = contained(answer)
                self.load.checker.end_read(read, version, counter, about=about)
            return None


class Writer(CacheUser):
    """Writes."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._keys = self.load.popularity.writes(self.rng)

    def write(self) -> None:
        self.put("write", next(self._keys), {})

    tasks: ClassVar = [write]


class Invalidator(CacheUser):
    """Deletes keys."""

    fixed_count = 1
    most = DELETIONS

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._keys = self.load.popularity.writes(self.rng)

    def delete(self) -> None:
        delete = self.load.checker.begin_delete(key := next(self._keys))
        with self.asked("DELETE", "delete", key) as answer:
            if answer.status_code not in {204, 404}:
                failed(answer)
            elif (version := version_of(answer)) is not None:
                self.load.checker.end_delete(delete, version)
                answer.success()

    tasks: ClassVar = [delete]


def failed(answer: Any, why: str = "") -> None:
    """A request without an answer keeps the error that it has."""
    if answer.status_code:
        answer.failure(f"{answer.status_code} {why or (answer.content or b'').decode(errors='replace')}")


def version_of(answer: Any) -> int | None:
    found = _ETAG.fullmatch(answer.headers.get("ETag") or "")
    if found is None:
        failed(answer, f"ETag: {answer.headers.get('ETag')}")
        return None
    return int(found[1])


def contained(answer: Any) -> tuple[str | None, int]:
    """The key and the counter that a value carries; one that is not of a load test carries none."""
    try:
        found = json.loads(answer.content)
        return str(found["key"]), int(found["counter"])
    except (ValueError, TypeError, LookupError):
        return None, -1


def warm_up(load: Load) -> None:
    """Write every key once, uncounted."""
    keys = load.popularity.keys
    client = FastHttpSession(load.plan.url, EventHook(), None, network_timeout=TIMEOUT, connection_timeout=TIMEOUT)
    for start in range(0, len(keys), _BATCH):
        writes = [load.checker.begin_write(key) for key in keys[start : start + _BATCH]]
        operations = [
            {"operation": "set", "key": write.key, "value": content(write.key, write.counter), "ttl": load.ttl}
            for write in writes
        ]
        answer = client.post("/v1/batch", json={"operations": operations})
        if answer.status_code != 200:
            raise Failed(f"loading the keys: {answer.status_code} {answer.content or answer.error!r}")
        try:
            for write, result in zip(writes, answer.json()["results"], strict=True):
                load.checker.end_write(write, int(result["version"]))
        except (ValueError, TypeError, LookupError) as exc:
            raise Failed(f"loading the keys: {answer.text[:1_000]}") from exc


def run(plan: Plan) -> bool:
    """Whether it passed. Prints the figures, and writes them with locust's charts to the report."""
    load = Load(plan, plan.popularity())
    warm_up(load)
    Writer.fixed_count = max(1, plan.users // 5)
    environment = Environment(user_classes=[Reader, Writer, Invalidator], host=plan.url, stop_timeout=TIMEOUT + 5)
    environment.load = load
    environment.events.request.add_listener(load.record)
    environment.events.user_error.add_listener(load.broke)
    runner = environment.create_local_runner()
    charts = gevent.spawn(stats_history, runner)
    begin = time.perf_counter()
    runner.start(plan.users, spawn_rate=plan.users)
    load.over.wait(timeout=plan.seconds)
    runner.stop()
    elapsed = time.perf_counter() - begin
    charts.kill()
    lines, passed = verdict(load.figures, load.checker)
    lines = [*_heading(plan, elapsed), *load.figures.tables(elapsed), *lines]
    if runner.cpu_warning_emitted:
        lines.insert(1, "the load generator was short of CPU: the service may be faster than this shows")
    print("\n".join(lines), flush=True)
    report = Path(plan.report)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(with_figures(get_html_report(environment, show_download_link=False), lines))
    print(f"report: {report}", flush=True)
    runner.quit()
    return passed


def _heading(plan: Plan, elapsed: float) -> Iterator[str]:
    pace = f"{plan.rate:g} requests a second" if plan.rate else "flat out"
    nodes = f"{plan.nodes} node{'s' * (plan.nodes > 1)}"
    yield f"{plan.users} users for {elapsed:.1f} s, {pace}, over {plan.keys_text}, seed {plan.seed}; {nodes}"


def with_figures(page: str, lines: list[str]) -> str:
    """The report with the figures above its charts: locust knows neither tiers nor versions."""
    shown = f'<pre style="margin: 1em; font-size: 14px">{html.escape(chr(10).join(lines))}</pre>'
    scripts, body, content = page.rpartition("<body>")  # the scripts before it speak of bodies, too
    return f"{scripts}{body}{shown}{content}"


def main() -> int:
    try:
        return 0 if run(Plan.loaded(sys.argv[1])) else 1
    except (Failed, OSError) as exc:
        print(f"load: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
