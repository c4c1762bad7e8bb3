"""Commands on snapshots: snapshot into a file, restore from one.

The rule that must not break: under its name a file is whole or is not there, and what is not whole is never sent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING, Annotated, Final

import typer

from cachesvc.cli.exits import Exit, Failed
from cachesvc.cli.jobs import NoWait, outcome
from cachesvc.cli.operator import Operator, operator
from cachesvc.errors import InvalidInput

if TYPE_CHECKING:
    from cachesvc.client.snapshot import SnapshotCheck

_CHUNK: Final = 256 << 10  # bytes


@operator
def snapshot(
    at: Operator,
    file: Annotated[Path, typer.Argument(help="Where to; one that is there is replaced, once the new one is whole.")],
    pattern: Annotated[str, typer.Option(help="Only keys that match: *, ?, [abc], [!a]; \\ escapes.")] = "*",
) -> Exit:
    """Write entries into a file, with checksums.

    A file that cannot be written, or a snapshot cut off: exit code 6.
    """
    from cachesvc.cli.output import nbytes, plural, print_json, show
    from cachesvc.client.snapshot import SnapshotCheck, checked

    check = SnapshotCheck()
    with _replaced(file) as out, at.connected() as client, client.snapshot(pattern) as answer:
        for chunk in _shown("snapshot", checked(answer.iter_bytes(), check), None, check):
            out.write(chunk)
        size = out.tell()
    if at.as_json:
        position = check.header.position if check.header is not None else None
        print_json({"file": str(file), "entries": check.count, "bytes": size, "position": position})
    else:
        show(f"{file}: {plural(check.count, 'entry', 'entries')}, {nbytes(size)}")
    return Exit.OK


@operator
def restore(
    at: Operator,
    file: Annotated[Path, typer.Argument(help="A file that snapshot wrote.")],
    no_wait: NoWait = False,
) -> Exit:
    """Take the entries of a snapshot back.

    Never over a newer version. The file is checked before anything is sent. One that is damaged, or a job
    with errors: exit code 6.
    """
    from cachesvc.client.snapshot import SnapshotCheck, checked

    try:
        with file.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            check = SnapshotCheck()
            for _ in _shown("check", checked(_chunks(source), check), size, check):
                pass
            source.seek(0)
            with at.connected() as client:
                told = client.restore(_shown("restore", _chunks(source), size, None))
                return outcome(at, client, told, wait=not no_wait)
    except OSError as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        raise InvalidInput("FILE", f"{file} cannot be read: {exc.strerror}") from exc


@contextmanager
def _replaced(file: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes the place of another when all went well, and is gone when not."""
    try:
        with NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as out:
            try:
                yield out
                out.flush()
                os.fsync(out.fileno())
                Path(out.name).replace(file)
            except BaseException:
                Path(out.name).unlink()
                raise
    except OSError as exc:
        raise Failed(f"{file} cannot be written: {exc.strerror}") from exc


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: source.read(_CHUNK), b"")


def _shown(name: str, chunks: Iterable[bytes], total: int | None, check: SnapshotCheck | None) -> Iterator[bytes]:
    """The chunks, with a progress bar where somebody looks."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from cachesvc.cli.output import console, plural

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(sys.stderr), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(name, total=total)
        for chunk in chunks:
            yield chunk
            entries = f" {plural(check.count, 'entry', 'entries')}" if check is not None else ""
            bar.update(task, advance=len(chunk), description=f"{name}{entries}")
