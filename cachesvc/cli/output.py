"""Output: tables for people, JSON for machines.

The rule that must not break: what comes from the service is shown, never interpreted, neither by the terminal (control
characters, text that runs the other way) nor as markup.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import IO, Final

import orjson
from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from cachesvc.protocol.exact import RawJson

_HOSTILE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_WIDE: Final = 100_000  # columns where nobody looks: a line of a table stays one line
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704 - it is called where the error is handled; rich would end with exit code 1


def console(stream: IO[str] | None = None) -> Console:
    """Where people read, stdout unless told otherwise. Without a terminal (and COLUMNS) a line is as long as it need be."""
    file = stream or sys.stdout
    width = None if file.isatty() or "COLUMNS" in os.environ else _WIDE
    return _Console(file=file, width=width, markup=False, highlight=False, emoji=False)


def print_json(document: object) -> None:
    """One line of JSON: a model, or what is made of models; a value stays as it was written."""
    sys.stdout.buffer.write(orjson.dumps(document, default=_plain, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def print_listing(name: str, pages: Iterable[Sequence[object]], cursor: Callable[[], str | None]) -> None:
    """One document of all pages, written as they come: however much is listed, no more than a page is held."""
    out = sys.stdout.buffer
    before = b'{"%s":[' % name.encode()  # comes with the first item, so that a failure before it prints nothing
    for items in pages:
        for item in items:
            out.write(before + orjson.dumps(item, default=_plain))
            before = b","
    out.write(b'%s],"cursor":%s}\n' % (before.removeprefix(b","), orjson.dumps(cursor())))
    out.flush()


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True, exclude_unset=True)
    if isinstance(value, RawJson):
        return orjson.Fragment(bytes(value))
    raise TypeError(f"{type(value).__name__} is not JSON")


def show(*parts: RenderableType) -> None:
    """Print for people, each part on lines of its own. A string is shown as it is, a control character by its number."""
    out = console()
    for part in parts:
        out.print(shown(part) if isinstance(part, str) else part)


def say(text: str) -> None:
    """A remark to people, beside what was asked for and after it."""
    sys.stdout.flush()
    console(sys.stderr).print(shown(text), soft_wrap=True)


def table(*columns: str, title: str | None = None, right: Iterable[str] = (), folds: Iterable[str] | None = None) -> Table:
    """An empty table. `right` are numbers; `folds`, or the first and the last column, take what width there is and fold."""
    made = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", show_edge=False, padding=(0, 1, 0, 0))
    numbers = frozenset(right)
    folding = frozenset((columns[0], columns[-1]) if folds is None else folds) - numbers
    for column in columns:
        folded = column in folding
        justify: JustifyMethod = "right" if column in numbers else "left"
        made.add_column(column, justify=justify, overflow="fold", no_wrap=not folded, min_width=8 if folded else None)
    return made


def add(made: Table, *cells: object, style: str | None = None) -> None:
    """A row; None is shown as a dash."""
    made.add_row(
        *(cell if isinstance(cell, Text) else shown("–" if cell is None else str(cell)) for cell in cells), style=style
    )


def shown(text: str) -> Text:
    """A text from outside: each character that a terminal would act upon is shown as an escape; a line break is kept out."""
    return Text(printable(text))


def printable(text: str, *, keep: str = "") -> str:
    return _HOSTILE.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def _escaped(character: str) -> str:
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character)
    return short or (f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}")


def excerpt(text: str, length: int) -> str:
    """The first characters of a text."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def nbytes(size: float | None) -> str | None:
    """`1.5 KiB`"""
    if size is None:
        return None
    power = 0
    while size >= 1024 and power < len(_UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.0f} B" if not power else f"{size:.1f} {_UNITS[power]}"


def count(number: int | None) -> str | None:
    """`1,234`"""
    return None if number is None else f"{number:,}"


def compact(number: int | None) -> str | None:
    """`1,234`, `123k`, `1.23M`: of three digits or so."""
    if number is None or number < 100_000:
        return count(number)
    return f"{number / 1_000:.0f}k" if number < 1_000_000 else f"{number / 1_000_000:.3g}M"


def plural(number: int, one: str, many: str = "") -> str:
    """`1 key`, `1,234 keys`"""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def span(seconds: float | None) -> str | None:
    """`0.4 s`, `59 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`"""
    if seconds is None:
        return None
    if seconds < 10:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for size, unit, next_size, next_unit in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size} {unit}" + (f" {rest} {next_unit}" if rest else "")
    return f"{whole} s"


def moment(at: float | None) -> str | None:
    """Unix seconds as local time."""
    return None if at is None else datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def listed(names: Sequence[str], most: int = 10) -> str | None:
    """Names in a row, the first few."""
    if not names:
        return None
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
