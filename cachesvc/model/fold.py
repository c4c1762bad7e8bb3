"""The fold: drafts in order over what the authority holds, to changes or refusals. Pure, and shared by all authorities.

The rule that must not break: it looks at nothing but its arguments, so folding again over the same state gives the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from decimal import Decimal

from cachesvc.errors import InvalidInput, Refusal, Refused
from cachesvc.model.change import ABSENT, PRESENT, Change, Draft, Idempotency, Kind, Operation, Receipt, request_id
from cachesvc.model.conflict import Conflict
from cachesvc.model.entry import JSON, Entry, Origin, content_hash, tombstone
from cachesvc.model.fold_agenda import fold_due, note_reminders
from cachesvc.model.fold_conflict import Dispute, chosen, dispute, note_choice, note_dispute
from cachesvc.model.fold_invalidation import fold_invalidation
from cachesvc.model.fold_merge import fold_merge
from cachesvc.model.fold_rivals import note_overtaken
from cachesvc.model.fold_state import ENDED_KEPT, Folded, Result, State, Terms, buried, killed, mark_changed, row_of
from cachesvc.model.invalidation import Patterns, ended_mark_of, mark_of
from cachesvc.model.keys import Key, module_of
from cachesvc.model.merging import Strategy, members
from cachesvc.model.numbers import add_exactly, format_number, parse_number
from cachesvc.model.position import Position, Seq, Version
from cachesvc.model.replica import added, fielded, succeeding

_log = logging.getLogger(__name__)
# each is asked for with every draft, and to look a member up in its enum takes ten times as long
_DELETE, _EXPIRE, _INCREMENT, _NOTHING = Operation.DELETE, Operation.EXPIRE, Operation.INCREMENT, Operation.ABSENT
_MERGE = Operation.MERGE
_KINDS = {
    Operation.SET: Kind.WRITE,
    Operation.INCREMENT: Kind.WRITE,
    Operation.DELETE: Kind.DELETE,
    Operation.FILL: Kind.FILL,
    Operation.RESTORE: Kind.WRITE,
    Operation.ABSENT: Kind.FILL,
}
MAX_REMEMBERED = 1_024  # bytes


def fold(state: State, drafts: Sequence[Draft], *, batch: str, terms: Terms) -> Folded:
    """Fold the drafts, in order, over the state: one outcome each; one that cannot be folded fails alone, and as a whole."""
    folded = Folded(patterns=Patterns(site=state.site))
    careful = False  # one could not be folded: others like it may come
    for place, draft in enumerate(drafts):
        known = _known(state, folded, draft.idempotency)
        if known is not None:
            folded.outcomes.append(known)
            folded.replayed.add(place)
            continue
        outcome: Receipt | Refused
        before = folded.copy() if careful else None
        try:
            outcome = _fold_one(state, folded, draft, request_id(batch, place), terms)
        except Refused as refused:
            outcome = refused
        except Exception:  # noqa: BLE001 - a draft that breaks the fold is refused; the others of its tick go on
            _log.exception("a draft could not be folded", extra={"key": draft.key})
            outcome = Refused(Refusal.INTERNAL, "operation", "could not be carried out")
            # nothing of what it may have left half done counts: it may be sent again
            folded = before if before is not None else fold(state, drafts[:place], batch=batch, terms=terms)
            careful = True
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
        return fold_invalidation(state, folded, draft, change_id, terms)
    if draft.publication is not None or draft.revocation is not None:
        return _say(state, folded, draft, change_id)
    if draft.operation is _EXPIRE:
        return _expire(state, folded, draft, change_id, terms)
    if draft.operation is _MERGE:
        receipt = fold_merge(state, folded, draft, change_id, terms)
        if draft.key in folded.rows and draft.key.startswith(terms.reminds):
            note_reminders(state, folded, draft.key, folded.rows[draft.key])
        return receipt
    choice: Conflict | None = None
    if draft.called is not None:
        if draft.operation is Operation.DUE:
            return fold_due(state, folded, draft, change_id, terms)
        draft, choice = chosen(state, folded, draft)
    return _write(state, folded, draft, change_id, terms, choice=choice)


def _expire(state: State, folded: Folded, draft: Draft, change_id: str, terms: Terms) -> Receipt:
    """The sweep names the version that it saw past its time; one that was written since lives on."""
    now, key = state.now, draft.key
    row = row_of(state, folded, key)
    if row is None or row.live(now) or row.deleted or row.version != draft.expected:
        current = row.version if row is not None and row.live(now) else ABSENT
        raise Refused(Refusal.VERSION_CONFLICT, "key", "is not the expired version any more", current=current)
    version = Version(state.position.sequence + len(folded.changes) + 1)
    previous = _remembered(row, terms)
    folded.changes.append(Change(Seq(version), Kind.EXPIRE, change_id, now, key, before=row.content_hash, previous=previous))
    left = folded.rows[key] = buried(row, now=now, keep=min(terms.tombstone_ttl, ENDED_KEPT), site=state.site)
    mark_changed(folded, row.tags, version, now, terms)
    note_overtaken(state, folded, row, left, terms)
    if key.startswith(terms.reminds):
        note_reminders(state, folded, key, None)
    return Receipt(draft.operation, version, found=True)


def _write(
    state: State, folded: Folded, draft: Draft, change_id: str, terms: Terms, *, choice: Conflict | None = None
) -> Receipt:
    """A write of any kind; `choice` is the conflict that it settles."""
    now, key = state.now, draft.key
    row = row_of(state, folded, key)
    live = row if row is not None and row.live(now) else None
    current = live.version if live is not None else ABSENT
    version = Version(state.position.sequence + len(folded.changes) + 1)
    _check_expected(draft, current)
    if draft.token is not None:
        _check_token(state, folded, draft, draft.token, current)
    if draft.original is not None:
        _check_original(state, folded, draft.original, row)
    entry = _left(draft, live, version, now, terms)
    kind = _KINDS[draft.operation]
    disputed: Dispute | None = None
    conflict = choice.id if choice is not None else ""
    if draft.base is not None and draft.base != current and draft.operation is not _INCREMENT:
        disputed = dispute(state, draft, entry, row=row, live=live, change_id=change_id, terms=terms)
        entry, conflict = disputed.entry, change_id
        kind = Kind.DELETE if entry.deleted else Kind.WRITE
    if state.site:
        entry = _of_site(entry, row, live, draft, terms)
    before = live.content_hash if live is not None else None
    previous = _remembered(live, terms) if live is not None and terms.remembers else None
    told = draft.distribute, conflict, None, None, previous  # by place, as in `_written`
    folded.changes.append(Change(Seq(version), kind, change_id, now, key, entry, True, before, *told))
    folded.rows[key] = entry
    if entry.tags or (row is not None and row.tags):
        mark_changed(folded, (*entry.tags, *(row.tags if row is not None else ())), version, now, terms)
    if choice is not None:
        note_choice(state, folded, choice, entry, before=live, actor=draft.actor, terms=terms)
    note_overtaken(state, folded, row, entry, terms)
    if disputed is not None:
        note_dispute(state, folded, disputed, terms)
    if key.startswith(terms.reminds):
        note_reminders(state, folded, key, entry)
    value = _told(draft, entry, conflict)
    return Receipt(draft.operation, version, found=live is not None, value=value, conflict=conflict)


def _left(draft: Draft, live: Entry | None, version: Version, now: float, terms: Terms) -> Entry:
    """What a draft leaves of its key."""
    if draft.operation is _DELETE:
        gone = tombstone(draft.key, version, now=now, keep=terms.tombstone_ttl)
        return gone._replace(updated_by=draft.actor, source=draft.source)
    if draft.operation is _NOTHING:
        # what ended by itself is forgotten soon, so that absences in great number take no room for long
        nothing = tombstone(draft.key, version, now=now, keep=max(ENDED_KEPT, draft.ttl or 0.0))
        return nothing._replace(updated_by=draft.actor, source=draft.source)
    if draft.original is not None:
        return draft.original._replace(version=version)
    return _written(draft, live, version, now, terms)


def _of_site(entry: Entry, row: Entry | None, live: Entry | None, draft: Draft, terms: Terms) -> Entry:
    """What is written, as one of several sites writes it. What a loader found is no other site's concern: each has its own."""
    loaded = draft.operation in (Operation.FILL, _NOTHING) and (live is None or live.local)
    local = loaded or not draft.distribute
    site, policy = terms.site, terms.policy_of(module_of(entry.key))
    entry = entry._replace(origin=None, vector=(), local=False, rivals=(), fields=None)
    entry = succeeding(entry, row, site, local=local)
    if local and not loaded:
        entry = entry._replace(origin=Origin(site, Seq(entry.version)))
    if draft.operation is _INCREMENT and not local:
        entry = added(entry, live, format_number(draft.amount), site, policy)
    return fielded(entry, live, site) if policy.strategy is Strategy.FIELD_LEVEL and not local else entry


