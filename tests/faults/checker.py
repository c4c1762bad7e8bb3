"""The checker: finds in a history what no correct service could have answered. Pure: it looks at nothing else.

It convicts on proof only. What began before something else had ended may have come before it or after it; a write whose
outcome is unknown may have happened at any moment since it began, or not at all.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from itertools import accumulate
from typing import NamedTuple

from cachesvc.cluster.audit import REPAIRED
from tests.faults.history import TRUTH, Kind, Mode, Op, Outcome, Restored, restored


class Wrong(StrEnum):
    """The kinds of violations."""

    LOST = "lost acknowledged write"
    REFUSED = "applied refused write"
    BACKWARD = "backward read"
    LEAST = "Min-Version not respected"
    CONTENT = "value of another version"
    DOUBLED = "doubled idempotent write"
    INCREMENT = "increments not exact"
    STALE = "stale after heal"
    DISAGREE = "nodes disagree after heal"
    CONDITION = "condition not kept"
    INVALIDATED = "invalidated value seen again"
    ORDER = "versions not in order"
    ODD = "odd answer"
    AWAY = "no answer after heal"
    REPAIRED = "repaired by an audit"


class Violation(NamedTuple):
    kind: Wrong
    text: str


def repaired(said: Iterable[str]) -> list[Violation]:
    """What the audits of the services, going by what they logged, had to take out of memory or Redis."""
    return [Violation(Wrong.REPAIRED, line) for line in said if REPAIRED in line]


class _Event(NamedTuple):
    """A version of a key: what it holds, None where it removed."""

    value: str | None
    invalidation: bool = False


class _Begun(NamedTuple):
    """What was known of a key when a read of it began: to its node, and at all."""

    node: int
    truth: int


@dataclass(slots=True)
class _Key:
    """All that the whole history tells of one key."""

    events: dict[int, _Event] = field(default_factory=dict)
    removals: list[tuple[int, float]] = field(default_factory=list)  # acknowledged: version, start
    removing: float = float("inf")  # when the first removal of unknown outcome began
    written: dict[str, list[Op]] = field(default_factory=lambda: defaultdict(list))  # by value
    versions: list[int] = field(default_factory=list)  # of the events, in order
    since: list[float] = field(default_factory=list)  # the earliest start of removals from here on

    def ready(self) -> None:
        self.versions = sorted(self.events)
        self.removals.sort()
        starts = [start for _, start in reversed(self.removals)]
        self.since = list(accumulate(starts, min))[::-1]

    def may_be_gone(self, version: int, before: float) -> bool:
        """Whether something may have removed `version` by then."""
        return self.removing < before or bool(self._removal(version, before))

    def gone_at(self, version: int, before: float) -> int:
        """The least version that a node which found nothing, where `version` had been, must have come to."""
        if not version:
            return 0  # it may not have been there yet
        if self.removing < before:
            event = self.events.get(version)
            return version + 1 if event is not None and event.value is not None else version
        return self._removal(version, before)

    def _removal(self, version: int, before: float) -> int:
        place = bisect_left(self.removals, (version, float("-inf")))
        if place < len(self.removals) and self.since[place] < before:
            return next(at for at, start in self.removals[place:] if start < before)
        return 0

    def before(self, version: int) -> int:
        """The newest known version up to this one, 0 for none."""
        place = bisect_right(self.versions, version)
        return self.versions[place - 1] if place else 0

    def between(self, low: int, high: int) -> int:
        """A known version in between, 0 for none."""
        place = bisect_right(self.versions, low)
        return self.versions[place] if place < len(self.versions) and self.versions[place] < high else 0


def check(history: Iterable[Op]) -> list[Violation]:
    """Every violation, in no order. Each era is checked by itself, with what was kept of those before."""
    ops = sorted(history, key=lambda op: op.end)
    restores = sorted(restored(op) for op in ops if op.kind is Kind.RESTORE)
    violations: list[Violation] = []
    for number in range(len(restores) + 1):
        violations += _Check(era(ops, restores, number)).run()
    if not restores:
        over = (op for op in ops if op.outcome is Outcome.OVER)
        violations += [Violation(Wrong.ODD, f"{op.key}: told to start over ({op.detail}), and nothing was lost") for op in over]
    return list(dict.fromkeys(violations))  # what was not lost is seen in each era


def era(ops: Sequence[Op], restores: Sequence[Restored], number: int) -> list[Op]:
    """What there was after so many restores and before the next, in order of the ends.

    A write that was acknowledged after a backup was taken is lost with it, and is as if it had never been asked for: its value
    is one that nobody wrote, unless an attempt before the one that was answered was given up by its client only: a node may
    come to it after the backup was put back. Of one that was asked for before and acknowledged while it was taken, nobody
    knows, nor of one that was under way when it was put back. Reads from then until every node had noticed are of neither
    history.
    """
    past, following = restores[:number], restores[number:]
    begins = past[-1].noticed if past else float("-inf")
    ends = following[0].gone if following else float("inf")
    found: list[Op] = []
    for op in ops:
        if op.kind is Kind.RESTORE:
            continue
        if op.kind is Kind.READ:
            if op.start >= begins and op.end <= ends:
                found.append(op)
        elif op.start < ends:
            lost = any(one.last < op.start and op.end <= one.gone for one in past)
            if lost and _told(op) and op.attempts == 1:
                continue
            unsure = lost or op.end > ends or any(_astride(op, one) for one in past)
            found.append(_untold(op) if unsure and _told(op) else op)
    return found


def _astride(op: Op, one: Restored) -> bool:
    """Whether nobody knows if it came before or after the backup was taken, or put back."""
    return (op.start <= one.last and one.first <= op.end <= one.gone) or op.start <= one.gone < op.end


def _told(op: Op) -> bool:
    return op.outcome is Outcome.OK


def _untold(op: Op) -> Op:
    """The same, had nobody been told how it ended."""
    return op._replace(outcome=Outcome.UNKNOWN, version=0, total="")


class _Check:
    def __init__(self, ops: Sequence[Op]) -> None:
        self._ops = ops
        self._keys: dict[str, _Key] = defaultdict(_Key)
        self._counters = {op.key for op in ops if op.kind is Kind.INCREMENT}
        self._found: list[Violation] = []
        self._resolved: dict[tuple[int, int], int] = {}  # what a read told of a write of unknown outcome

    def run(self) -> list[Violation]:
        for op in self._ops:
            self._learn_write(op)
        for op in self._ops:
            if op.kind is Kind.READ and op.version and op.outcome is Outcome.OK:
                self._learn_read(op)
        for key in self._keys.values():
            key.ready()
        self._check_order()
        self._check_reads()
        self._check_conditions()
        self._check_counters()
        self._check_rest()
        return self._found

    def _wrong(self, kind: Wrong, op: Op, text: str) -> None:
        who = f"client {op.client} operation {op.number} on {op.node or 'no node'}"
        self._found.append(Violation(kind, f"{op.key or op.keys}: {text} ({who}, {op.start:.3f} to {op.end:.3f})"))

    # what there was

    def _learn_write(self, op: Op) -> None:
        if op.outcome is Outcome.ODD:
            self._wrong(Wrong.ODD, op, f"{op.kind}: {op.detail}")
        if op.outcome is Outcome.AWAY and op.mode is Mode.FINAL:
            self._wrong(Wrong.AWAY, op, op.detail)
        if op.kind is Kind.READ:
            return
        for name in op.keys or (op.key,):
            key = self._keys[name]
            if op.kind is Kind.SET:
                key.written[op.value].append(op)
            elif op.kind in (Kind.DELETE, Kind.INVALIDATE):
                self._learn_removal(key, op)
            if op.outcome is Outcome.OK:
                self._learn_version(key, op)

    def _learn_removal(self, key: _Key, op: Op) -> None:
        if op.outcome is Outcome.OK:
            key.removals.append((op.version, op.start))
        elif op.outcome is not Outcome.REFUSED:
            key.removing = min(key.removing, op.start)

    def _learn_version(self, key: _Key, op: Op) -> None:
        if op.version in key.events:
            self._wrong(Wrong.CONTENT, op, f"version {op.version} was given to two writes")
        value = {Kind.SET: op.value, Kind.INCREMENT: op.total}.get(op.kind)
        key.events[op.version] = _Event(value, op.kind is Kind.INVALIDATE)

    def _learn_read(self, op: Op) -> None:
        key = self._keys[op.key]
        known = key.events.get(op.version)
        if known is not None:
            if known.value != op.value:
                was = "nothing" if known.value is None else known.value
                self._wrong(Wrong.CONTENT, op, f"version {op.version} was read as {op.value}, and is {was}")
            return
        key.events[op.version] = _Event(op.value)
        if op.key in self._counters:
            return
        writes = key.written.get(op.value, ())
        if not writes:
            self._wrong(Wrong.CONTENT, op, f"{op.value} was read in version {op.version}, and nobody wrote it")
        for write in writes:
            self._trace(op, write)

    def _trace(self, read: Op, write: Op) -> None:
        """A version that was read and that no answer to a write names: whose is it?"""
        who = write.client, write.number
        if write.outcome is Outcome.REFUSED:
            self._wrong(Wrong.REFUSED, read, f"{read.value} was refused ({write.detail}), and read in version {read.version}")
        elif write.outcome is Outcome.OK:
            self._wrong(Wrong.DOUBLED, read, f"{read.value} was written once, in {write.version}, and read in {read.version}")
        elif self._resolved.setdefault(who, read.version) != read.version:
            self._wrong(
                Wrong.DOUBLED,
                read,
                f"{read.value} was written once, and read in versions {self._resolved[who]} and {read.version}",
            )

    # in which order

    def _check_order(self) -> None:
        """What begins after a version was known gets a higher one, whatever its key."""
        known = [(op.end, op.version) for op in self._ops if op.version and op.outcome is Outcome.OK]
        ends = [end for end, _ in known]
        highest = list(accumulate((version for _, version in known), max))
        for op in self._ops:
            version = op.version if op.outcome is Outcome.OK else self._resolved.get((op.client, op.number), 0)
            if op.kind is Kind.READ or not version:
                continue
            place = bisect_left(ends, op.start)
            if place and highest[place - 1] >= version:
                self._wrong(Wrong.ORDER, op, f"was given version {version}, and {highest[place - 1]} was known before it began")

    # what was read

    def _check_reads(self) -> None:
        """In the order of time: what a node has shown, or acknowledged, is the least that it shows from then on."""
        moments: list[tuple[float, int, int]] = []  # at one moment, beginnings come first
        for place, op in enumerate(self._ops):
            if op.outcome is Outcome.OK:
                moments += [(op.start, 0, place), (op.end, 1, place)]
        floors: dict[tuple[str, str], int] = defaultdict(int)
        begun: dict[int, _Begun] = {}
        for _, ends, place in sorted(moments):
            op = self._ops[place]
            if op.kind is not Kind.READ:
                if ends:
                    for name in op.keys or (op.key,):
                        _raise(floors, name, op.version, op.node, TRUTH)
            elif not ends:
                begun[place] = _Begun(floors[op.node, op.key] if op.node else 0, floors[TRUTH, op.key])
            else:
                self._check_read(op, begun.pop(place), floors)

    def _wanted(self, op: Op, begun: _Begun) -> list[tuple[int, Wrong]]:
        """The versions that a read may not be older than, and what it is if it is."""
        wanted = [(begun.node, Wrong.BACKWARD)]
        if op.least:
            wanted.append((self._keys[op.key].before(op.least), Wrong.LEAST))
        if op.mode is Mode.FRESH:
            wanted.append((begun.truth, Wrong.LOST))
        if op.mode is Mode.FINAL:
            wanted.append((begun.truth, Wrong.STALE))
        return wanted

    def _check_read(self, op: Op, begun: _Begun, floors: dict[tuple[str, str], int]) -> None:
        key = self._keys[op.key]
        for floor, kind in self._wanted(op, begun):
            if op.version and op.version < floor:
                event = key.events.get(floor)
                gone = event is not None and event.invalidation
                self._wrong(
                    Wrong.INVALIDATED if gone else kind, op, f"{op.mode} read of version {op.version}, {floor} being known"
                )
            elif not op.version and floor and not key.may_be_gone(floor, op.end):
                self._wrong(kind, op, f"{op.mode} read found nothing, {floor} being known and nothing having removed it")
        if op.version:
            _raise(floors, op.key, op.version, op.node, TRUTH)
            return
        _raise(floors, op.key, key.gone_at(begun.node, op.end), op.node)
        if op.mode is Mode.FRESH:
            _raise(floors, op.key, key.gone_at(begun.truth, op.end), TRUTH)

    # what was demanded

    def _check_conditions(self) -> None:
        for op in self._ops:
            if op.kind is not Kind.SET or op.outcome is not Outcome.OK:
                continue
            key = self._keys[op.key]
            if op.expected > 0 and (other := key.between(op.expected, op.version)):
                self._wrong(Wrong.CONDITION, op, f"was written over {op.expected} in {op.version}, {other} being between")
            if op.expected == 0:
                last = key.before(op.version - 1)
                if last and key.events[last].value is not None and key.removing >= op.end:
                    self._wrong(Wrong.CONDITION, op, f"was created in {op.version}, {last} being there")
            if op.token >= 0 and (other := key.between(op.token, op.version)):
                self._wrong(Wrong.CONDITION, op, f"fills the miss of {op.token} in {op.version}, {other} being between")

    # what was counted

    def _check_counters(self) -> None:
        increments: dict[str, list[Op]] = defaultdict(list)
        for op in self._ops:
            if op.kind is Kind.INCREMENT:
                increments[op.key].append(op)
        for name, ops in increments.items():
            self._check_counter(name, ops)

    def _check_counter(self, name: str, ops: Sequence[Op]) -> None:
        """A number is the sum of what is known to be in it, and of nothing else than what may be."""
        told = sorted((op for op in ops if op.outcome is Outcome.OK), key=lambda op: op.version)
        versions = [op.version for op in told]
        sums = list(accumulate((Decimal(op.value) for op in told), initial=Decimal(0)))
        maybe = sorted((op.start, Decimal(op.value)) for op in ops if op.outcome in (Outcome.UNKNOWN, Outcome.ODD))
        starts = [start for start, _ in maybe]
        more = list(accumulate((amount for _, amount in maybe), initial=Decimal(0)))
        step = Decimal(ops[0].value)
        for op in self._ops:
            if op.key != name or op.outcome is not Outcome.OK or not op.version:
                continue
            number = Decimal(op.total if op.kind is Kind.INCREMENT else op.value)
            least = sums[bisect_right(versions, op.version)]
            most = least + more[bisect_left(starts, op.end)]
            if not least <= number <= most or (number - least) % step:
                between = f"{least}" if least == most else f"{least} to {most}"
                self._wrong(Wrong.INCREMENT, op, f"is {number} in version {op.version}, and should be {between}")

    # what there was at the end

    def _check_rest(self) -> None:
        ends: dict[str, dict[tuple[int, str], Op]] = defaultdict(dict)
        for op in self._ops:
            if op.mode is Mode.FINAL and op.outcome is Outcome.OK:
                ends[op.key][op.version, op.value] = op
        for seen in ends.values():
            if len(seen) > 1:
                op = next(iter(seen.values()))
                told = ", ".join(f"{version or 'nothing'} on {op.node}" for (version, _), op in sorted(seen.items()))
                self._wrong(Wrong.DISAGREE, op, f"at the end it is {told}")


def _raise(floors: dict[tuple[str, str], int], key: str, version: int, *nodes: str) -> None:
    for node in nodes:
        if node and version > floors[node, key]:
            floors[node, key] = version
