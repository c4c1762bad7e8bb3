"""The judge of a run over sites: what each acknowledged write came to, worked out anew from the logs of all sites.

It knows what the sites promise each other, and nothing of how they do it. Which writes a write knew of is read from its record,
and is itself checked, by the order at its site, by the clock and by the condition that it was made on. The rest follows: what
no other write has replaced is what every site must have, all of it, and what is served is worked out from that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from cachesvc.model.change import Change
from cachesvc.model.entry import Entry, Origin
from cachesvc.model.position import Seq, Version
from tests.faults.history import Kind, Op, Outcome
from tests.faults.sites.records import Records

_CLOCK: Final = 0.001  # seconds by which two servers of one machine may disagree


@dataclass(slots=True)
class Write:
    """One write of a site: what it left, and what it knew of."""

    origin: Origin
    of: Origin | None  # of an increment: what it was added to
    content: Entry  # of an increment: all that its site had added then
    entry: Entry
    at: float
    knew: Mapping[str, int] = field(init=False)
    keeps: frozenset[Origin] = field(init=False)
    replaced_by: list[Origin] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.knew = dict(self.entry.vector) or {self.origin.site: self.origin.sequence}
        self.keeps = frozenset(rival.origin for rival in self.entry.rivals) | {self.origin}


@dataclass(slots=True)
class Verdict:
    """What was found wrong, and what became of the acknowledged writes of keys that are set."""

    wrong: list[str] = field(default_factory=list)
    stands: int = 0
    replaced: int = 0
    loser: int = 0  # kept beside what stands


def judged(sites: Mapping[str, Records], history: Iterable[Op], *, site_of: Mapping[int, str], keys: Sequence[str]) -> Verdict:
    """`site_of`: where each client is."""
    verdict = Verdict()
    verdict.wrong += [f"{name}: {records.lost}" for name, records in sites.items() if records.lost]
    writes = _writes(sites)
    for key in keys:
        _judge_key(verdict, sites, key, writes.get(key, {}))
    acknowledged: dict[str, list[Op]] = defaultdict(list)
    for op in history:
        if op.kind is Kind.READ:
            continue
        if op.outcome is Outcome.OK:
            acknowledged[op.key].append(op)
        elif op.outcome is Outcome.ODD:
            verdict.wrong.append(f"{op.key} was answered {op.detail} by {op.node}")
    for key, ops in acknowledged.items():
        for op in ops:
            _judge_op(verdict, sites[site_of[op.client]], writes.get(key, {}), op, site_of[op.client])
    return verdict


def counted(sites: Mapping[str, Records], history: Iterable[Op], keys: Iterable[str]) -> Iterator[str]:
    """Counters that are not the sum of what was acknowledged, give or take what nobody knows of."""
    sure: dict[str, Decimal] = defaultdict(Decimal)
    perhaps: dict[str, Decimal] = defaultdict(Decimal)
    for op in history:
        if op.kind is Kind.INCREMENT and op.outcome in (Outcome.OK, Outcome.UNKNOWN):
            (sure if op.outcome is Outcome.OK else perhaps)[op.key] += Decimal(op.value)
    for key in keys:
        for name, records in sites.items():
            row = records.rows.get(key)
            value = Decimal(row.value.decode()) if row is not None and not row.deleted else Decimal(0)
            if not sure[key] <= value <= sure[key] + perhaps[key]:
                yield f"{key} is {value} at {name}, of {sure[key]} acknowledged and {perhaps[key]} of unknown outcome"


def _writes(sites: Mapping[str, Records]) -> dict[str, dict[Origin, Write]]:
    """All writes of all sites, by key and origin."""
    found: dict[str, dict[Origin, Write]] = defaultdict(dict)
    for name, records in sites.items():
        for change in records.log.values():
            if change.entry is not None and change.key is not None and _own(change, name):
                origin = Origin(name, change.sequence)
                added = next((one for one in change.entry.rivals if one.origin == origin and one.of is not None), None)
                content = added.entry if added is not None else change.entry
                of = added.of if added is not None else None
                found[change.key][origin] = Write(origin, of, content, change.entry, change.at)
    return found


def _own(change: Change, site: str) -> bool:
    entry = change.entry
    assert entry is not None
    return not entry.local and (entry.origin is None or entry.origin == Origin(site, change.sequence))


def _judge_key(verdict: Verdict, sites: Mapping[str, Records], key: str, writes: Mapping[Origin, Write]) -> None:
    """What stands is what no write replaced, at every site; and what is served follows from it."""
    for one in writes.values():
        for other in writes.values():
            if other is not one and other.knew.get(one.origin.site, 0) >= one.origin.sequence and one.origin not in other.keeps:
                one.replaced_by.append(other.origin)
                if other.at < one.at - _CLOCK:
                    verdict.wrong.append(f"{key}: {other.origin} says that it knew of {one.origin}, which is later")
    standing = sorted(origin for origin, write in writes.items() if not write.replaced_by)
    should = served([writes[origin] for origin in standing])
    for name, records in sites.items():
        row = records.rows.get(key)
        if row is None:
            if standing:
                verdict.wrong.append(f"{key}: {name} has nothing, and should have {standing}")
            continue
        has = sorted(rival.origin for rival in row.rivals) or [row.origin or Origin(name, Seq(row.version))]
        if has != standing:
            verdict.wrong.append(f"{key}: {name} has kept {has}, and should have {standing}")
        if not _same(row, *should):
            verdict.wrong.append(f"{key}: {name} serves {row.value!r} (deleted: {row.deleted}), and should {should}")


def served(standing: Sequence[Write]) -> tuple[bool, bytes]:
    """Whether it is deleted, and its value: the latest content, the higher name of the site of two of one time, and what
    was added to it, or to what is there no more."""
    contents = [write for write in standing if write.of is None]
    best = max(contents, key=lambda write: (write.content.updated_at, write.origin), default=None)
    there = {write.origin for write in contents}
    added = [
        write
        for write in standing
        if write.of is not None and (write.of not in there or (best is not None and write.of == best.origin))
    ]
    if not added:
        return (True, b"") if best is None or best.content.deleted else (False, best.content.value)
    total = sum((Decimal(write.content.value.decode()) for write in added), Decimal(0))
    if best is not None and not best.content.deleted:
        total += Decimal(best.content.value.decode())
    return False, f"{total:f}".encode()


def _same(row: Entry, deleted: bool, value: bytes) -> bool:
    """A number may be written in more than one way."""
    if row.deleted or deleted or row.value == value or b'"' in value:
        return (row.deleted, row.value) == (deleted, value)
    return Decimal(row.value.decode()) == Decimal(value.decode())


def _judge_op(verdict: Verdict, records: Records, writes: Mapping[Origin, Write], op: Op, site: str) -> None:
    """An acknowledged write is in the log of its site as it was asked for; and stands, or what replaced it is known."""
    origin = Origin(site, Seq(op.version))
    write = writes.get(origin)
    if write is None:
        verdict.wrong.append(f"{op.key}: what {site} acknowledged as {op.version} is not in its log")
        return
    if op.kind is Kind.SET and (write.content.deleted or write.content.value != op.value.encode()):
        verdict.wrong.append(f"{op.key}: {origin} is {write.content.value!r}, and {op.value} was acknowledged")
    if op.kind is Kind.DELETE and not write.content.deleted:
        verdict.wrong.append(f"{op.key}: {origin} was acknowledged as a deletion, and is {write.content.value!r}")
    if op.kind is Kind.SET and op.expected > 0:
        seen = records.log.get(Version(op.expected))
        known = dict(seen.entry.vector) if seen is not None and seen.entry is not None else {}
        lacking = [name for name, sequence in known.items() if write.knew.get(name, 0) < sequence]
        if lacking:
            verdict.wrong.append(f"{op.key}: {origin} was made on {op.expected}, and does not know what that knew of {lacking}")
    if op.kind in (Kind.SET, Kind.DELETE) and write.of is None:
        verdict.replaced += bool(write.replaced_by)
        stands = not write.replaced_by and _serves(records.rows.get(op.key), write)
        verdict.stands += stands
        verdict.loser += not write.replaced_by and not stands


def _serves(row: Entry | None, write: Write) -> bool:
    return row is not None and _same(row, write.content.deleted, write.content.value)
