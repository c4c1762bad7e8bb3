"""The command changes: the change log, from a position on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cachesvc.cli.exits import Exit
from cachesvc.cli.operator import Operator, operator
from cachesvc.errors import InvalidInput

if TYPE_CHECKING:
    from cachesvc.client.http import Client, Followed
    from cachesvc.model.pattern import Pattern
    from cachesvc.protocol.operations import Change

_EXCERPT = 120


@operator
def changes(
    at: Operator,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    after: Annotated[
        str | None, typer.Option(metavar="EPOCH:SEQUENCE", help="Begin after this position; else from now on.")
    ] = None,
    pattern: Annotated[str | None, typer.Option(help="Only keys that match, and what has no key.")] = None,
) -> Exit:
    """Print the change log, a line for each change.

    Without --follow it ends where the log ends now. A position that the log cannot go on from: exit code 3. A connection that
    is lost is made again, without a gap.
    """
    from cachesvc.model.pattern import parse_pattern

    if not follow and after is None:
        raise InvalidInput("--after", "is needed, or --follow")
    matched = parse_pattern(pattern) if pattern is not None else None
    with at.connected() as client:
        found = client.changes(after=after, pattern=pattern) if follow else _up_to_now(client, str(after), matched)
        for position, change in found:
            if change is not None:
                _print(at, str(position), change)
    return Exit.OK


def _up_to_now(client: Client, after: str, pattern: Pattern | None) -> Iterator[Followed]:
    """What the log has after a position. The end is known by its position, so what is left out is read as well."""
    from cachesvc.model.position import parse_position

    start = parse_position(after, field="--after")
    # what a node was heard to have applied, and what it was behind then, are together where the log ends now
    end = next(node.applied + (node.lag or 0) for node in client.nodes().nodes if node.is_self)
    for followed in client.changes(after=after):
        position, change = followed
        if change is not None and (not (pattern and change.key) or pattern.matches(change.key)):
            yield followed
        if position.epoch != start.epoch or position.sequence >= end:
            return


def _print(at: Operator, position: str, change: Change) -> None:
    from cachesvc.cli.output import excerpt, moment, print_json, show

    if at.as_json:
        print_json({"position": position, **change.model_dump(by_alias=True, exclude_unset=True)})
        return
    named = change.model_extra or {}
    what = change.key or " ".join(f"{name}={named[name]}" for name in ("pattern", "tags", "keys", "cascade") if named.get(name))
    value = (
        f"({change.content_type}, too long to tell)" if change.truncated else excerpt((change.value or b"").decode(), _EXCERPT)
    )
    show("  ".join(part for part in (moment(change.at), position, f"{change.kind:<10}", what, value) if part))
