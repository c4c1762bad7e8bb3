"""The command line. Whatever goes wrong is one line and an exit code, never a traceback.

What a command needs is imported when it runs: `--help` has to be immediate.
"""

from __future__ import annotations

import os
import sys
import traceback
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from cachesvc import __version__
from cachesvc.cli import changes, entries, explanation, invalidation, jobs, nodes, revoking, snapshots, sync
from cachesvc.cli.exits import TOLD, Exit, exit_of
from cachesvc.cli.serve import serve
from cachesvc.errors import CacheError

app = typer.Typer(
    name="cachesvc",
    help="A multi-level cache service, and the commands of its operators.",
    epilog=TOLD,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS = {
    "serve": serve,
    "keys": entries.keys,
    "query": entries.query,
    "get": entries.get,
    "set": entries.put,
    "delete": entries.delete,
    "increment": entries.increment,
    "explain": explanation.explain,
    "invalidate": invalidation.invalidate,
    "revoke": revoking.revoke,
    "warm": jobs.warm,
    "jobs": jobs.jobs,
    "job": jobs.job,
    "snapshot": snapshots.snapshot,
    "restore": snapshots.restore,
    "stats": nodes.stats,
    "nodes": nodes.nodes,
    "sync": sync.sync,
    "changes": changes.changes,
}
for name, command in COMMANDS.items():
    # what looks like an option may be a negative number
    app.command(name, context_settings={"ignore_unknown_options": name == "increment"})(command)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cachesvc {__version__}")
        raise typer.Exit


@app.callback()
def _cachesvc(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script `cachesvc`."""
    if sys.stderr is None:  # it was closed by who called
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - it stays open to the end
    if sys.stdout is None:
        _fail("the output cannot be written: stdout is closed", Exit.PARTLY)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever a key has in it can be printed
    try:
        app()
    except CacheError as error:
        _fail(str(error), exit_of(error))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - told in one line, with its place
        place = traceback.extract_tb(error.__traceback__)[-1]
        _fail(f"a fault of its own: {type(error).__name__}: {error} ({place.filename}:{place.lineno})", Exit.FAULT)


def _fail(sentence: str, code: int) -> None:
    # what the service said may hold characters that a terminal acts upon
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in sentence)
    typer.echo(f"cachesvc: {line}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
