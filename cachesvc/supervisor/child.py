"""A child process that is kept running until it is told to stop.

None outlives its parent, not even the parent's kill -9: the kernel then kills it too. To the kernel the parent is the *thread*
that started the child, so this process has one thread only, which also makes code between fork and exec safe.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import IO

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds before a dead child is started again, doubled each time
_SETTLED = 60.0  # seconds up after which the pauses begin anew
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def spawn(
    command: Sequence[str], *, stdin: int | IO[bytes] | None = subprocess.DEVNULL, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a process that dies with this one, in a group of its own: Ctrl-C in a terminal is for this process to pass on."""
    parent = os.getpid()

    def tether() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

    return subprocess.Popen(command, stdin=stdin, bufsize=0, pass_fds=pass_fds, process_group=0, preexec_fn=tether)  # noqa: PLW1509


class Child:
    """One of the service's processes. `start` gives a new one; `died` is told each end and says whether to start again."""

    def __init__(
        self, name: str, start: Callable[[Child], subprocess.Popen[bytes]], died: Callable[[Child, int, float], bool]
    ) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self._start = start
        self._died = died
        self._process: subprocess.Popen[bytes] | None = None
        self._since = 0.0
        self._pause = _FIRST_PAUSE
        self._again: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._again = None
        self._since = asyncio.get_running_loop().time()
        self.gone.clear()
        try:
            self._process = self._start(self)
        except OSError as exc:
            sys.stderr.write(f"cachesvc: {self.name} could not be started: {exc.strerror}\n")
            self._ended(1)

    def reap(self) -> None:
        """Look whether it ended; called after every SIGCHLD."""
        if self._process is None or (code := self._process.poll()) is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None
        self._ended(code)

    def _ended(self, code: int) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._since > _SETTLED:
            self._pause = _FIRST_PAUSE
        if self._died(self, code, self._pause):
            self._again = loop.call_later(self._pause, self.start)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        self.ready.clear()
        self.gone.set()

    def signal(self, number: int) -> None:
        """Send it a signal; if it is between two starts, it is not started again."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._process is not None:
            self._process.send_signal(number)

    async def stop(self, *, within: float) -> None:
        """SIGTERM, and after `within` seconds SIGKILL; returns when it is gone."""
        self.signal(signal.SIGTERM)
        if self._process is None:
            return
        try:
            await asyncio.wait_for(self.gone.wait(), within)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.gone.wait()
