"""`cachesvc serve` with fake workers: what follows `--` are the arguments of each."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cachesvc.cli import main as cli
from cachesvc.settings import Settings
from cachesvc.supervisor import run

split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
worker: Sequence[str] = (sys.executable, str(Path(__file__).with_name("fake_worker.py")), *sys.argv[split + 1 :])
del sys.argv[split:]


def run_fakes(settings: Settings) -> int:
    return run(settings, worker=worker)


sys.modules["cachesvc.supervisor"].run = run_fakes  # type: ignore[attr-defined]
cli.main()
