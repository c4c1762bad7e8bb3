"""The console script `cachesvc`: an interrupt that comes before the commands are there ends it as silently as one after."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    heeded = signal.getsignal(signal.SIGINT)
    if heeded is signal.default_int_handler:  # in the background of a shell it is ignored, and stays so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cachesvc.cli.main import main as run

    signal.signal(signal.SIGINT, heeded)
    run()
