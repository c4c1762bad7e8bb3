"""Commands on nodes: nodes, stats."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from cachesvc.cli.exits import Exit
from cachesvc.cli.numbers import pause
from cachesvc.cli.operator import Operator, operator

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cachesvc.protocol.operations import Stats, TierStats


@operator
def nodes(at: Operator) -> Exit:
    """List the nodes: what each has applied, and how far it lags."""
    from cachesvc.cli.output import add, count, print_json, show, table

    with at.connected() as client:
        told = client.nodes()
    if at.as_json:
        print_json(told)
        return Exit.OK
    rows = table("node", "address", "applied", "lag", "version, duties", right=("applied", "lag"))
    for node in sorted(told.nodes, key=lambda node: not node.is_self):  # the one that answers first
        name = f"{'*' if node.is_self else ' '} {node.node}"
        lag = "other epoch" if node.lag is None else count(node.lag)
        duties = (node.model_extra or {}).get("duties")
        does = [node.version, *(duties if isinstance(duties, list) else [])]
        add(rows, name, node.address, node.applied, lag, ", ".join(map(str, does)))
    show(rows, "", "* is the one that answers")
    return Exit.OK


@operator
def stats(
    at: Operator,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C; hits are those of each interval then.")
    ] = False,
    interval: Annotated[float, typer.Option(parser=pause, metavar="NUMBER", help="Seconds between two looks.")] = 2.0,
) -> Exit:
    """Tell hits, misses, entries and bytes, by tier.

    They are those of the node that answers: a connection stays with one. Entries and bytes of
    redis, where it is no authority, are all keys and the memory of its server, some seconds ago.
    """
    from cachesvc.cli.output import console, print_json, show

    with at.connected() as client:
        now = client.stats()
        if at.as_json or not watch:
            print_json(now) if at.as_json else show(_table(now, None))
        elif not console().is_terminal:
            show(_table(now, None))
        if not watch:
            return Exit.OK
        if at.as_json or not console().is_terminal:
            while True:
                time.sleep(interval)
                before, now = now, client.stats()
                print_json(now) if at.as_json else show(_table(now, before))
        from rich.live import Live

        with Live(_table(now, None), console=console(), auto_refresh=False, screen=False) as live:
            while True:
                time.sleep(interval)
                before, now = now, client.stats()
                live.update(_table(now, before), refresh=True)


def _table(now: Stats, before: Stats | None) -> RenderableType:
    from cachesvc.cli.output import add, compact, nbytes, span, table

    numbers = ("hits", "misses", "ratio", "entries", "bytes", "evicted", "p99")
    rows = table("tier", *numbers, "state", title=f"node {now.node}, up {span(now.uptime)}", right=numbers)
    for name, tier in now.tiers.items():
        hits, misses = _counts(tier, before.tiers.get(name) if before is not None and before.node == now.node else None)
        ratio = f"{hits / (hits + misses):.1%}" if hits + misses else None
        p99 = tier.latency.get("p99")
        slow = f"{p99 * 1_000:.3g} ms" if p99 is not None else None
        held = (compact(tier.entries), nbytes(tier.bytes), compact(tier.evictions))
        add(rows, name, compact(hits), compact(misses), ratio, *held, slow, _state(tier))
    return rows


def _counts(now: TierStats, before: TierStats | None) -> tuple[int, int]:
    """Hits and misses since the look before, or since the start of the node."""
    if before is None or before.hits > now.hits:
        return now.hits, now.misses
    return now.hits - before.hits, now.misses - before.misses


def _state(tier: TierStats) -> str:
    if tier.error:
        return tier.error
    if tier.breaker != "closed":
        return f"breaker {tier.breaker}"
    return "ok" if tier.writes_breaker in (None, "closed") else f"writes: breaker {tier.writes_breaker}"
