"""Commands on entries: get, set, delete, increment, keys, query."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cachesvc.cli.exits import Exit
from cachesvc.cli.operator import Operator, operator
from cachesvc.errors import InvalidInput

if TYPE_CHECKING:
    from cachesvc.client.http import Value
    from cachesvc.protocol.api import FoundEntry, ListedKey

T = TypeVar("T")
Found = tuple[list[T], str | None]  # what was listed, and the cursor of what follows

_PAGE = 1_000
_EXCERPT = 200  # characters of a value in a table

KeyArgument = Annotated[str, typer.Argument(help="The key.")]
Ttl = Annotated[float | None, typer.Option(help="Seconds that the entry lives.")]
IfMatch = Annotated[int | None, typer.Option(metavar="VERSION", min=1, help="Only if the entry has this version.")]
Limit = Annotated[int, typer.Option(min=1, help="How many to list at most.")]
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
    cursor: Annotated[str | None, typer.Option(help="Go on after the page that gave this.")] = None,
) -> Exit:
    """List keys in byte order. When none matches: exit code 1."""
    from cachesvc.cli.output import add, listed, nbytes, print_json, show, span, table

    with at.connected() as client:

        def page(number: int, after: str | None) -> tuple[Sequence[ListedKey], str | None]:
            found = client.keys(pattern, limit=number, cursor=after)
            return found.keys, found.cursor

        found, cursor = _pages(page, None if every else limit, cursor)
    if at.as_json:
        print_json({"keys": found, "cursor": cursor})
    elif found:
        rows = table("key", "version", "ttl", "size", "tags", right=("version", "ttl", "size"))
        for one in found:
            add(rows, one.key, one.version, span(one.ttl), nbytes(one.size), listed(one.tags))
        show(rows)
    _tell_rest(len(found), cursor, f"no key matches {pattern}", at)
    return Exit.OK if found else Exit.NOTHING


@operator
def query(
    at: Operator,
    *,
    fields: Annotated[
        list[str], typer.Argument(metavar="FIELD=VALUE...", help="Indexed fields; one given twice may be either.")
    ],
    limit: Limit = 100,
    every: All = False,
    cursor: Annotated[str | None, typer.Option(help="Go on after the page that gave this.")] = None,
) -> Exit:
    """Find entries by indexed fields. When none matches: exit code 1."""
    from cachesvc.cli.output import add, excerpt, print_json, show, span, table

    wanted: dict[str, list[str]] = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not (name and equals):
            raise InvalidInput("FIELD=VALUE", f"{field} is not of that form")
        wanted.setdefault(name, []).append(value)
    with at.connected() as client:

        def page(number: int, after: str | None) -> tuple[Sequence[FoundEntry], str | None]:
            found = client.query(wanted, limit=number, cursor=after)
            return found.entries, found.cursor

        found, cursor = _pages(page, None if every else limit, cursor)
    if at.as_json:
        print_json({"entries": found, "cursor": cursor})
    elif found:
        rows = table("key", "version", "ttl", "value", right=("version", "ttl"))
        for one in found:
            text = (one.value or b"").decode()
            add(rows, one.key, one.version, span(one.ttl), excerpt(text, _EXCERPT))
        show(rows)
    _tell_rest(len(found), cursor, f"no entry has {' and '.join(fields)}", at)
    return Exit.OK if found else Exit.NOTHING


def _pages(page: Callable[[int, str | None], tuple[Sequence[T], str | None]], most: int | None, cursor: str | None) -> Found[T]:
    """Up to `most` of what is listed (None: all), and where to go on."""
    found: list[T] = []
    while True:
        some, cursor = page(_PAGE if most is None else min(_PAGE, most - len(found)), cursor)
        found += some
        if cursor is None or len(found) == most:
            return found, cursor


def _tell_rest(number: int, cursor: str | None, none: str, at: Operator) -> None:
    from cachesvc.cli.output import plural, say

    if not number:
        say(none)
    elif cursor is not None and not at.as_json:
        say(f"{plural(number, 'entry', 'entries')}, and there are more: --all, or --cursor {cursor}")
