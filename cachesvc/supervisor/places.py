"""What one service holds alone: its data directory, its port, the path of its Valkey's socket.

Taken before any process is started, so that a service that cannot have them disturbs none that has.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from cachesvc.errors import StartError

_BACKLOG = 2_048
_LONGEST_SOCKET_PATH = 100  # bytes; the kernel takes 107


@contextmanager
def claimed(data_dir: Path) -> Iterator[None]:
    """Hold the data directory, made if need be, against every other service. Raises `StartError`."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "lock").open("a+b", buffering=0)  # what cannot be written fails at once, not when it is closed
    except OSError as exc:
        raise StartError(f"the directory {data_dir} cannot be written: {exc.strerror}") from exc
    with lock:
        _lock(lock, data_dir)
        yield


def _lock(lock: FileIO, data_dir: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = (lock.read(20) or b"").decode().strip() or "unknown"
        raise StartError(f"the directory {data_dir} is in use by another cachesvc (process {owner})") from None
    try:
        lock.truncate(0)
        lock.write(b"%d\n" % os.getpid())
    except OSError as exc:
        raise StartError(f"the directory {data_dir} cannot be written: {exc.strerror}") from exc


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there; port 0 takes any that is free. Raises `StartError`."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise StartError(f"the host {host} is not known: {exc.strerror}") from exc
    family, kind, protocol, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    with socket.socket(family, kind, protocol) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError as exc:
            taken = exc.errno == errno.EADDRINUSE
            reason = "is taken by another process" if taken else f"cannot be used: {exc.strerror}"
            raise StartError(f"port {port} on {host} {reason}") from exc
        yield sock


def url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def socket_path(data_dir: Path) -> Iterator[Path]:
    """Where the embedded Valkey listens: in the data directory or, when that is too long for the kernel, a temporary one."""
    path = data_dir / "valkey.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="cachesvc-") as directory:
        yield Path(directory) / "valkey.sock"
