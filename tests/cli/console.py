"""The console script as a user runs it: as a process, with pipes or at a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cachesvc.cli.main import main
from tests.processes.services import LIMIT, ROOT
from tests.servers import process_environment

SCRIPT = Path(sys.executable).with_name("cachesvc")


LEFT_OUT = ("COLUMNS", "LINES", "NO_COLOR", "TERM", "PYTHONUNBUFFERED")  # pytest-xdist sets the first


def environment(**variables: str) -> dict[str, str]:
    """That of a command: what the shell of the tests sets is left out."""
    plain = {name: value for name, value in process_environment().items() if name not in LEFT_OUT}
    return plain | {"LC_ALL": "C.UTF-8"} | variables


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended, and what it printed."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        assert self.out.count(b"\n") == 1, self.out
        return json.loads(self.out)


def cachesvc(*arguments: str | Path, url: str = "", stdin: bytes = b"", **variables: str) -> Ran:
    """Run a command without a terminal. Whatever comes of it, there is no traceback."""
    ran = subprocess.run(
        (SCRIPT, *arguments),
        cwd=ROOT,
        env=environment(**({"CACHESVC_URL": url} if url else {}), **variables),
        input=stdin,
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    err = ran.stderr.decode()
    assert "Traceback" not in err, err
    assert "fault of its own" not in err, err
    return Ran(ran.returncode, ran.stdout, err)


class Inside:
    """Commands run in this process, for what needs many of them; otherwise as `cachesvc` runs them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def __call__(self, *arguments: str | Path, url: str, **variables: str) -> Ran:
        with self._monkeypatch.context() as patch:
            for name in LEFT_OUT:
                patch.delenv(name, raising=False)
            for name, value in {"CACHESVC_URL": url, **variables}.items():
                patch.setenv(name, value)
            patch.setattr("sys.argv", ["cachesvc", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        said = self._capfd.readouterr()
        assert "fault of its own" not in said.err
        assert said.err.count("\n") <= 1 or said.err.startswith("Usage: ")
        return Ran(int(ended.value.code or 0), said.out.encode(), said.err)


class Terminal:
    """A command at a terminal of 80 columns: what it shows, and what is typed."""

    def __init__(self, *arguments: str | Path, url: str, **variables: str) -> None:
        self._outer, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
        self._process = subprocess.Popen(
            (SCRIPT, *arguments),
            cwd=ROOT,
            env=environment(CACHESVC_URL=url, TERM="xterm-256color", **variables),
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        os.close(inner)
        self.shown = ""
        self._moved = threading.Condition()
        self._over = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                some = os.read(self._outer, 65_536)
            except OSError:  # the other end is closed
                some = b""
            with self._moved:
                self.shown += some.decode(errors="replace")
                self._over = not some
                self._moved.notify_all()
            if not some:
                return

    def shows(self, pattern: str) -> re.Match[str]:
        """Wait until something is shown."""
        deadline = time.monotonic() + LIMIT
        with self._moved:
            while not (found := re.search(pattern, self.shown)):
                left = deadline - time.monotonic()
                assert left > 0, self.shown
                assert not self._over, self.shown
                self._moved.wait(left)
        return found

    def type(self, text: str) -> None:
        os.write(self._outer, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C, which at a terminal is a signal."""
        self._process.send_signal(signal.SIGINT)

    def ended(self) -> int:
        """Wait for its end; the exit code."""
        code = self._process.wait(LIMIT)
        self._reader.join(LIMIT)
        assert "Traceback" not in self.shown
        return code

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(LIMIT)
        os.close(self._outer)


@contextmanager
def terminal(*arguments: str | Path, url: str, **variables: str) -> Iterator[Terminal]:
    """A command at a terminal, ended at the end of the block if it has not by itself."""
    at = Terminal(*arguments, url=url, **variables)
    try:
        yield at
    finally:
        at.close()
