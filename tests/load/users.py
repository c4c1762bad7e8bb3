"""The users of a load test: who reads, who writes, who deletes, and an operator.

What a read must show is taken down before its request is sent, what a write achieved after its answer has come.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import quote

import gevent
from locust import FastHttpUser, constant, constant_throughput

from tests.load.figures import tier_of

if TYPE_CHECKING:
    from tests.load.swarm import Load

TIMEOUT: Final = 15.0  # seconds for a request
DELETIONS: Final = 5.0  # a second at most
_LOOK: Final = 0.5  # seconds between two looks at a job
_TEXT: Final = "All that a reader sees of a value is that it is the one written: its key, its number, and this much text. " * 4
_ETAG: Final = re.compile(r'"([0-9]{1,16})"')


def content(key: str, counter: int) -> dict[str, object]:
    return {"key": key, "counter": counter, "text": _TEXT}


class CacheUser(FastHttpUser):  # type: ignore[misc]
    """A user with a connection of its own, and a pace."""

    abstract = True
    network_timeout = connection_timeout = TIMEOUT

    def __init__(self, environment: Any, most: float = 0.0) -> None:
        """`most`: tasks a second; 0: no limit."""
        super().__init__(environment)
        self.load: Load = environment.load
        self.rng = self.load.random()
        plan = self.load.plan
        rates = [rate for rate in (most, plan.rate / plan.users) if rate]
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
        self.load.begun(write.counter)
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

    def __init__(self, environment: Any) -> None:
        super().__init__(environment, DELETIONS)
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


class Operator(CacheUser):
    """Invalidates a tenth of the keys by a pattern, and warms another tenth from the database, in turns."""

    fixed_count = 1

    def __init__(self, environment: Any) -> None:
        super().__init__(environment, environment.load.plan.operations / 60)
        self._warms = False
        self._groups: dict[str, list[str]] = {}
        for key in self.load.popularity.keys:
            self._groups.setdefault(key[-1], []).append(key)

    def operate(self) -> None:
        last = self.rng.choice(list(self._groups))
        pattern = f"{self.load.plan.prefix}*{last}"
        if self._warms:
            self._warm(pattern)
        else:
            self._invalidate(pattern, self._groups[last])
        self._warms = not self._warms

    tasks: ClassVar = [operate]

    def _invalidate(self, pattern: str, keys: list[str]) -> None:
        deletions = [self.load.checker.begin_delete(key) for key in keys]
        with self.posted("invalidate", "/v1/invalidate", pattern) as answer:
            if answer.status_code != 200:
                failed(answer)
                return
            version = answer.json()["sequence"]
            for deletion in deletions:
                self.load.checker.end_delete(deletion, version)

    def _warm(self, pattern: str) -> None:
        with self.posted("warm", "/v1/warm", pattern) as answer:
            if answer.status_code != 202:
                failed(answer)
                return
            place = answer.headers["Location"]
        for _ in range(int(TIMEOUT / _LOOK)):
            with self.client.get(place, name="job", catch_response=True) as answer:
                if answer.status_code != 200:
                    failed(answer)
                    return
                job = answer.json()
                if job["state"] not in {"waiting", "queued", "running"}:
                    if job["state"] != "done" or job.get("errors"):
                        failed(answer, f"the warm-up ended: {answer.text[:500]}")
                    return
            gevent.sleep(_LOOK)

    def posted(self, name: str, path: str, pattern: str) -> Any:
        return self.client.post(path, name=name, json={"pattern": pattern}, catch_response=True, allow_redirects=False)


def failed(answer: Any, why: str = "") -> None:
    """A request without an answer keeps the error that it has."""
    if answer.status_code:
        answer.failure(f"{answer.status_code} {why or (answer.content or b'').decode(errors='replace')}")


def version_of(answer: Any) -> int | None:
    """The version of an answer; one without it has failed."""
    version = tagged(answer)
    if version is None:
        failed(answer, f"ETag: {answer.headers.get('ETag')}")
    return version


def tagged(answer: Any) -> int | None:
    """The version that an answer names, if it is one."""
    found = _ETAG.fullmatch((answer.headers or {}).get("ETag") or "")
    return int(found[1]) if found is not None else None


def contained(answer: Any) -> tuple[str | None, int]:
    """The key and the counter that a value carries; one that is not of a load test carries none."""
    try:
        found = json.loads(answer.content)
        return str(found["key"]), int(found["counter"])
    except (ValueError, TypeError, LookupError):
        return None, -1
