"""The swarm: locust's users against the service, in a process of its own (importing locust changes its sockets)."""

from __future__ import annotations

import html
import signal
import sys
import time
import webbrowser
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final
from urllib.parse import quote

import gevent
from gevent.event import Event
from locust.contrib.fasthttp import FastHttpSession
from locust.env import Environment
from locust.event import EventHook
from locust.html import get_html_report
from locust.stats import stats_history

from tests.load.checker import Checker
from tests.load.figures import ALL, Figures, verdict
from tests.load.plan import Failed, Plan
from tests.load.popularity import Popularity
from tests.load.subscriber import Subscriber
from tests.load.users import TIMEOUT, Invalidator, Operator, Reader, Writer, content, tagged

MAX_REQUESTS: Final = 10_000_000
MAX_FAILED: Final = 1_000  # then the run is over: nothing more is to be learned
_MAX_BEGUN: Final = 10_000  # writes that may be on their way to a subscriber
_BATCH: Final = 200  # keys loaded in one request
_SHOWN: Final = 5.0  # seconds between two lines of progress


class Load:
    """What the users of a run share."""

    def __init__(self, plan: Plan, popularity: Popularity) -> None:
        self.plan = plan
        self.popularity = popularity
        self.checker = Checker(one_node=plan.nodes == 1)
        self.figures = Figures()
        self.over = Event()
        self.ttl = int(plan.seconds) + 3_600  # what a run wrote to a running service goes away
        self.subscribers: list[Subscriber] = []
        self._begun: OrderedDict[int, float] = OrderedDict()  # when a write began, by its counter
        self._seeds = iter(range(plan.seed, sys.maxsize))

    def random(self) -> Random:
        return Random(next(self._seeds))

    def record(self, name: str, response_time: float, exception: Exception | None, **_: object) -> None:
        """A request has ended (locust's event); its time comes in milliseconds."""
        self.figures.add(name, response_time / 1_000, None if exception is None else str(exception) or repr(exception))
        self._end_if_enough()

    def begun(self, counter: int) -> None:
        """A write has begun; a subscriber will be told of it."""
        self._begun[counter] = time.perf_counter()
        if len(self._begun) > _MAX_BEGUN:
            self._begun.popitem(last=False)

    def pushed(self, counter: int) -> None:
        """A subscriber was told of it."""
        self.figures.told += 1
        if counter in self._begun:
            self.figures.pushed(time.perf_counter() - self._begun[counter])

    def broke(self, exception: Exception, **_: object) -> None:
        """A user has met what it does not understand (locust's event)."""
        self.figures.fail("user", repr(exception))
        self._end_if_enough()

    def _end_if_enough(self) -> None:
        if self.figures.timings[ALL].count >= MAX_REQUESTS or self.figures.failed[ALL] >= MAX_FAILED:
            self.over.set()


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


def environment_of(load: Load) -> Environment:
    """Locust's environment, with the users of the plan."""
    plan = load.plan
    Writer.fixed_count = max(1, plan.users // 5)
    users = [Reader, Writer, Invalidator, *([Operator] if plan.operations else [])]
    environment = Environment(user_classes=users, host=plan.url, stop_timeout=TIMEOUT + 5)
    environment.load = load
    environment.events.request.add_listener(load.record)
    environment.events.user_error.add_listener(load.broke)
    return environment


def run(plan: Plan) -> bool:
    """Whether it passed. Prints the figures, and writes them with locust's charts to the report."""
    load = Load(plan, plan.popularity())
    resource = f"cache:{plan.prefix}*"
    load.subscribers = [Subscriber(plan.url, resource, load.checker, load.pushed) for _ in range(plan.subscribers)]
    warm_up(load)
    environment = environment_of(load)
    runner = environment.create_local_runner()
    begin = time.perf_counter()
    background = [gevent.spawn(stats_history, runner), gevent.spawn(_progress, load, begin)]
    if plan.ui:
        _show(environment)
    else:
        runner.start(plan.users, spawn_rate=plan.users)
    load.over.wait(timeout=plan.seconds)
    runner.stop()
    elapsed = time.perf_counter() - begin
    gevent.killall(background)
    end_subscribers(load)
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


def _show(environment: Environment) -> None:
    """Locust's page, where the users are started and stopped by hand."""
    # an exception would come to whichever greenlet runs at that moment
    gevent.signal_handler(signal.SIGINT, environment.load.over.set)
    page = environment.create_web_ui("127.0.0.1", 0)
    while page.server is None or not page.server.started:
        gevent.sleep(0.01)
    url = f"http://127.0.0.1:{page.server.server_port}"
    print(f"locust's page: {url}; Ctrl-C ends the test", flush=True)
    webbrowser.open(url)


def end_subscribers(load: Load) -> None:
    """Write one key more, and wait until each subscriber has been told of it, and so of all before it."""
    client = FastHttpSession(load.plan.url, EventHook(), None, network_timeout=TIMEOUT, connection_timeout=TIMEOUT)
    key = f"{load.plan.prefix}end"
    write = load.checker.begin_write(key)
    answer = client.put(f"/v1/cache/{quote(key)}?ttl={load.ttl}", json=content(key, write.counter))
    version = tagged(answer)
    if version is None:
        load.figures.fail("write", f"the last one: {answer.status_code or repr(answer.error)}")
        return
    load.checker.end_write(write, version)
    for subscriber in load.subscribers:
        subscriber.end(version)
        if subscriber.failed:
            load.figures.fail("push", subscriber.failed)


def _progress(load: Load, begin: float) -> None:
    while True:
        gevent.sleep(min(_SHOWN, load.plan.seconds / 2))
        print(load.figures.progress(time.perf_counter() - begin), flush=True)


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