def _told(draft: Draft, entry: Entry, conflict: str) -> bytes | None:
    """The value that a writer is told: of an increment, or where another than his own stands; nothing for what is no JSON."""
    if draft.operation is _INCREMENT:
        return entry.value
    if conflict and draft.operation is Operation.SET and entry.value != draft.value:
        return entry.value if entry.content_type == JSON else b""
    return None


def _say(state: State, folded: Folded, draft: Draft, change_id: str) -> Receipt:
    """A message, or a revocation."""
    version = Seq(state.position.sequence + len(folded.changes) + 1)
    kind = Kind.PUBLISH if draft.publication is not None else Kind.REVOKE
    change = Change(version, kind, change_id, state.now, publication=draft.publication, distribute=draft.distribute)
    folded.changes.append(change._replace(revocation=draft.revocation))
    return Receipt(draft.operation, Version(version))


def _remembered(live: Entry, terms: Terms) -> bytes | None:
    """What a change tells of the content that it replaces, as a JSON text; None where that is nothing, or too long."""
    member = terms.remembers.get(module_of(live.key))
    if member is None or live.content_type != JSON:
        return None
    text = live.value
    if member:
        said = (members(text.decode()) or {}).get(member)
        if said is None:
            return None
        text = said.encode()
    return text if len(text) <= MAX_REMEMBERED else None


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
        row = row_of(state, folded, name)
        if row is not None and row.version > token.sequence:
            raise refuse(f"{name.removeprefix(mark_of(''))} changed since")
        if killed(state, folded, name, token.sequence):
            raise refuse(f"{name} was invalidated since")
    for tag in draft.tags:
        row = row_of(state, folded, ended_mark_of(tag))
        if row is not None and row.version > token.sequence:
            raise refuse(f"the tag {tag} was invalidated since")
    if draft.parents and state.members:
        for pattern in (*state.patterns.since(token.sequence), *folded.patterns.since(token.sequence)):
            for parent in draft.parents:
                if (pattern.text, parent) in state.members:
                    raise refuse(f"what has the tag {parent} was invalidated since")


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
    if killed(state, folded, original.key, original.version):
        raise refuse("was invalidated since")
