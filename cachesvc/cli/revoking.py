"""The command revoke: tokens are believed no more."""

from __future__ import annotations

from typing import Annotated

import typer

from cachesvc.cli.exits import Exit
from cachesvc.cli.numbers import finite
from cachesvc.cli.operator import Operator, operator


@operator
def revoke(
    at: Operator,
    *,
    jti: Annotated[str | None, typer.Option(help="One token, by its id.")] = None,
    sub: Annotated[str | None, typer.Option(help="All of a subject that were issued up to now.")] = None,
    before: Annotated[
        float | None, typer.Option(parser=finite, metavar="NUMBER", help="With --sub: up to then instead, in Unix seconds.")
    ] = None,
    expires_at: Annotated[
        float | None, typer.Option(parser=finite, metavar="NUMBER", help="When the last of them ends, in Unix seconds.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every live node has applied it.")] = False,
) -> Exit:
    """Have a token, or those of a subject, believed no more.

    Their sockets and streams are closed. With --wait, where a node has not applied it: exit code 6.
    """
    from datetime import UTC, datetime

    from cachesvc.cli.output import print_json, show
    from cachesvc.protocol.api import parse
    from cachesvc.protocol.revoking import Revoke

    given = {"jti": jti, "sub": sub, "before": before, "expiresAt": expires_at}
    wish = parse(Revoke, {name: value for name, value in given.items() if value is not None})
    with at.connected() as client:
        done = client.revoke(wish, wait=wait)
    if at.as_json:
        print_json(done)
    else:
        what = f"the token {done.jti}" if done.jti else f"the tokens of {done.sub}"
        show(f"revoked: {what}, until {datetime.fromtimestamp(done.expires_at, UTC):%Y-%m-%d %H:%M} UTC, at {done.sequence}")
        if done.missing:
            show(f"not yet applied by {', '.join(done.missing)}")
        if done.silent:
            show(f"not heard of lately, and may still take it: {', '.join(done.silent)}")
    return Exit.PARTLY if wait and not done.applied else Exit.OK
