"""`python -m tests.load`: a load test from start to end.

The exit code is 0 only when it passed; 1 when it did not or could not be run, 2 for bad arguments. The load has a process of
its own, since importing locust changes a process's sockets; it is ended when it outlives its plan.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final

from tests.load.plan import Failed, Plan, parse
from tests.load.service import nodes_of, started

ROOT: Final = Path(__file__).parents[2]
_GRACE: Final = 180.0  # seconds for loading the keys, ending the last requests and writing the report


def run(plan: Plan) -> int:
    with ExitStack() as stack:
        if not plan.url:
            plan = replace(plan, url=stack.enter_context(started(plan.nodes)))
        elif not plan.nodes:
            plan = replace(plan, nodes=nodes_of(plan.url))
        swarm = subprocess.Popen((sys.executable, "-m", "tests.load.swarm", plan.dumped()), cwd=ROOT)
        try:
            return 1 if swarm.wait(plan.seconds + _GRACE) else 0
        except subprocess.TimeoutExpired:
            raise Failed(f"the load did not end within {_GRACE:g} s of its time") from None
        finally:
            swarm.kill()  # does nothing to one that has ended
            swarm.wait()


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        return run(parse())
    except Failed as exc:
        print(f"load: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
