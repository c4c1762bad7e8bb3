"""Commands on entries: get, set, delete, increment, keys, query."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar

import typer

from cachesvc.cli.exits import Exit
from cachesvc.cli.numbers import finite
from cachesvc.cli.operator import Operator, operator
from cachesvc.errors import InvalidInput

if TYPE_CHECKING:
    from rich.table import Table

    from cachesvc.client.http import Client, Value
    from cachesvc.protocol.api import FoundEntry, ListedKey

T = TypeVar("T")
Page = Callable[["Client", int, str | None], tuple[Sequence[T], str | None]]  # so many after a cursor; and the next cursor

_PAGE = 1_000
_EXCERPT = 200  # characters of a value in a table

KeyArgument = Annotated[str, typer.Argument(help="The key.")]
Ttl = Annotated[float | None, typer.Option(parser=finite, metavar="NUMBER", help="Seconds that the entry lives.")]
IfMatch = Annotated[int | None, typer.Option(metavar="VERSION", min=1, help="Only if the entry has this version.")]
Limit = Annotated[int, typer.Option(min=1, help="How many to list at most.")]
Cursor = Annotated[str | None, typer.Option(help="Go on after the page that gave this.")]
All = Annotated[bool, typer.Option("--all", help="List all, however many they are.")]


@operator
def get(
    at: Operator,
    *,
    key: KeyArgument,
    fresh: Annotated[bool, typer.Option(help="Pass by memory and Redis: ask the authority.")] = False,
    info: Annotated[bool, typer.Option("--info", help="Tell version, age and the tier that answered, on stderr.")] = False,
) -> Exit:
    """Print a value, byte for byte. Without an entry: exit code 1."""
    from cachesvc.cli.output import print_json, printable, say

    with at.connected() as client:
        value = client.get(key, cache_control="no-cache" if fresh else None)
    if value is None:
        if at.as_json:
            print_json({"key": key, "missing": True})
        say(f"there is no entry {key}")
        return Exit.NOTHING
    if at.as_json:
        print_json(_document(value))
        return Exit.OK
    if info:
        say(f"version {value.version}, {value.content_type}, {value.age} s old, {value.status}")
    if sys.stdout.isatty():
        typer.echo(printable(value.data.decode(errors="backslashreplace"), keep="\n\t"))
    else:
        sys.stdout.buffer.write(value.data)
    return Exit.OK


def _document(value: Value) -> dict[str, object]:
    from cachesvc.protocol.exact import RawJson
    from cachesvc.protocol.values import is_json

    document: dict[str, object] = {
        "key": value.key,
        "version": value.version,
        "contentType": value.content_type,
        "age": value.age,
        "cacheStatus": value.status,
    }
    if is_json(value.content_type):
        return document | {"value": RawJson(value.data)}
    return document | {"encoding": "base64", "value": b64encode(value.data).decode()}


@operator
def put(
    at: Operator,
    *,
    key: KeyArgument,
    value: Annotated[str, typer.Argument(help="The value (JSON unless --content-type says otherwise), @FILE, or - for stdin.")],
    content_type: Annotated[str, typer.Option(help="What the value is, like text/plain.")] = "application/json",
    ttl: Ttl = None,
    tags: Annotated[list[str], typer.Option("--tag", help="A tag; may be repeated.")] = [],  # noqa: B006 - typer copies it
    depends_on: Annotated[list[str], typer.Option(help="A key or tag that it was computed from; may be repeated.")] = [],  # noqa: B006
    if_match: IfMatch = None,
    if_absent: Annotated[bool, typer.Option("--if-absent", help="Only where there is no entry.")] = False,
) -> Exit:
    """Write a value. Where a condition is not met: exit code 3."""
    from cachesvc.cli.output import print_json, show
    from cachesvc.client.errors import ServiceError
    from cachesvc.client.http import ABSENT, JSON

    if if_absent and if_match is not None:
        raise InvalidInput("--if-absent", "cannot be met together with --if-match")
    data = _value(value)
    with at.connected() as client:
        try:
            done = client.put(
                key,
                data,
                content_type=content_type,
                ttl=ttl,
                tags=tags,
                depends_on=depends_on,
                if_version=ABSENT if if_absent else if_match,
            )
        except ServiceError as error:
            if error.field == "body" and error.status == 400 and content_type == JSON:
                raise InvalidInput(
                    "value", f"{error}. A text is written with quotes, '\"…\"', or --content-type text/plain"
                ) from error
            raise
    if at.as_json:
        print_json(done)
    else:
        show(f"{key} is at version {done.version}")
    return Exit.OK


def _value(given: str) -> bytes:
    if given == "-":
        return sys.stdin.buffer.read()
    if given.startswith("@"):
        try:
            return Path(given[1:]).read_bytes()
        except OSError as exc:
            raise InvalidInput("value", f"{given[1:]} cannot be read: {exc.strerror}") from exc
    return given.encode(errors="surrogateescape")


@operator
def delete(at: Operator, key: KeyArgument, if_match: IfMatch = None) -> Exit:
    """Delete an entry. Where there is none: exit code 1, and the deletion is recorded all the same."""
    from cachesvc.cli.output import print_json, show

    with at.connected() as client:
        found = client.delete(key, if_version=if_match)
    if at.as_json:
        print_json({"key": key, "deleted": found})
    else:
        show(f"{key} is deleted" if found else f"there was no entry {key}; the deletion is recorded")
    return Exit.OK if found else Exit.NOTHING


@operator
def increment(
    at: Operator,
    *,
    key: KeyArgument,
    amount: Annotated[str, typer.Argument(help="A decimal number; it may be negative.")] = "1",
    ttl: Ttl = None,
) -> Exit:
    """Add to a number, exactly.

    However many do so at once. One that is not there counts as 0.
    """
    from cachesvc.cli.output import print_json, show

    with at.connected() as client:
        done = client.increment(key, amount, ttl=ttl)
    if at.as_json:
        print_json(done)
    else:
        show((done.value or b"").decode())
    return Exit.OK


@operator
def keys(
    at: Operator,
    *,
    pattern: Annotated[str, typer.Argument(help="A glob: *, ?, [abc], [!a]; \\ escapes.")] = "*",
    limit: Limit = 100,
    every: All = False,
    cursor: Cursor = None,
) -> Exit:
    """List keys in byte order. When none matches: exit code 1."""
    from cachesvc.cli.output import add, listed, nbytes, span, table

    def page(client: Client, number: int, after: str | None) -> tuple[Sequence[ListedKey], str | None]:
        found = client.keys(pattern, limit=number, cursor=after)
        return found.keys, found.cursor

    def drawn(found: Sequence[ListedKey]) -> Table:
        rows = table("key", "version", "ttl", "size", "tags", right=("version", "ttl", "size"))
        for one in found:
            add(rows, one.key, one.version, span(one.ttl), nbytes(one.size), listed(one.tags))
        return rows

    return _list(at, "keys", Pages(page, None if every else limit, cursor), drawn, none=f"no key matches {pattern}")


@operator
def query(
    at: Operator,
    *,
    fields: Annotated[
        list[str], typer.Argument(metavar="FIELD=VALUE...", help="Indexed fields; one given twice may be either.")
    ],
    limit: Limit = 100,
    every: All = False,
    cursor: Cursor = None,
) -> Exit:
    """Find entries by indexed fields. When none matches: exit code 1."""
    from cachesvc.cli.output import add, excerpt, span, table

    wanted: dict[str, list[str]] = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not (name and equals):
            raise InvalidInput("FIELD=VALUE", f"{field} is not of that form")
        wanted.setdefault(name, []).append(value)

    def page(client: Client, number: int, after: str | None) -> tuple[Sequence[FoundEntry], str | None]:
        found = client.query(wanted, limit=number, cursor=after)
        return found.entries, found.cursor

    def drawn(found: Sequence[FoundEntry]) -> Table:
        rows = table("key", "version", "ttl", "value", right=("version", "ttl"))
        for one in found:
            add(rows, one.key, one.version, span(one.ttl), excerpt((one.value or b"").decode(), _EXCERPT))
        return rows

    none = f"no entry has {' and '.join(fields)}"
    return _list(at, "entries", Pages(page, None if every else limit, cursor), drawn, none=none)


class Pages(Generic[T]):
    """Up to `most` of what is listed (None: all), page by page; `count` and `cursor` say how far it was read."""

    def __init__(self, page: Page[T], most: int | None, cursor: str | None) -> None:
        self.count = 0
        self.cursor = cursor
        self._page = page
        self._most = most

    def read(self, client: Client) -> Iterator[Sequence[T]]:
        while True:
            size = _PAGE if self._most is None else min(_PAGE, self._most - self.count)
            found, self.cursor = self._page(client, size, self.cursor)
            self.count += len(found)
            yield found
            if self.cursor is None or self.count == self._most:
                return


def _list(at: Operator, name: str, pages: Pages[T], drawn: Callable[[Sequence[T]], Table], *, none: str) -> Exit:
    """Print what is listed, and tell where it goes on."""
    from cachesvc.cli.output import plural, print_listing, say, show

    with at.connected() as client:
        if at.as_json:
            print_listing(name, pages.read(client), lambda: pages.cursor)
        else:
            for found in pages.read(client):
                if found:
                    show(drawn(found))
    if not pages.count:
        say(none)
    elif pages.cursor is not None and not at.as_json:
        say(f"{plural(pages.count, 'entry', 'entries')}, and there are more: --all, or --cursor {pages.cursor}")
    return Exit.OK if pages.count else Exit.NOTHING
