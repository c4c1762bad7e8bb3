"""How invalidations are folded, and the retirements that end them.

The rule that must not break: however much a pattern kills it is one record, and its rows are left as they are; who looks at a
row asks the patterns. Where many keys are named, by tag or as dependents too, the authority may do the same with them.
"""

from __future__ import annotations

from cachesvc.errors import Refusal, Refused
from cachesvc.model.change import Change, Draft, Kind, Operation, Receipt
from cachesvc.model.entry import Entry, tombstone
from cachesvc.model.fold_rivals import note_overtaken
from cachesvc.model.fold_state import UNRELATED, Folded, State, Terms, count_hit, mark_changed, row_of
from cachesvc.model.invalidation import InForce, Invalidation, ending, in_force, mark_of, softened
from cachesvc.model.keys import Key
from cachesvc.model.pattern import ENUMERATED, enumerate_keys
from cachesvc.model.position import Seq, Version
from cachesvc.model.replica import succeeding

CHUNK = 10_000  # keys in one record


def fold_invalidation(state: State, folded: Folded, draft: Draft, change_id: str, terms: Terms) -> Receipt:
    """One record, however much a pattern kills, and one for each ten thousand keys; a retirement ends a pattern.

    What was looked up for tags and for a cascade is of the state before the first draft, so only that one may ask for it.
    """
    named = draft.invalidation
    assert named is not None
    if draft.operation is Operation.RETIRE:
        return _retire(state, folded, named, change_id)
    related = state.related if named.looked_up else UNRELATED
    if related.refused is not None and named.relates:
        raise related.refused
    if named.relates and folded.outcomes:
        raise Refused(Refusal.INTERNAL, "operation", "tags and cascades are looked up for the first draft only")
    meant = [key for key in dict.fromkeys((*named.keys, *related.tagged)) if _takes(state, folded, named, key)]
    dependents = [key for key in related.dependents if _takes(state, folded, named, key)]
    keys = (*meant, *dependents)
    if related.counted is not None:
        matched, cascaded = related.counted
        _check_room(state, len(keys), terms)
    else:
        matched, cascaded = (count_hit(state, folded, some, soft=named.soft) for some in (meant, dependents))
    version = Seq(state.position.sequence + len(folded.changes) + 1)
    if named.pattern:
        _put_in_force(state, folded, named, version, terms)
    chunks = [keys[start : start + CHUNK] for start in range(0, len(keys), CHUNK)]
    if not chunks or (named.pattern and related.counted is not None):
        chunks.insert(0, ())  # a sequence says of one thing that it is in force
    for place, chunk in enumerate(chunks):
        version = Seq(state.position.sequence + len(folded.changes) + 1)
        said = named._replace(keys=chunk) if place == 0 else Invalidation(keys=chunk, soft=named.soft)
        change = Change(version, Kind.INVALIDATE, change_id, state.now, invalidation=said, distribute=draft.distribute)
        folded.changes.append(change)
        if related.counted is None:
            _end_rows(state, folded, draft, change, terms)
        elif chunk:
            enumeration = enumerate_keys(chunk, text=f"{ENUMERATED}{version}")
            folded.patterns.add(InForce(version, enumeration, at=state.now, soft=named.soft))
    ended = map(mark_of, named.tags)  # what is on its way with such a tag is refused, though no other knows of it yet
    mark_changed(folded, (*named.tags, *related.marks, *ended), Version(version), state.now, terms)
    return Receipt(draft.operation, Version(version), found=matched > 0, matched=matched, cascaded=cascaded)


def _takes(state: State, folded: Folded, named: Invalidation, key: Key) -> bool:
    """Whether it takes the key away. Said at another site, it takes what is there and not later, as a deletion would."""
    if not named.origin:
        return True
    row = row_of(state, folded, key)
    return row is not None and not row.deleted and row.updated_at <= named.at


def _end_rows(state: State, folded: Folded, draft: Draft, change: Change, terms: Terms) -> None:
    """End the rows of the keys that a change names."""
    version, named = change.sequence, draft.invalidation
    assert named is not None
    for key in change.touches:
        row = row_of(state, folded, key)
        if named.soft and row is not None and not row.deleted:
            left = softened(row, version, at=state.now, site=state.site)
            left = left._replace(local=False, origin=None) if row.local else _softened_rivals(left)
        else:
            gone = tombstone(key, Version(version), now=state.now, keep=terms.tombstone_ttl)
            left = gone._replace(updated_at=min(state.now, named.at), updated_by=draft.actor, source=draft.source)
        if state.site:
            left = succeeding(left, row, state.site, local=not draft.distribute)
            left = left._replace(rivals=()) if left.local else left  # values are not looked at for this
        folded.rows[key] = left
        note_overtaken(state, folded, row, left, terms)
        if row is not None and row.tags:
            mark_changed(folded, row.tags, Version(version), state.now, terms)


def _softened_rivals(left: Entry) -> Entry:
    """What it was settled from is past its life as well, so that it is when others are told, and settle it again."""
    ends = left.expires_at
    assert ends is not None
    return left._replace(rivals=tuple(rival._replace(entry=ending(rival.entry, ends)) for rival in left.rivals))


def _retire(state: State, folded: Folded, named: Invalidation, change_id: str) -> Receipt:
    version = Seq(state.position.sequence + len(folded.changes) + 1)
    known = folded.patterns.find(named.name) or state.patterns.find(named.name)
    if known is None or known.retired or known.sequence != named.retires:
        current = known.sequence if known is not None else 0
        raise Refused(Refusal.VERSION_CONFLICT, "pattern", "is not active at that sequence any more", current=current)
    folded.patterns.add(known._replace(retired=version))
    folded.changes.append(Change(version, Kind.RETIRE, change_id, state.now, invalidation=named))
    return Receipt(Operation.RETIRE, Version(version))


def _check_room(state: State, keys: int, terms: Terms) -> None:
    left = state.patterns.enumerated
    if left and left + keys > terms.max_cascade:
        raise Refused(Refusal.TOO_MANY_PATTERNS, "keys", f"the rows of {left} keys invalidated before are still being ended")


def _put_in_force(state: State, folded: Folded, named: Invalidation, version: Seq, terms: Terms) -> None:
    known = folded.patterns.find(named.name) or state.patterns.find(named.name)
    active = state.patterns.active + folded.patterns.active  # never too few: one that takes another's place counts twice
    if (known is None or known.retired) and active >= terms.max_patterns:
        raise Refused(Refusal.TOO_MANY_PATTERNS, "pattern", f"{active} patterns are active already, which is the limit")
    folded.patterns.add(in_force(version, named.pattern, at=state.now, soft=named.soft))
