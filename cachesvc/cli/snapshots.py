"""Commands on snapshots: snapshot into a file, restore from one.

The rule that must not break: under its name a file is whole or is not there, and what is not whole is never sent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO, TYPE_CHECKING, Annotated, Final

import typer

from cachesvc.cli.exits import Exit, Failed
from cachesvc.cli.jobs import NoWait, outcome
from cachesvc.cli.operator import Operator, operator
from cachesvc.errors import InvalidInput

if TYPE_CHECKING:
    from cachesvc.protocol.snapshot import SnapshotReader

_CHUNK: Final = 256 << 10  # bytes
STANDARD: Final = Path("-")  # stdout, or stdin


@operator
def snapshot(
    at: Operator,
    file: Annotated[Path, typer.Argument(help="Where to; a file that is there is replaced by a whole one. - is stdout.")],
    pattern: Annotated[str, typer.Option(help="Only keys that match: *, ?, [abc], [!a]; \\ escapes.")] = "*",
) -> Exit:
    """Write entries into a file, with checksums.

    A file that cannot be written, or a snapshot cut off: exit code 6.
    """
    from cachesvc.cli.output import nbytes, plural, print_json, say, show
    from cachesvc.client.snapshot import reader

    if file == STANDARD and at.as_json:
        raise InvalidInput("FILE", "- is stdout, where --json prints its own")
    told, size = reader(), 0
    with _replaced(file) as out, at.connected() as client, client.snapshot(told, pattern) as chunks:
        for chunk in _shown("snapshot", chunks, None, told):
            size += out.write(chunk)
    if file == STANDARD:
        say(f"{plural(told.count, 'entry', 'entries')}, {nbytes(size)}")
    elif at.as_json:
        print_json({"file": str(file), "entries": told.count, "bytes": size, "position": str(told.position)})
    else:
        show(f"{file}: {plural(told.count, 'entry', 'entries')}, {nbytes(size)}")
    return Exit.OK


@operator
def restore(
    at: Operator,
    *,
    file: Annotated[Path, typer.Argument(help="A file that snapshot wrote. - is stdin.")],
    force: Annotated[bool, typer.Option("--force", help="Even if the log tells no more what was deleted since.")] = False,
    no_wait: NoWait = False,
) -> Exit:
    """Take the entries of a snapshot back.

    Never over a newer version. The file is checked before anything is sent. One that is damaged, or a job
    with errors: exit code 6.
    """
    from cachesvc.client.snapshot import checked, reader

    told = reader()
    with _opened(file) as source:
        size = os.fstat(source.fileno()).st_size
        for _ in _shown("check", checked(_chunks(file, source), told), size, told):
            pass
        source.seek(0)
        with at.connected() as client:
            job = client.restore(_shown("restore", _chunks(file, source), size, told), force=force)
            return outcome(at, client, job, wait=not no_wait)


@contextmanager
def _replaced(file: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes the place of another when all went well, and is gone when not."""
    if file == STANDARD:  # who reads it sees that it is whole by its last line
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = file.resolve()
    if target.exists() and not target.is_file():
        raise InvalidInput("FILE", f"{file} is there, and is no file")
    try:
        with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as out:
            try:
                yield out
                out.flush()
                os.fsync(out.fileno())
                Path(out.name).replace(target)
            except BaseException:
                Path(out.name).unlink()
                raise
    except OSError as exc:
        raise Failed(f"{file} cannot be written: {exc.strerror}") from exc


def _opened(file: Path) -> IO[bytes]:
    try:
        if file == STANDARD:  # read to its end first: nothing is sent of what is not whole
            spooled = TemporaryFile()  # noqa: SIM115 - whoever opens it closes it
            copyfileobj(sys.stdin.buffer, spooled)
            spooled.seek(0)
            return spooled
        return file.open("rb")
    except OSError as exc:
        raise InvalidInput("FILE", f"{file} cannot be read: {exc.strerror}") from exc


def _chunks(file: Path, source: IO[bytes]) -> Iterator[bytes]:
    try:
        yield from iter(lambda: source.read(_CHUNK), b"")
    except OSError as exc:
        raise Failed(f"{file} cannot be read: {exc.strerror}") from exc


def _shown(name: str, chunks: Iterable[bytes], total: int | None, told: SnapshotReader) -> Iterator[bytes]:
    """The chunks, with a progress bar where somebody looks."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from cachesvc.cli.output import console, plural

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(sys.stderr), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(name, total=total)
        for chunk in chunks:
            yield chunk
            bar.update(task, advance=len(chunk), description=f"{name} {plural(told.count, 'entry', 'entries')}")
