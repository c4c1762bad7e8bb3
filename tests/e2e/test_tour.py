"""The tour of the README, line by line: each command prints what is shown.

`…` stands for anything within a line. Versions differ at every run: one that is shown twice must be the same both times.
"""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from tests import servers
from tests.e2e.services import started
from tests.processes.services import ROOT, Service
from tests.servers import process_environment

END = "@end-of-output@"
VERSION = re.compile(r"\d{16}")
SOME_LINES = r"(?:.*\n)*?.*"


@dataclass(slots=True)
class Step:
    """A command and the lines that it is said to print; `^C` stops the service."""

    command: str
    output: list[str] = field(default_factory=list)


def tour() -> list[Step]:
    steps: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line[2:]))
            elif line == "^C":
                steps.append(Step(line))
            else:
                steps[-1].output.append(line)
    return steps


class Shown:
    """Compares what is printed with what is shown, and remembers which version stands for which."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}

    def check(self, step: Step, printed: list[str]) -> None:
        shown, real = ("\n".join(line.rstrip() for line in lines).rstrip() for lines in (step.output, printed))
        pattern = "\n".join(SOME_LINES if line == "…" else _pattern(line) for line in shown.split("\n"))
        found = re.fullmatch(pattern, real)
        assert found, f"$ {step.command}\nshown:\n{shown}\nprinted:\n{real}"
        for name, version in zip(VERSION.findall(shown), found.groups(), strict=True):
            assert self._real.setdefault(name, version) == version, f"$ {step.command}\n{name} was {self._real[name]}"


def _pattern(line: str) -> str:
    return VERSION.sub(r"(\\d{16})", re.escape(line).replace("…", ".*"))


class Shell:
    """A shell that lives over the whole tour, as its variables do."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["bash"],
            cwd=ROOT,
            env=process_environment() | {"no_proxy": "127.0.0.1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\necho; echo {END}\n")
        self._process.stdin.flush()
        return "".join(iter(self._process.stdout.readline, f"{END}\n")).splitlines()

    def close(self) -> None:
        self._process.communicate()


def settings_before(command: str) -> dict[str, str]:
    """What is set in front of `make run`, as `started` takes it."""
    return {name.lower(): value for name, value in re.findall(r"CACHESVC_(\w+)=(\S+)", command)}


def take(data_dir: Path, redis: str, **settings: str) -> None:
    """Take the tour. `redis` is the Python expression of a client for the Redis that is emptied on the way."""
    port = str(servers.free_port())
    options = ("--config", "config/embedded.toml", "--port", port)
    shown = Shown()
    with ExitStack() as stack:
        shell = stack.enter_context(closing(Shell()))
        service: Service | None = None
        for step in tour():
            if step.command == "^C":
                assert service is not None
                assert service.stop() == 0
            elif step.command.endswith(" make run"):
                service, _ = stack.enter_context(started(data_dir, *options, **settings_before(step.command), **settings))
                shown.check(step, [line.replace(port, "8080") for line in service.lines])
            else:
                command = re.sub(r"(\.venv/bin/python|\bpython3) ", f"{sys.executable} ", step.command)
                command = command.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
                command = command.replace('redis.Redis(unix_socket_path="var/valkey.sock")', redis)
                shown.check(step, shell.run(command))


def test_it_is_there() -> None:
    commands = "\n".join(step.command for step in tour())
    for needed in ("make run", "products.py", "flushall", "If-Match", "increment", "/v1/changes", "/v1/query", "^C"):
        assert needed in commands


def test_on_one_machine(tmp_path: Path) -> None:
    take(tmp_path, f'redis.Redis(unix_socket_path="{tmp_path}/valkey.sock")')


def test_on_postgresql_and_a_valkey_cluster(
    tmp_path: Path, postgres_url: str, valkey_cluster_servers: list[servers.Server]
) -> None:
    redis = f'redis.RedisCluster.from_url("{valkey_cluster_servers[0].url}")'
    url = servers.cluster_url(valkey_cluster_servers)
    take(tmp_path, redis, levels__redis__url=url, levels__database__url=postgres_url)
