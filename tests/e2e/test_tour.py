"""The tour of the README, line by line: each command prints what is shown."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from tests import servers
from tests.e2e.services import started
from tests.e2e.transcripts import Shell, Shown, steps_of
from tests.processes.services import Service

PAGE = "README.md"


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
        for step in steps_of(PAGE):
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
    commands = "\n".join(step.command for step in steps_of(PAGE))
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
