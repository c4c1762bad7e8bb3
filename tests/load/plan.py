"""The plan: what a load test is asked to do, checked.

It goes to loopback addresses only, and everything has an end: users, seconds, requests and keys.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import re
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NoReturn, TypeVar
from urllib.parse import urlsplit

from tests.load.checker import MAX_KEYS
from tests.load.popularity import Popularity, Trace, Zipf, read_trace

MAX_USERS: Final = 1_000
MAX_SECONDS: Final = 86_400.0
MAX_RATE: Final = 100_000.0

Number = TypeVar("Number", int, float)


class Failed(Exception):
    """The load test cannot be run, and why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A load test. `url` "" starts a service of `nodes` workers; `nodes` 0 asks the one at `url`; `rate` 0 is flat out.

    `operations` are those of the operator, in a minute.
    """

    url: str
    nodes: int
    users: int
    seconds: float
    keys: int
    skew: float
    seed: int
    trace: str
    rate: float
    subscribers: int
    operations: float
    ui: bool
    soak: bool
    report: str
    run: str  # in the name of every key: two runs never meet

    @property
    def prefix(self) -> str:
        return f"load:{self.run}:"

    @property
    def keys_text(self) -> str:
        return f"the trace {Path(self.trace).name}" if self.trace else f"{self.keys:,} keys (Zipf {self.skew:g})"

    def popularity(self) -> Popularity:
        """Raises `Failed` for a trace that cannot be read."""
        if not self.trace:
            return Zipf(self.keys, self.skew, seed=self.seed, prefix=self.prefix)
        try:
            return Trace(read_trace(Path(self.trace)), prefix=self.prefix)
        except (OSError, ValueError) as exc:
            raise Failed(f"{self.trace}: {exc}") from exc

    def check_report(self) -> None:
        """Raises `Failed` where the report could not be written, which is not to be found out at the end."""
        report = Path(self.report)
        there = report.exists()
        try:
            report.parent.mkdir(parents=True, exist_ok=True)
            with report.open("a"):
                pass
            if not there:
                report.unlink()
        except OSError as exc:
            raise Failed(f"the report {report} (REPORT of make) cannot be written: {exc.strerror}") from exc

    def dumped(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loaded(cls, text: str) -> Plan:
        return cls(**json.loads(text))


class _Parser(argparse.ArgumentParser):
    """Names an argument as `make` does, too."""

    def error(self, message: str) -> NoReturn:
        super().error(re.sub(r"^argument --([a-z]+)", lambda found: f"{found[0]} ({found[1].upper()} of make)", message))


def parse(arguments: Sequence[str] | None = None) -> Plan:
    """The plan that the command line asks for; exits with 2 and a line that names the argument."""
    parser = _Parser(prog="python -m tests.load", description="Load a cache service and check what it answers.")
    parser.add_argument("--url", type=loopback_url, help="a running service; without one, one is started")
    parser.add_argument(
        "--workers", type=_within(int, 1, 64), help="of the service that is started; with --url, how many nodes it has"
    )
    parser.add_argument(
        "--users", type=_within(int, 3, MAX_USERS), default=16, help="at once: readers, a fifth writers, one that deletes"
    )
    parser.add_argument("--seconds", type=_within(float, 0.1, MAX_SECONDS), help="default: 20; with --ui at most an hour")
    parser.add_argument("--minutes", type=_within(float, 0.1, MAX_SECONDS / 60), help="instead; default with --soak: 10")
    parser.add_argument("--keys", type=_within(int, 1, MAX_KEYS), help="default: 5000")
    parser.add_argument("--skew", type=_within(float, 0, 5), help="of Zipf's law; 0: all keys alike; default: 1")
    parser.add_argument("--seed", type=_within(int, 0, 2**32), default=1)
    parser.add_argument("--trace", type=Path, help="big-endian int32, a key each, plain or .xz; instead of --keys and --skew")
    parser.add_argument(
        "--rate", type=_within(float, 0, MAX_RATE), help="requests a second; 0: flat out, the default but with --soak: 200"
    )
    parser.add_argument(
        "--subscribers", type=_within(int, 0, 100), default=2, help="on sockets, told of every change; beside the users"
    )
    parser.add_argument(
        "--operations",
        type=_within(float, 0, 600),
        default=12.0,
        help="a minute: an operator invalidates by pattern, and warms",
    )
    parser.add_argument("--ui", action="store_true", help="start and stop the users on locust's page, until Ctrl-C")
    parser.add_argument("--soak", action="store_true", help="watch the service's memory, descriptors and latency for drift")
    parser.add_argument("--report", type=Path, default=Path("reports/load.html"))
    given = parser.parse_args(arguments)
    if given.trace is not None and (given.keys is not None or given.skew is not None):
        parser.error("argument --trace: names the keys and their shares itself: leave out --keys and --skew")
    if given.trace is not None and not given.trace.is_file():
        parser.error(f"argument --trace: there is no file {given.trace}")
    if given.soak and given.url:
        parser.error("argument --soak: watches the processes of a service that it starts: leave out --url")
    if given.minutes is not None and given.seconds is not None:
        parser.error("argument --minutes: give either these or --seconds")
    seconds = 60 * given.minutes if given.minutes is not None else given.seconds
    return Plan(
        url=given.url or "",
        nodes=given.workers or (0 if given.url else 1),
        users=given.users,
        seconds=seconds or (600.0 if given.soak else 3_600.0 if given.ui else 20.0),
        keys=given.keys or 5_000,
        skew=1.0 if given.skew is None else given.skew,
        seed=given.seed,
        trace=str(given.trace.resolve()) if given.trace else "",
        rate=(200.0 if given.soak else 0.0) if given.rate is None else given.rate,
        subscribers=given.subscribers,
        operations=given.operations,
        ui=given.ui,
        soak=given.soak,
        report=str(given.report.resolve()),
        run=secrets.token_hex(4),
    )


def loopback_url(text: str) -> str:
    """`http://HOST:PORT` of this machine, without a slash at its end."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r}: {exc}") from exc
    if (
        parts.scheme != "http"
        or not host
        or parts.path not in {"", "/"}
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise argparse.ArgumentTypeError(f"{text!r} must look like http://127.0.0.1:8080")
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, port or 80, type=socket.SOCK_STREAM)}
    except OSError as exc:
        raise argparse.ArgumentTypeError(f"{host} has no address: {exc}") from exc
    if not found or not all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found):
        raise argparse.ArgumentTypeError(f"{host} is not this machine: load is put on loopback addresses only")
    return text.rstrip("/")


def _within(kind: Callable[[str], Number], least: float, most: float) -> Callable[[str], Number]:
    def parsed(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        # the comparison is false for NaN, too
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} must be a{' whole' * (kind is int)} number from {least:,} to {most:,}")
        return value

    return parsed
