"""The command serve: the service itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    from cachesvc.settings import load_settings
    from cachesvc.supervisor import run

    given = {"host": host, "port": port, "workers": workers, "data_dir": data_dir}
    overrides = {"server": {name: value for name, value in given.items() if value is not None}}
    raise typer.Exit(run(load_settings(config, overrides=overrides)))
