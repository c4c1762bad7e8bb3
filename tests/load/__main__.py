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
from tests.load.soak import Watch, drift, watched

ROOT: Final = Path(__file__).parents[2]
_GRACE: Final = 180.0  # seconds for loading the keys, ending the last requests and writing the report


def run(plan: Plan) -> int:
    plan.check_report()
    with ExitStack() as stack:
        watch: Watch | None = None
        if not plan.url:
            url, pid = stack.enter_context(started(plan.nodes))
            plan = replace(plan, url=url)
            if plan.soak:
                watch = stack.enter_context(watched(url, pid, plan.seconds))
        elif not plan.nodes:
            plan = replace(plan, nodes=nodes_of(plan.url))
        failed = _swarm(plan)
        if watch is None:
            return 1 if failed else 0
        watch.end()
        lines, steady = drift(watch.samples)
        print("\n".join(lines))
        return 0 if steady and not failed else 1


def _swarm(plan: Plan) -> bool:
    """Whether it failed."""
    swarm = subprocess.Popen((sys.executable, "-m", "tests.load.swarm", plan.dumped()), cwd=ROOT)
    try:
        return bool(swarm.wait(plan.seconds + _GRACE))
    except subprocess.TimeoutExpired:
        raise Failed(f"the load did not end within {_GRACE:g} s of its time") from None
    except KeyboardInterrupt:
        if not plan.ui:
            raise
        return bool(swarm.wait(_GRACE))  # it was interrupted as well, which is how it ends
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
