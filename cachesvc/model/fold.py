"""The fold: drafts in order over what the authority holds, to changes or refusals. Pure, and shared by all authorities.

The rule that must not break: it looks at nothing but its arguments, so folding again over the same state gives the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import orjson

from cachesvc.errors import InvalidInput, Refusal, Refused
from cachesvc.model.change import ABSENT, PRESENT, Change, Draft, Idempotency, Kind, Operation, Receipt, request_id
from cachesvc.model.entry import JSON, Entry, content_hash, tombstone
from cachesvc.model.invalidation import Invalidation, Patterns, Related, in_force, mark_of, softened
from cachesvc.model.keys import Key, module_of
from cachesvc.model.numbers import add_exactly, format_number, parse_number
from cachesvc.model.position import Position, Seq, Version

_log = logging.getLogger(__name__)
_BEGINNING = Seq(0)
_UNRELATED = Related()
CHUNK = 10_000  # keys in one record
# each is asked for with every draft, and to look a member up in its enum takes ten times as long
_DELETE, _EXPIRE, _INCREMENT, _NOTHING = Operation.DELETE, Operation.EXPIRE, Operation.INCREMENT, Operation.ABSENT
_KINDS = {
    Operation.SET: Kind.WRITE,
    Operation.INCREMENT: Kind.WRITE,
    Operation.DELETE: Kind.DELETE,
    Operation.FILL: Kind.FILL,
    Operation.RESTORE: Kind.WRITE,
    Operation.ABSENT: Kind.FILL,
}
MAX_REMEMBERED = 1_024  # bytes
ENDED_KEPT = 300.0  # seconds that an expiry or a sweep leaves a tombstone: longer than any load, short where lives are short


@dataclass(frozen=True, slots=True)
class Terms:
    """What an authority folds by: default life of an entry, and of a tombstone, in seconds (None: for ever)."""

    default_ttl: float | None = 86_400.0
    tombstone_ttl: float = 86_400.0
    max_patterns: int = 1_000  # active at once
    max_cascade: int = 1_000_000  # keys
    max_cascade_depth: int = 1_000  # levels of dependents
    # of which modules a change tells what it replaced: the whole value, or the member of that name
    remembers: Mapping[str, str] = field(default_factory=dict)


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
    related: Related = _UNRELATED  # to the first draft


@dataclass(slots=True)
class Folded:
    """What is to be written, in one transaction, and what is to be answered."""

    changes: list[Change] = field(default_factory=list)
    outcomes: list[Receipt | Refused] = field(default_factory=list)
    rows: dict[Key, Entry] = field(default_factory=dict)  # final rows to write, tombstones among them
    results: dict[tuple[str, str], Result] = field(default_factory=dict)
    replayed: set[int] = field(default_factory=set)
    patterns: Patterns = field(default_factory=Patterns)  # that came into force, or were retired; each in place of its like


def touched(drafts: Iterable[Draft]) -> set[Key]:
    """The keys whose rows the fold of these drafts looks at."""
    keys: set[Key] = set()
    for draft in drafts:
        if draft.publication is not None:
            continue
        if draft.invalidation is not None:
            keys.update(draft.invalidation.keys)
            continue
        keys.add(draft.key)
        if draft.token is not None:
            keys.update(Key(parent) for parent in draft.parents)
            keys.update(map(mark_of, draft.parents))
    return keys


def valued(drafts: Iterable[Draft], terms: Terms, related: Related = _UNRELATED) -> set[Key]:
    """Those of the keys whose values the fold of these drafts looks at, or writes again."""
    keys: set[Key] = set()
    for draft in drafts:
        if draft.operation is _INCREMENT or module_of(draft.key) in terms.remembers:
            keys.add(draft.key)
        elif draft.invalidation is not None and draft.invalidation.soft:
            keys.update(draft.invalidation.keys, related.tagged, related.dependents)
    return keys


def asked(drafts: Iterable[Draft]) -> set[tuple[str, str]]:
    """The idempotency keys, with their subjects, whose answers the fold of these drafts looks at."""
    named = (draft.idempotency for draft in drafts if draft.idempotency is not None and draft.idempotency.key)
    return {name for idempotency in named for name in (idempotency.request, idempotency.answer)}


def fold(state: State, drafts: Sequence[Draft], *, batch: str, terms: Terms) -> Folded:
    """Fold the drafts, in order, over the state: one outcome each; a draft that cannot be folded fails alone."""
    folded = Folded()
    for place, draft in enumerate(drafts):
        known = _known(state, folded, draft.idempotency)
        if known is not None:
            folded.outcomes.append(known)
            folded.replayed.add(place)
            continue
        outcome: Receipt | Refused
        try:
            outcome = _fold_one(state, folded, draft, request_id(batch, place), terms)
        except Refused as refused:
            outcome = refused
        except Exception:  # noqa: BLE001 - a draft that breaks the fold is refused; the others of its tick go on
            _log.exception("a draft could not be folded", extra={"key": draft.key})
            outcome = Refused(Refusal.INTERNAL, "operation", "could not be carried out")
        folded.outcomes.append(outcome)
        if draft.idempotency is not None and draft.idempotency.key:
            folded.results[draft.idempotency.answer] = Result(draft.idempotency.fingerprint, outcome)
    return folded


def _known(state: State, folded: Folded, idempotency: Idempotency | None) -> Receipt | Refused | None:
    """The answer given before to the same idempotency key; a refusal if that was another request.

    The first write of a request stands for the whole: if that was another, no write of this one is carried out.
    """
    if idempotency is None or not idempotency.key:
        return None
    result = None
    for name in (idempotency.request, idempotency.answer):
        result = folded.results.get(name) or state.results.get(name)
        if result is not None and result.fingerprint != idempotency.fingerprint:
            return Refused(Refusal.KEY_REUSED, "Idempotency-Key", "came with another request before")
    return result.outcome if result is not None else None


def _fold_one(state: State, folded: Folded, draft: Draft, change_id: str, terms: Terms) -> Receipt | Refused:
    """One draft. Raises `Refused` before anything of it is noted in `folded`."""
    if draft.invalidation is not None:
        return _invalidate(state, folded, draft, change_id, terms)
    if draft.publication is not None:
        return _publish(state, folded, draft, change_id)
    now = state.now
    key = draft.key
    row = _row(state, folded, key)
    live = row if row is not None and row.live(now) else None
    current = live.version if live is not None else ABSENT
    version = Version(state.position.sequence + len(folded.changes) + 1)

    if draft.operation is _EXPIRE:
        # the sweep names the version that it saw past its time; one that was written since lives on
        if row is None or row.live(now) or row.deleted or row.version != draft.expected:
            raise Refused(Refusal.VERSION_CONFLICT, "key", "is not the expired version any more", current=current)
        previous = _remembered(row, terms)
        folded.changes.append(
            Change(Seq(version), Kind.EXPIRE, change_id, now, key, before=row.content_hash, previous=previous)
        )
        folded.rows[key] = buried(row, now=now, keep=min(terms.tombstone_ttl, ENDED_KEPT))
        _mark(folded, row.tags, version, now, terms)
        return Receipt(draft.operation, version, found=True)

    _check_expected(draft, current)
    if draft.token is not None:
        _check_token(state, folded, draft, draft.token, current)
    if draft.original is not None:
        _check_original(state, folded, draft.original, row)
    conflict = change_id if draft.base is not None and draft.base != current else ""

    if draft.operation is _DELETE:
        gone = tombstone(key, version, now=now, keep=terms.tombstone_ttl)
        entry = gone._replace(updated_by=draft.actor, source=draft.source)
    elif draft.operation is _NOTHING:
        # what ended by itself is forgotten soon, so that absences in great number take no room for long
        nothing = tombstone(key, version, now=now, keep=max(ENDED_KEPT, draft.ttl or 0.0))
        entry = nothing._replace(updated_by=draft.actor, source=draft.source)
    elif draft.original is not None:
        entry = draft.original._replace(version=version)
    else:
        entry = _written(draft, live, version, now, terms)
    before = live.content_hash if live is not None else None
    kind = _KINDS[draft.operation]
    change = Change(Seq(version), kind, change_id, now, key, entry, True, before, draft.distribute, conflict)
    if live is not None and terms.remembers:
        change = change._replace(previous=_remembered(live, terms))
    folded.changes.append(change)
    folded.rows[key] = entry
    if entry.tags or (row is not None and row.tags):
        _mark(folded, (*entry.tags, *(row.tags if row is not None else ())), version, now, terms)
    value = entry.value if draft.operation is _INCREMENT else None
    return Receipt(draft.operation, version, found=live is not None, value=value, conflict=conflict)


def _publish(state: State, folded: Folded, draft: Draft, change_id: str) -> Receipt:
    version = Seq(state.position.sequence + len(folded.changes) + 1)
    change = Change(version, Kind.PUBLISH, change_id, state.now, publication=draft.publication, distribute=draft.distribute)
    folded.changes.append(change)
    return Receipt(Operation.PUBLISH, Version(version))


def _remembered(live: Entry, terms: Terms) -> bytes | None:
    """What a change tells of the content that it replaces, as a JSON text; None where that is nothing, or too long."""
    member = terms.remembers.get(module_of(live.key))
    if member is None or live.content_type != JSON:
        return None
    text = live.value
    if member:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(value, dict) or member not in value:
            return None
        text = orjson.dumps(value[member])
    return text if len(text) <= MAX_REMEMBERED else None


def _invalidate(state: State, folded: Folded, draft: Draft, change_id: str, terms: Terms) -> Receipt:
    """One record, however much a pattern kills, and one for each ten thousand keys; a retirement ends a pattern.

    What was looked up for tags and for a cascade is of the state before the first draft, so only that one may ask for it.
    """
    named = draft.invalidation
    assert named is not None
    if draft.operation is Operation.RETIRE:
        return _retire(state, folded, named, change_id)
    related = state.related if named.relates else _UNRELATED
    if related.refused is not None:
        raise related.refused
    if named.relates and folded.outcomes:
        raise Refused(Refusal.INTERNAL, "operation", "tags and cascades are looked up for the first draft only")
    meant = dict.fromkeys((*named.keys, *related.tagged))
    matched = _live(state, folded, meant)
    cascaded = _live(state, folded, related.dependents)
    version = Seq(state.position.sequence + len(folded.changes) + 1)
    if named.pattern:
        _put_in_force(state, folded, named, version, terms)
    keys = (*meant, *related.dependents)
    for start in range(0, max(len(keys), 1), CHUNK):
        version = Seq(state.position.sequence + len(folded.changes) + 1)
        chunk = keys[start : start + CHUNK]
        said = named._replace(keys=chunk) if start == 0 else Invalidation(keys=chunk, soft=named.soft)
        folded.changes.append(
            Change(version, Kind.INVALIDATE, change_id, state.now, invalidation=said, distribute=draft.distribute)
        )
        for key in chunk:
            row = _row(state, folded, key)
            if named.soft and row is not None and not row.deleted:
                folded.rows[key] = softened(row, version, at=state.now)
            else:
                gone = tombstone(key, Version(version), now=state.now, keep=terms.tombstone_ttl)
                folded.rows[key] = gone._replace(updated_by=draft.actor, source=draft.source)
            if row is not None and row.tags:
                _mark(folded, row.tags, Version(version), state.now, terms)
    _mark(folded, (*named.tags, *related.marks), Version(version), state.now, terms)
    return Receipt(draft.operation, Version(version), found=matched > 0, matched=matched, cascaded=cascaded)


def _retire(state: State, folded: Folded, named: Invalidation, change_id: str) -> Receipt:
    version = Seq(state.position.sequence + len(folded.changes) + 1)
    known = folded.patterns.find(named.name) or state.patterns.find(named.name)
    if known is None or known.retired or known.sequence != named.retires:
        current = known.sequence if known is not None else 0
        raise Refused(Refusal.VERSION_CONFLICT, "pattern", "is not active at that sequence any more", current=current)
    folded.patterns.add(known._replace(retired=version))
    folded.changes.append(Change(version, Kind.RETIRE, change_id, state.now, invalidation=named))
    return Receipt(Operation.RETIRE, Version(version))


def _put_in_force(state: State, folded: Folded, named: Invalidation, version: Seq, terms: Terms) -> None:
    known = folded.patterns.find(named.name) or state.patterns.find(named.name)
    active = state.patterns.active + folded.patterns.active  # never too few: one that takes another's place counts twice
    if (known is None or known.retired) and active >= terms.max_patterns:
        raise Refused(Refusal.TOO_MANY_PATTERNS, "pattern", f"{active} patterns are active already, which is the limit")
    folded.patterns.add(in_force(version, named.pattern, at=state.now, soft=named.soft))


def _live(state: State, folded: Folded, keys: Iterable[Key]) -> int:
    rows = (_row(state, folded, key) for key in keys)
    return sum(row is not None and row.live(state.now) for row in rows)


def _mark(folded: Folded, tags: Iterable[str], version: Version, now: float, terms: Terms) -> None:
    """Say that something with these tags changed: what was computed from all that have one of them is out of date."""
    for tag in tags:
        mark = mark_of(tag)
        folded.rows[mark] = tombstone(mark, version, now=now, keep=terms.tombstone_ttl)


def _written(draft: Draft, live: Entry | None, version: Version, now: float, terms: Terms) -> Entry:
    """The entry that a set, a fill or an increment leaves."""
    value, content_type = draft.value, draft.content_type
    ttl = draft.ttl if draft.ttl is not None else terms.default_ttl
    expires_at = now + ttl if ttl is not None else None
    tags, parents = draft.tags, draft.parents
    if draft.operation is _INCREMENT:
        value, content_type = format_number(_incremented(live, draft.amount)), JSON
        if live is not None:
            tags, parents = tags or live.tags, parents or live.parents
            if draft.ttl is None:
                expires_at = live.expires_at
    created_at = live.created_at if live is not None else now
    digest = content_hash(content_type, value)
    # by place: by name it takes three times as long
    return Entry(
        draft.key,
        version,
        value,
        content_type,
        created_at,
        now,
        expires_at,
        digest,
        False,
        tags,
        parents,
        draft.actor,
        draft.source,
    )


def _incremented(live: Entry | None, amount: Decimal) -> Decimal:
    number = Decimal(0)
    if live is not None:
        try:
            if live.content_type != JSON:
                raise InvalidInput("key", f"is of type {live.content_type}, and only {JSON} counts as a number")
            number = parse_number(live.value, field="key")
        except InvalidInput as wrong:
            reason = f"holds a value that cannot be incremented: it {wrong.reason}"
            raise Refused(Refusal.NOT_A_NUMBER, "key", reason, current=live.version) from wrong
    total = add_exactly(number, amount)
    if total is None:
        current = live.version if live is not None else 0
        raise Refused(Refusal.OUT_OF_RANGE, "value", "the exact result has too many digits", current=current)
    return total


def _check_expected(draft: Draft, current: Version) -> None:
    expected = draft.expected
    if expected is None or expected == current or (expected == PRESENT and current != ABSENT):
        return
    wanted = {ABSENT: "absent", PRESENT: "present"}.get(expected, f"at version {expected}")
    found = "absent" if current == ABSENT else f"at version {current}"
    raise Refused(Refusal.VERSION_CONFLICT, "key", f"was expected {wanted}, and is {found}", current=current)


def _check_token(state: State, folded: Folded, draft: Draft, token: Position, current: Version) -> None:
    """A value computed from what was read at `token` counts only if nothing that it depends on changed since."""

    def refuse(reason: str) -> Refused:
        return Refused(Refusal.STALE_FILL, "Fill-Token", reason, current=current)

    if token.epoch != state.position.epoch:
        raise refuse("is of another epoch")
    if token.sequence > state.position.sequence:
        raise refuse("is past the end of the log")
    if token.sequence < state.complete_since:
        raise refuse("is too old to be checked")
    for name in (draft.key, *map(Key, draft.parents), *map(mark_of, draft.parents)):
        row = _row(state, folded, name)
        if row is not None and row.version > token.sequence:
            raise refuse(f"{name.removeprefix(mark_of(''))} changed since")
        if _killed(state, folded, name, token.sequence):
            raise refuse(f"{name} was invalidated since")


def _check_original(state: State, folded: Folded, original: Entry, row: Entry | None) -> None:
    """What is restored is live, and newer than all that is known of its key: its row, be it deleted, and patterns.

    Newer by version and by time: another store's versions are numbered from another start, so only the times tell there.
    """

    def refuse(reason: str) -> Refused:
        code = Refusal.VERSION_CONFLICT if row is not None and not row.deleted else Refusal.STALE_FILL
        return Refused(code, "key", reason, current=row.version if row is not None else ABSENT)

    if not original.live(state.now):
        raise refuse("is past its life")
    if row is not None and (row.version >= original.version or row.updated_at >= original.updated_at):
        raise refuse("was deleted since" if row.deleted else "is there, as new or newer")
    if _killed(state, folded, original.key, original.version):
        raise refuse("was invalidated since")


def _row(state: State, folded: Folded, key: Key) -> Entry | None:
    """The row as it stands, deleted where a pattern kills it, stale where a soft one does."""
    row = folded.rows.get(key) or state.rows.get(key)
    if row is None or row.deleted or not _killed(state, folded, key, row.version):
        return row
    stands = folded.patterns.hide(state.patterns.hide(row))
    return buried(row, now=state.now) if stands.deleted else stands


def _killed(state: State, folded: Folded, name: str, version: int) -> bool:
    """Whether a pattern newer than `version` matches."""
    return bool(state.patterns.newest(name, version) or folded.patterns.newest(name, version))


def buried(row: Entry, *, now: float, keep: float = ENDED_KEPT) -> Entry:
    """What is left of a row that ended without a write: a short tombstone at its own version.

    What was computed before that version stays refused; what came after it is welcome.
    """
    return tombstone(row.key, row.version, now=now, keep=keep)
