"""A service as a process: started as a user starts it, its lines read, its children counted."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import psutil

from tests.servers import process_environment

ROOT = Path(__file__).parents[2]
SHIFTED = Path(__file__).parent / "shifted"  # a `sitecustomize` by which a process has another time
REAL = ("-m", "cachesvc.cli.main")
INSTALLED = (str(Path(sys.executable).with_name("cachesvc")),)  # which unlike `-m` imports nothing from where it is started
FAKE = ("-m", "tests.processes.fake_service")
LIMIT = 90.0  # seconds for anything to happen; none of the tests measures it


class Service:
    """`cachesvc serve` on any free port of loopback. `lines` is what it has said so far, on both streams."""

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        program: Sequence[str] = FAKE,
        worker: Sequence[str] = (),
        clock_ahead: str = "",
        cwd: str = str(ROOT),
        **settings: str,
    ) -> None:
        command = [sys.executable, *program, "serve", "--port", "0", "--data-dir", str(data_dir), *options]
        self.process = subprocess.Popen(
            [*command, *(("--", *worker) if worker else ())],
            cwd=cwd,
            env=process_environment()
            | ({"PYTHONPATH": str(SHIFTED), "CLOCK_AHEAD": clock_ahead} if clock_ahead else {})
            | {f"CACHESVC_{name.upper()}": value for name, value in settings.items()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._said: Queue[str | None] = Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.put(line.rstrip("\n"))
        self._said.put(None)

    def said(self, pattern: str) -> re.Match[str]:
        """Wait for a line that matches."""
        while (line := self._said.get(timeout=LIMIT)) is not None:
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found
        self._said.put(None)  # for whoever waits for the end
        raise AssertionError(f"it ended without saying {pattern!r}: {self.lines}")

    def ready(self) -> str:
        """Wait until it serves; its URL."""
        return self.said(r"ready on (http://\S+)")[1]

    def ended(self) -> int:
        """Wait for its end; the exit code. `lines` is complete then."""
        while (line := self._said.get(timeout=LIMIT)) is not None:
            self.lines.append(line)
        return self.process.wait(LIMIT)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, name: str) -> psutil.Process:
        """The child whose command line has this in it."""
        return next(child for child in self.children() if name in " ".join(child.cmdline()))

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ended()

    def close(self) -> None:
        children = self.children() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        assert gone(children) == []
        self._reader.join(LIMIT)
        assert self.process.stdout is not None
        self.process.stdout.close()


def gone(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that do not end."""
    _, alive = psutil.wait_procs(processes, timeout=LIMIT)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def serving(
    data_dir: Path,
    *options: str,
    program: Sequence[str] = FAKE,
    worker: Sequence[str] = (),
    clock_ahead: str = "",
    cwd: str = str(ROOT),
    **settings: str,
) -> Iterator[Service]:
    service = Service(data_dir, *options, program=program, worker=worker, clock_ahead=clock_ahead, cwd=cwd, **settings)
    try:
        yield service
    finally:
        service.close()
