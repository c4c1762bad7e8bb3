"""The service under load: one that is started for the run, or one that runs already.

One that was started is stopped with its `with` block, by its own process id; its data go with it.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.load.plan import Failed

_READY: Final = re.compile(r"ready on (http://[^\s/]+)")
_START: Final = 60.0  # seconds it may take until it is ready
_STOP: Final = 20.0
_MAX_NODES: Final = 1 << 20  # bytes of the answer
_LAST: Final = 4_000  # characters of its output that are shown when it fails


@contextmanager
def started(workers: int) -> Iterator[tuple[str, int]]:
    """The URL and the process of a service with an empty data directory, on any free port.

    Settings in the environment apply to it.
    """
    with tempfile.TemporaryDirectory(prefix="cachesvc-load-") as directory, (Path(directory) / "output").open("w+") as output:
        serve = (sys.executable, "-m", "cachesvc.cli.main", "serve", "--host", "127.0.0.1", "--port", "0")
        command = (*serve, "--workers", str(workers), "--data-dir", str(Path(directory) / "data"))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield _ready(process, Path(output.name)), process.pid
            if process.poll() is not None:
                raise Failed(f"the service ended with {process.returncode} under load:\n{_tail(Path(output.name))}")
        finally:
            process.terminate()
            try:
                process.wait(_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def nodes_of(url: str) -> int:
    """How many nodes the service at `url` has."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("GET", "/v1/nodes")
        count = len(json.loads(connection.getresponse().read(_MAX_NODES))["nodes"])
    except (OSError, http.client.HTTPException, ValueError, TypeError, LookupError) as exc:
        raise Failed(f"{url} does not tell its nodes ({exc!r}): say how many by --workers") from exc
    finally:
        connection.close()
    return max(count, 1)


def _ready(process: subprocess.Popen[bytes], output: Path) -> str:
    deadline = time.monotonic() + _START
    while True:
        found = _READY.search(output.read_text(errors="replace"))
        if found is not None:
            return found[1]
        if process.poll() is not None or time.monotonic() > deadline:
            how = "is not ready" if process.returncode is None else f"ended with {process.returncode}"
            raise Failed(f"the service {how}:\n{_tail(output)}")
        time.sleep(0.05)


def _tail(output: Path) -> str:
    return output.read_text(errors="replace")[-_LAST:]
