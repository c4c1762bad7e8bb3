"""The state of a fold: what an authority is to read for it, by which terms it folds, and what has come of it so far.

The rule that must not break: a row is seen as it stands, after the drafts before and with every pattern in force, not as it is
kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from cachesvc.errors import Refused
from cachesvc.model.agenda import Item
from cachesvc.model.change import Change, Draft, Operation, Receipt
from cachesvc.model.conflict import item_name as conflict_name
from cachesvc.model.entry import Entry, tombstone
from cachesvc.model.invalidation import Patterns, Related, ended_mark_of, hit, mark_of
from cachesvc.model.keys import Key, module_of
from cachesvc.model.merging import Policy, Strategy
from cachesvc.model.pattern import Pattern, parse_pattern
from cachesvc.model.position import Position, Seq, Version
from cachesvc.model.reminders import item_name
from cachesvc.model.replica import conflict_of, ended
from cachesvc.model.revocation import Revocation

ENDED_KEPT = 300.0  # seconds that an expiry or a sweep leaves a tombstone: longer than any load, short where lives are short
UNRELATED = Related()
LAST_WRITE_WINS = Policy()
_BEGINNING = Seq(0)
_VALUED = Operation.INCREMENT, Operation.MERGE  # asked for with every draft: to look a member up takes ten times as long


@dataclass(frozen=True, slots=True)
class Terms:
    """What an authority folds by: default life of an entry, and of a tombstone, in seconds (None: for ever)."""

    default_ttl: float | None = 86_400.0
    tombstone_ttl: float = 86_400.0
    max_patterns: int = 1_000  # active at once
    max_cascade: int = 1_000_000  # keys; so many may be left to the sweep at once, too
    max_cascade_depth: int = 1_000  # levels of dependents
    # of which modules a change tells what it replaced: the whole value, or the member of that name
    remembers: Mapping[str, str] = field(default_factory=dict)
    site: str = ""  # the name of this one, "" where there are no others
    policies: Mapping[str, Policy] = field(default_factory=dict)  # of conflicts, by module; "" for the others
    conflicts_expire: float = 86_400.0  # seconds until what nobody settled is settled by the last write
    conflicts_kept: float = 7 * 86_400.0  # after they were settled
    max_value_size: int = 1 << 20  # bytes of what is merged
    reminds: tuple[str, ...] = ()  # what the keys of events begin with
    reminder_late: float = 3_600.0  # seconds after which what nobody was there to tell is not told any more

    def policy_of(self, module: str) -> Policy:
        return self.policies.get(module) or self.policies.get("") or LAST_WRITE_WINS


@dataclass(frozen=True, slots=True)
class Result:
    """A stored answer: the fingerprint of its request, and the outcome."""

    fingerprint: str
    outcome: Receipt | Refused


@dataclass(frozen=True, slots=True)
class State:
    """What the authority read under its lock: the log's position, the touched rows, the known answers.

    `rows` holds every key of `touched(drafts)` that has a row, tombstones and expired ones included; what is not in it has
    none. `complete_since` is the sequence since which that says something: tombstones of deletions before it may be gone.
    `patterns` are those in force; a row that one of them kills is as good as deleted, though it may not be swept yet.
    """

    position: Position
    now: float
    rows: Mapping[Key, Entry]
    results: Mapping[tuple[str, str], Result] = field(default_factory=dict)
    complete_since: Seq = _BEGINNING
    patterns: Patterns = field(default_factory=Patterns)
    related: Related = UNRELATED  # to the first draft; where it says counts, `rows` need not hold that one's keys
    site: str = ""  # as in the terms
    items: Mapping[str, Item] = field(default_factory=dict)  # those of `noted(…)` that there are
    bases: Mapping[tuple[Key, Version], Entry] = field(default_factory=dict)  # those of `based(drafts)` that the log holds
    members: Set[tuple[str, str]] = frozenset()  # the patterns, by text, of `doubted(…)`, and the tags of entries they match


@dataclass(slots=True)
class Folded:
    """What is to be written, in one transaction, and what is to be answered."""

    changes: list[Change] = field(default_factory=list)
    outcomes: list[Receipt | Refused] = field(default_factory=list)
    rows: dict[Key, Entry] = field(default_factory=dict)  # final rows to write, tombstones among them
    results: dict[tuple[str, str], Result] = field(default_factory=dict)
    replayed: set[int] = field(default_factory=set)
    patterns: Patterns = field(default_factory=Patterns)  # that came into force, or were retired; each in place of its like
    items: dict[str, Item | None] = field(default_factory=dict)  # to be kept, or forgotten

    def copy(self) -> Folded:
        """What has come of it so far, to go back to."""
        return Folded(
            list(self.changes),
            list(self.outcomes),
            dict(self.rows),
            dict(self.results),
            set(self.replayed),
            self.patterns.copy(),
            dict(self.items),
        )

    @property
    def revocations(self) -> list[Revocation]:
        """That came into force."""
        return [change.revocation for change in self.changes if change.revocation is not None]


def touched(drafts: Iterable[Draft]) -> set[Key]:
    """The keys whose rows the fold of these drafts looks at."""
    keys: set[Key] = set()
    for draft in drafts:
        if draft.publication is not None or draft.revocation is not None:
            continue
        if draft.invalidation is not None:
            keys.update(draft.invalidation.keys)
            continue
        if draft.key:
            keys.add(draft.key)
        if draft.token is not None:
            keys.update(Key(parent) for parent in draft.parents)
            keys.update(map(mark_of, draft.parents))
            keys.update(map(ended_mark_of, draft.tags))
    return keys


def doubted(drafts: Sequence[Draft], patterns: Patterns) -> dict[Pattern, set[str]]:
    """The patterns that fills were overtaken by, or may be, and on what these depend: of which of it, as tags, a pattern
    matches an entry, the fold looks at. A pattern moves no tag's mark until what it kills is swept.
    """
    found: dict[Pattern, set[str]] = {}
    named = [parse_pattern(draft.invalidation.pattern) for draft in drafts if draft.invalidation and draft.invalidation.pattern]
    for draft in drafts:
        if draft.token is not None and draft.parents:
            for pattern in (*named, *patterns.since(draft.token.sequence)):
                found.setdefault(pattern, set()).update(draft.parents)
    return found


def valued(drafts: Iterable[Draft], terms: Terms, related: Related = UNRELATED) -> set[Key]:
    """Those of the keys whose values the fold of these drafts looks at, or writes again."""
    keys: set[Key] = set()
    for draft in drafts:
        if (
            draft.operation in _VALUED
            or draft.base is not None
            or draft.called is not None
            or module_of(draft.key) in terms.remembers
            or (terms.site and draft.key and not draft.distribute)
            or (terms.site and draft.key and terms.policy_of(module_of(draft.key)).strategy is Strategy.FIELD_LEVEL)
        ):
            keys.add(draft.key)
        elif draft.invalidation is not None and draft.invalidation.soft:
            keys.update(draft.invalidation.keys, related.tagged, related.dependents)
    return keys


def noted(drafts: Iterable[Draft], terms: Terms, rows: Iterable[Entry] = ()) -> set[str]:
    """The names of the items that the fold of these drafts looks at; over these rows, where there are other sites."""
    names = {conflict_name(named) for row in rows if row.rivals and (named := conflict_of(row))}
    for draft in drafts:
        if draft.called is not None:
            names.add(draft.called.name)
        elif draft.key.startswith(terms.reminds):
            names.add(item_name(draft.key))
    return names


def based(drafts: Iterable[Draft]) -> set[Version]:
    """The versions that drafts say they were made from: what the log still has of them the fold looks at."""
    return {draft.base for draft in drafts if draft.base}


def base_of(change: Change) -> tuple[tuple[Key, Version], Entry] | None:
    """The version that a change left, whole; None where the log does not hold it."""
    entry = change.entry
    return ((entry.key, entry.version), entry) if entry is not None and change.value_held else None


def asked(drafts: Iterable[Draft]) -> set[tuple[str, str]]:
    """The idempotency keys, with their subjects, whose answers the fold of these drafts looks at."""
    named = (draft.idempotency for draft in drafts if draft.idempotency is not None and draft.idempotency.key)
    return {name for idempotency in named for name in (idempotency.request, idempotency.answer)}


def item_of(state: State, folded: Folded, name: str) -> Item | None:
    """The item as it stands after the drafts before."""
    return folded.items[name] if name in folded.items else state.items.get(name)


def row_of(state: State, folded: Folded, key: Key) -> Entry | None:
    """The row as it stands, deleted where a pattern kills it, stale where a soft one does."""
    row = folded.rows.get(key) or state.rows.get(key)
    if row is None or row.deleted or not killed(state, folded, key, row.version):
        return row
    stands = folded.patterns.hide(state.patterns.hide(row))
    return buried(row, now=state.now, site=state.site) if stands.deleted else stands


def killed(state: State, folded: Folded, name: str, version: int) -> bool:
    """Whether a pattern newer than `version` matches."""
    return bool(state.patterns.newest(name, version) or folded.patterns.newest(name, version))


def buried(row: Entry, *, now: float, keep: float = ENDED_KEPT, site: str = "") -> Entry:
    """What is left of a row that ended without a write: a short tombstone at its own version.

    What was computed before that version stays refused; what came after it is welcome.
    """
    gone = tombstone(row.key, row.version, now=now, keep=keep)
    return ended(gone, row, site) if site else gone


def count_hit(state: State, folded: Folded, keys: Iterable[Key], *, soft: bool) -> int:
    """How many entries an invalidation of these keys hits."""
    rows = (row_of(state, folded, key) for key in keys)
    return sum(row is not None and hit(row, state.now, soft=soft) for row in rows)


def mark_changed(folded: Folded, tags: Iterable[str], version: Version, now: float, terms: Terms) -> None:
    """Say that something with these tags changed: what was computed from all that have one of them is out of date."""
    for tag in tags:
        mark = mark_of(tag)
        folded.rows[mark] = tombstone(mark, version, now=now, keep=terms.tombstone_ttl)
