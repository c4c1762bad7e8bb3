"""The command line. Whatever goes wrong is one line and an exit code, never a traceback.

What a command needs is imported when it runs: `--help` has to be immediate.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cachesvc import __version__
from cachesvc.errors import CacheError, SettingsError

app = typer.Typer(
    name="cachesvc",
    help="A multi-level cache service: memory, Redis and database behind one interface.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

EXIT_FAILED, EXIT_SETTINGS, EXIT_INTERRUPTED = 1, 2, 130


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


@app.command()
def serve(
    config: Annotated[
        Path | None, typer.Option(help="A TOML file; without one: memory, an embedded Valkey and SQLite.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen.")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes any that is free.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes, each a node.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where data are kept.")] = None,
) -> None:
    """Run the service."""
    from cachesvc.settings import load_settings  # noqa: PLC0415
    from cachesvc.supervisor import run  # noqa: PLC0415

    given = {"host": host, "port": port, "workers": workers, "data_dir": data_dir}
    overrides = {"server": {name: value for name, value in given.items() if value is not None}}
    raise typer.Exit(run(load_settings(config, overrides=overrides)))


def main() -> None:
    """The console script `cachesvc`."""
    try:
        app()
    except SettingsError as exc:
        _fail(exc, EXIT_SETTINGS)
    except CacheError as exc:
        _fail(exc, EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _fail(exc: CacheError, code: int) -> None:
    typer.echo(f"cachesvc: {exc}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
