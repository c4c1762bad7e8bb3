"""The command sync: have what a node's tiers hold compared with the authority."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cachesvc.cli.exits import Exit
from cachesvc.cli.operator import Operator, operator

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from cachesvc.client.http import Client
    from cachesvc.protocol.api import Sync
    from cachesvc.protocol.operations import AuditReport, SiteComparison, SyncAnswer

_AGAIN: Final = 0.5  # seconds between two looks at an audit that goes on


@operator
def sync(
    at: Operator,
    *,
    tiers: Annotated[list[str] | None, typer.Option("--tier", help="memory or redis, else both; may be repeated.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Compare so many entries of each tier, not all.")] = None,
    sites: Annotated[bool, typer.Option("--sites", help="Compare with all other sites instead.")] = False,
    site: Annotated[list[str] | None, typer.Option("--site", help="Only with this one; may be repeated.")] = None,
    last: Annotated[
        bool, typer.Option("--last", help="Only tell of the latest audits, of every node, or comparisons.")
    ] = False,
) -> Exit:
    """Compare a node's tiers with the authority, or sites.

    What differs is taken out; in normal operation nothing does. Where something did, or an audit came to no end: exit code 6.
    """
    from cachesvc.cli.output import print_json
    from cachesvc.protocol.api import Sync, parse

    wish = parse(Sync, {name: value for name, value in (("tiers", tiers), ("sample", sample)) if value})
    with at.connected() as client:
        if last and (sites or site):
            return _last_with_sites(client, site or (), as_json=at.as_json)
        if sites or site:
            return _with_sites(client, parse(Sync, {"sites": site or []}), as_json=at.as_json)
        if last:
            overview = client.synced()
            reports = [(node.node, tier, report) for node in overview.nodes for tier, report in node.tiers.items()]
            print_json(overview) if at.as_json else _show(reports)
        else:
            told = _ended(client, client.sync(wish))
            reports = [(told.node, tier, report) for tier, report in told.tiers.items()]
            print_json(told) if at.as_json else _show(reports)
    if any(report.repaired or report.error for _, _, report in reports):
        return Exit.PARTLY
    return Exit.OK if reports else Exit.NOTHING


def _with_sites(client: Client, wish: Sync, *, as_json: bool) -> Exit:
    """A comparison that goes on is joined by asking again."""
    from cachesvc.cli.output import print_json, say

    told = client.sync(wish)
    while told.state == "running":
        if not as_json:
            say(f"compared with {len(told.sites)} so far")
        told = client.sync(wish)
    print_json(told) if as_json else _show_sites(told.sites)
    for name, report in told.sites.items():
        if report.policies_differ and not as_json:
            say(f"the site {name} settles conflicts by other policies: make [conflicts] the same at both")
    if any(report.error or (report.repaired and not report.initial) for report in told.sites.values()):
        return Exit.PARTLY
    return Exit.OK if told.sites else Exit.NOTHING


def _last_with_sites(client: Client, names: Collection[str], *, as_json: bool) -> Exit:
    """The latest comparison with each, of whatever node."""
    from cachesvc.cli.output import print_json, say

    overview = client.synced()
    latest: dict[str, SiteComparison] = {}
    for node in overview.nodes:
        for name, report in node.sites.items():
            if (not names or name in names) and (name not in latest or latest[name].at < report.at):
                latest[name] = report
    if as_json:
        print_json(overview)
    elif latest:
        _show_sites(latest)
    else:
        say("no site was compared with yet")
    if any(report.error or (report.repaired and not report.initial) for report in latest.values()):
        return Exit.PARTLY
    return Exit.OK if latest else Exit.NOTHING


def _show_sites(sites: Mapping[str, SiteComparison]) -> None:
    from cachesvc.cli.output import add, count, moment, show, span, table

    numbers = ("entries", "differing", "repaired", "waiting", "rounds", "bytes")
    rows = table("site", *numbers, "when", right=numbers)
    for name, report in sites.items():
        moved = report.sent_bytes + report.received_bytes
        found = map(count, (report.entries, report.differing, report.repaired, report.held, report.rounds, moved))
        add(rows, name, *found, report.error or f"{moment(report.at)}, {span(report.seconds)}")
    show(rows)


def _ended(client: Client, told: SyncAnswer) -> SyncAnswer:
    """The audit once it is done."""
    while told.state == "running":
        time.sleep(_AGAIN)
        overview = client.synced()
        if overview.running is not None:
            told = overview.running
        else:
            tiers = next((node.tiers for node in overview.nodes if node.node == told.node), told.tiers)
            told = told.model_copy(update={"state": "done", "tiers": tiers})
    return told


def _show(reports: Iterable[tuple[str, str, AuditReport]]) -> None:
    from cachesvc.cli.output import add, count, moment, say, show, span, table

    numbers = ("compared", "repaired", "undecided", "coherence")
    rows = table("node", "tier", *numbers, "when", right=numbers)
    for node, tier, report in reports:
        coherence = f"{report.coherence:.4%}" if report.coherence is not None else None
        found = (count(report.audited), count(report.repaired), count(report.undecided))
        when = report.error or f"{moment(report.at)}, {span(report.seconds)}{'' if report.whole else ', a sample'}"
        add(rows, node, tier, *found, coherence, when)
    if rows.row_count:
        show(rows)
    else:
        say("there is nothing to compare, or nothing was compared yet")
