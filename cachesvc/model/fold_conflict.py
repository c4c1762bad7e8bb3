"""How conflicts are folded: a write that was made from another version than the current one, and the choice that settles it.

The rule that must not break: a conflict is settled, kept and told in the append that makes it, so of two who started from the
same version exactly one meets a conflict.
"""

from __future__ import annotations

from typing import NamedTuple

from cachesvc.errors import Refusal, Refused
from cachesvc.model import conflict as conflicts
from cachesvc.model.change import ABSENT, Draft, Operation, Publication
from cachesvc.model.conflict import BASE, LOCAL, MERGED, OVERWRITTEN, REMOTE, Conflict, Held, pack_conflict, unpack_conflict
from cachesvc.model.entry import ANONYMOUS, JSON, Entry, content_hash, tombstone
from cachesvc.model.fold_agenda import keep_settled, publish
from cachesvc.model.fold_state import Folded, State, Terms, item_of
from cachesvc.model.keys import module_of
from cachesvc.model.merging import NOTHING, Settlement, Sibling, Strategy, settle, sibling_of
from cachesvc.model.position import Version


class Dispute(NamedTuple):
    """A conflict as it was settled, and the entry that comes of it."""

    conflict: Conflict
    entry: Entry


def dispute(
    state: State, draft: Draft, written: Entry, *, row: Entry | None, live: Entry | None, change_id: str, terms: Terms
) -> Dispute:
    """Settle what was `written`, from another version than the `live` one, by the policy of its module."""
    now, version = state.now, written.version
    local = live or _gone(row, written)
    known = state.bases.get((draft.key, draft.base)) if draft.base else None
    later = sibling_of(written)._replace(at=max(written.updated_at, local.updated_at))  # be the clock set back meanwhile
    siblings = {sibling_of(local): LOCAL, later: REMOTE}
    base = sibling_of(known) if known is not None else NOTHING if draft.base == ABSENT else None
    policy = terms.policy_of(module_of(draft.key))
    settled = settle(policy, siblings, base=base, now=now)
    if settled.winner is None and len(settled.value or b"") > terms.max_value_size:
        settled = settle(policy, siblings, base=None, now=now)  # together they are too large
    entry = _settled(settled, siblings, local, written, terms)
    held = [Held(LOCAL, local), Held(REMOTE, written)]
    if known is not None:
        held.append(Held(BASE, known))
    if settled.winner is None:
        held.append(Held(MERGED, entry))
    conflict = Conflict(
        change_id,
        draft.key,
        settled.conflict_type,
        settled.strategy,
        now,
        settled.manual,
        version,
        settled.clashes[: conflicts.MAX_FIELDS],
        tuple(siblings[one] for one in settled.accepted),
        tuple(siblings[one] for one in settled.rejected),
        None if settled.manual else now,
        written.author if settled.strategy is Strategy.LAST_WRITE_WINS else "",
        held=tuple(held),
    )
    return Dispute(conflict, entry)


def note_dispute(state: State, folded: Folded, made: Dispute, terms: Terms) -> None:
    """Keep a conflict, and tell of it: that there is one, then how it was settled, or who is asked to."""
    conflict = made.conflict
    due = state.now + (terms.conflicts_expire if conflict.open else terms.conflicts_kept)
    item = pack_conflict(conflict, due=due)
    folded.items[item.name] = item
    if conflict.open:
        kind, message = conflicts.MANUAL, conflicts.asked(conflict, expires_at=due)
    elif conflict.strategy is Strategy.LAST_WRITE_WINS:
        kind, message = conflicts.RESOLVED, conflicts.resolved(conflict, made.entry)
    else:
        kind, message = conflicts.AUTO_MERGE, conflicts.auto_merged(conflict, made.entry)
    for said in ((conflicts.DETECT, conflicts.detected(conflict)), (kind, message)):
        publish(state, folded, Publication(conflict.key, said[1], type=said[0]), conflict.id)


def chosen(state: State, folded: Folded, draft: Draft) -> tuple[Draft, Conflict]:
    """The write that a choice comes to, and the conflict that it settles. Raises `Refused`."""
    called = draft.called
    assert called is not None
    item = item_of(state, folded, called.name)
    conflict = unpack_conflict(item) if item is not None else None
    if conflict is None or not conflict.open or conflict.key != draft.key:
        raise Refused(Refusal.CONFLICT_CLOSED, "conflictId", "is settled, or was forgotten")
    options = conflict.options
    taken: tuple[str, ...] = ()
    if called.option is None:
        draft = draft._replace(operation=Operation.SET)
    elif called.option >= len(options):
        reason = f"is not one of the {len(options)} options, which are counted from 0"
        raise Refused(Refusal.NO_OPTION, "option", reason)
    else:
        role, entry = options[called.option]
        taken = (role,)
        draft = draft._replace(
            operation=Operation.DELETE if entry.deleted else Operation.SET,
            value=entry.value,
            content_type=entry.content_type,
            tags=entry.tags,
            parents=entry.parents,
            source=entry.source,
        )
    rejected = tuple(one.role for one in options if one.role not in taken)
    return draft, conflict._replace(accepted=taken, rejected=rejected)


def note_choice(
    state: State, folded: Folded, conflict: Conflict, entry: Entry, *, before: Entry | None, actor: str, terms: Terms
) -> None:
    """Keep how a conflict was settled, and what it wrote over that was no part of it; and tell of it."""
    held = conflict.held
    if before is not None and before.version != conflict.winner:
        held = (*held, Held(OVERWRITTEN, before))
    settled = conflict.settled(Strategy.MANUAL, winner=entry.version, at=state.now, by=actor or ANONYMOUS)._replace(held=held)
    keep_settled(state, folded, settled, entry, terms)


def _gone(row: Entry | None, written: Entry) -> Entry:
    """What there is where nothing lives: the row's deletion, or a deletion that nobody knows the time of."""
    if row is None:
        return tombstone(written.key, Version(0), now=0.0, keep=0.0)
    return row if row.deleted else tombstone(row.key, row.version, now=row.expires_at or row.updated_at, keep=0.0)


def _settled(settled: Settlement, roles: dict[Sibling, str], local: Entry, written: Entry, terms: Terms) -> Entry:
    """The entry that stands, at the version of what was written."""
    winner = settled.winner
    if winner is None:
        assert settled.value is not None
        digest = content_hash(JSON, settled.value)
        merged = written._replace(value=settled.value, content_type=JSON, content_hash=digest)
        return merged._replace(tags=written.tags or local.tags, parents=written.parents or local.parents)
    if roles[winner] == REMOTE:
        return written
    if local.deleted:
        return tombstone(local.key, written.version, now=written.updated_at, keep=terms.tombstone_ttl)
    return local._replace(version=written.version)
