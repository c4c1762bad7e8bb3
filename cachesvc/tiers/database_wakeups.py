"""Wake-ups between processes on one machine: each has a datagram socket in a directory that all know.

A datagram carries a sequence and may be lost: what it says is found by reading the log, sooner or later.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_MAX_PATH: Final = 100  # of a socket's address, in bytes, on every system


class Sockets:
    """This process's socket, and the way to those of the others. Used from the event loop only."""

    def __init__(self, directory: Path, wake: Callable[[int], None]) -> None:
        self._directory = directory
        self._wake = wake
        self._name = f"{uuid.uuid4().hex[:16]}.sock"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            self._directory.mkdir(exist_ok=True)
            self._descriptor = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
            self._socket.bind(self._address(self._name))
            asyncio.get_running_loop().add_reader(self._socket, self._received)
        except OSError:
            # a directory that cannot be written: the polls still find what is new
            self._socket.close()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._remove(self._name)
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def send(self, sequence: int) -> None:
        """Tell every process, this one too. A socket that nobody has open any more is removed."""
        if self._socket.fileno() < 0:
            self._wake(sequence)
            return
        message = sequence.to_bytes(8)
        for name in os.listdir(self._descriptor):
            try:
                self._socket.sendto(message, self._address(name))
            except BlockingIOError:
                continue  # its buffer is full of wake-ups: it will wake
            except ConnectionRefusedError:
                self._remove(name)
            except OSError:
                continue  # it went away just now

    def _received(self) -> None:
        highest = 0
        try:
            while message := self._socket.recv(8):
                highest = max(highest, int.from_bytes(message))
        except BlockingIOError:
            self._wake(highest)

    def _address(self, name: str) -> str:
        path = str(self._directory / name)
        if len(path.encode()) <= _MAX_PATH:
            return path
        return f"/proc/self/fd/{self._descriptor}/{name}"

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._descriptor)
        except FileNotFoundError:
            return  # another process removed it
