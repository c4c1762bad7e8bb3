"""The command explain: what a node knows of a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachesvc.cli.entries import KeyArgument
from cachesvc.cli.exits import Exit
from cachesvc.cli.operator import Operator, operator

if TYPE_CHECKING:
    from cachesvc.protocol.operations import Explanation, Read, TierExplained


@operator
def explain(at: Operator, key: KeyArgument) -> Exit:
    """Tell what each tier holds of a key, and why.

    What wrote it, and why the last read hit or missed. Held nowhere: exit code 1.
    """
    from cachesvc.cli.output import print_json

    with at.connected() as client:
        explanation = client.explain(key)
    if at.as_json:
        print_json(explanation)
    else:
        _show(explanation)
    return Exit.OK if any(tier.present for tier in explanation.tiers.values()) else Exit.NOTHING


def _show(told: Explanation) -> None:
    from cachesvc.cli.output import add, listed, moment, nbytes, show, span, table

    tiers = table(
        "tier", "holds", "version", "ttl", "stays", "size", "stored", right=("version", "ttl", "stays", "size", "stored")
    )
    for name, tier in told.tiers.items():
        held = (span(tier.ttl), span(tier.stays), nbytes(tier.size), nbytes(tier.stored_size))
        add(tiers, name, _holds(tier), tier.version, *held)
    show(told.key, tiers)
    facts = {
        "content type": told.content_type,
        "tags": listed(told.tags),
        "depends on": listed(told.parents),
    }
    if told.dependents is not None:
        facts["dependents"] = listed(told.dependents.keys, 20)
    if told.written_by is not None:
        by = f" by {told.written_by.actor}" if told.written_by.actor else ""
        facts["written by"] = f"{told.written_by.kind} {told.written_by.sequence} at {moment(told.written_by.at)}{by}"
    for name, tier in told.tiers.items():
        if tier.doubt:
            facts[f"{name} is not believed"] = tier.doubt
        if tier.last_read is not None:
            facts[f"last read in {name}"] = _read(tier.last_read)
    if told.last_load is not None:
        facts["last load"] = _read(told.last_load)
    for one in told.invalidations:
        how = ("softly " if one.soft else "") + ("swept" if one.swept else "being swept")
        facts[f"invalidated by {one.sequence}"] = f"{one.pattern}, {moment(one.at)}, {how}"
    facts["lowest version served"] = str(told.floor) if told.floor else "any"
    facts["log applied to"] = told.applied
    rows = table("", "")
    rows.show_header = False
    for fact, said in facts.items():
        if said is not None:
            add(rows, fact, said)
    show(rows)


def _holds(tier: TierExplained) -> str:
    if not tier.present:
        return "nothing"
    if not tier.believed:
        return "in doubt"
    return "live" if tier.live else "past its life"


def _read(read: Read) -> str:
    from cachesvc.cli.output import moment

    return f"{read.reason}, {moment(read.at)}"
