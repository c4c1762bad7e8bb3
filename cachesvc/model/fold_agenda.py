"""How what is due is folded: reminders are told, conflicts that nobody settled are, and settled ones are forgotten.

The rule that must not break: an item that is not as it was seen has been looked at by another, and is left alone.
"""

from __future__ import annotations

from cachesvc.model import conflict as conflicts
from cachesvc.model.agenda import REMINDER, Item
from cachesvc.model.change import Change, Draft, Kind, Operation, Publication, Receipt
from cachesvc.model.conflict import MERGED, Conflict, pack_conflict, unpack_conflict
from cachesvc.model.entry import Entry
from cachesvc.model.fold_state import Folded, State, Terms, item_of, row_of
from cachesvc.model.keys import Key
from cachesvc.model.merging import Strategy
from cachesvc.model.position import Seq, Version
from cachesvc.model.reminders import Told, due_now, item_name, key_of, next_item, told_by


def fold_due(state: State, folded: Folded, draft: Draft, change_id: str, terms: Terms) -> Receipt:
    """What was due, once."""
    called = draft.called
    assert called is not None
    item = item_of(state, folded, called.name)
    if item is not None and item.due == called.due:
        if item.name.startswith(REMINDER):
            _remind(state, folded, item, change_id, terms)
        else:
            _expire(state, folded, unpack_conflict(item), terms)
    return Receipt(Operation.DUE, Version(state.position.sequence + len(folded.changes)), found=item is not None)


def publish(state: State, folded: Folded, publication: Publication, change_id: str) -> None:
    """Append a message of this site: another one has its own."""
    sequence = Seq(state.position.sequence + len(folded.changes) + 1)
    change = Change(sequence, Kind.PUBLISH, change_id, state.now, publication=publication, distribute=False)
    folded.changes.append(change)


def keep_settled(state: State, folded: Folded, conflict: Conflict, stands: Entry, terms: Terms) -> None:
    """Keep how a conflict was settled, and tell of it and of what stands."""
    item = pack_conflict(conflict, due=state.now + terms.conflicts_kept)
    folded.items[item.name] = item
    message = conflicts.resolved(conflict, stands)
    publish(state, folded, Publication(conflict.key, message, type=conflicts.RESOLVED), conflict.id)


def note_reminders(state: State, folded: Folded, key: Key, event: Entry | None) -> None:
    """An event was written, or ended: look at it again when its next reminder is due."""
    known = item_of(state, folded, item_name(key))
    _note(folded, known, key, next_item(key, event, told_by(known), state.now))


def _remind(state: State, folded: Folded, item: Item, change_id: str, terms: Terms) -> None:
    key = key_of(item.name)
    row = row_of(state, folded, key)
    event = row if row is not None and row.live(state.now) else None
    told = told_by(item)
    due = due_now(event, told, state.now)
    for reminder in due:
        if event is not None and reminder.at >= state.now - terms.reminder_late:
            for publication in reminder.publications(event):
                publish(state, folded, publication, change_id)
    told = Told(told.names | {reminder.name for reminder in due})
    _note(folded, item, key, next_item(key, event, told, state.now))


def _note(folded: Folded, known: Item | None, key: Key, item: Item | None) -> None:
    if item is not None or known is not None:
        folded.items[item_name(key)] = item


def _expire(state: State, folded: Folded, conflict: Conflict, terms: Terms) -> None:
    """What nobody settled is settled as it stands, which is by the last write; what was settled is forgotten."""
    if not conflict.open:
        folded.items[conflicts.item_name(conflict.id)] = None
        return
    stands = (conflict.by_role(MERGED) or conflict.by_role(*conflict.accepted))[0]
    rejected = tuple(one.role for one in conflict.options if one.role != stands.role)
    settled = conflict.settled(Strategy.LAST_WRITE_WINS, winner=conflict.winner, at=state.now)
    keep_settled(state, folded, settled._replace(accepted=(stands.role,), rejected=rejected), stands.entry, terms)
