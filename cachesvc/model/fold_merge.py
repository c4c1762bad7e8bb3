"""How a site takes in what another has.

The rule that must not break: what this site knew of already leaves no record, so nothing goes round in circles.
"""

from __future__ import annotations

from cachesvc.model.change import ABSENT, Change, Draft, Kind, Receipt
from cachesvc.model.entry import Entry, tombstone
from cachesvc.model.fold_rivals import note_overtaken, note_rivals
from cachesvc.model.fold_state import Folded, State, Terms, mark_changed, row_of
from cachesvc.model.keys import module_of
from cachesvc.model.position import Seq, Version
from cachesvc.model.replica import Settled, merged, righted, vector_of
from cachesvc.model.vector import joined


def fold_merge(state: State, folded: Folded, draft: Draft, change_id: str, terms: Terms) -> Receipt:
    """One record, or none where nothing of it is news."""
    row = row_of(state, folded, draft.key)
    version = Version(state.position.sequence + len(folded.changes) + 1)
    found = _settled(state, row, draft, version, terms)
    live = row if row is not None and row.live(state.now) else None
    if found is None:
        return Receipt(draft.operation, row.version if row is not None else ABSENT, found=live is not None)
    entry = found.entry
    kind = Kind.DELETE if entry.deleted else Kind.WRITE
    before = live.content_hash if live is not None else None
    folded.changes.append(
        Change(Seq(version), kind, change_id, state.now, entry.key, entry, before=before, conflict=found.conflict)
    )
    folded.rows[entry.key] = entry
    if entry.tags or (row is not None and row.tags):
        mark_changed(folded, (*entry.tags, *(row.tags if row is not None else ())), version, state.now, terms)
    note_overtaken(state, folded, row, entry, terms)
    if found.conflict:
        note_rivals(state, folded, found, terms)
    cascaded = int(found.ends)
    return Receipt(draft.operation, version, found=live is not None, conflict=found.conflict, matched=1, cascaded=cascaded)


def _settled(state: State, row: Entry | None, draft: Draft, version: Version, terms: Terms) -> Settled | None:
    came, policy = draft.original, terms.policy_of(module_of(draft.key))
    assert came is not None
    over = came.expires_at is not None and came.expires_at <= state.now
    if row is None:
        return merged(None, came, state.site, version, policy) if not over else None  # it would end at once
    if row.local and not (row.deleted or row.live(state.now)):
        row = row._replace(origin=None)  # what was written for this site alone is over
    found = merged(row, came, state.site, version, policy) or righted(row, came, state.site, version, draft.source)
    if found is None and row.local and row.deleted and not (row.rivals or over):
        same = row.vector == vector_of(came, draft.source)
        if same and not state.patterns.ended(row.key, row.version - 1):
            return Settled(came._replace(version=version), ends=True)  # it is over here alone, and lives on there
        # what was here was the newer, or was ended by an invalidation at the time of which that was written
        gone = tombstone(row.key, version, now=max(state.now, came.updated_at), keep=terms.tombstone_ttl)
        known = joined(row.vector, ((state.site, version),))
        found = Settled(gone._replace(vector=known, updated_by="sync", source="sync"), ends=True)
    return found
