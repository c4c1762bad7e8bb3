"""How writes of several sites that did not know of each other are kept and told, at each site that hears of them.

The rule that must not break: every content that does not stand is kept with the conflict, whole, though the entry forgets it at
the next write. The conflict has the same id at each site, and is open for as long as what it is about stands beside each other.
"""

from __future__ import annotations

from typing import Final

from cachesvc.model.conflict import EXTERNAL, LOCAL, MAX_FIELDS, MERGED, REMOTE, Conflict, Held, item_name, unpack_conflict
from cachesvc.model.entry import Entry
from cachesvc.model.fold_agenda import keep_settled
from cachesvc.model.fold_conflict import Dispute, note_dispute
from cachesvc.model.fold_state import Folded, State, Terms, item_of
from cachesvc.model.keys import module_of
from cachesvc.model.merging import Strategy
from cachesvc.model.position import Version
from cachesvc.model.replica import Settled, conflict_of, settling, shared

_ROLES: Final = (LOCAL, REMOTE, EXTERNAL)


def note_rivals(state: State, folded: Folded, found: Settled, terms: Terms) -> None:
    """Keep the conflict that was found, and tell of it."""
    entry = shared(found.entry) or found.entry
    made = settling(entry.rivals, terms.policy_of(module_of(entry.key)))
    settlement = made.settlement
    own_first = sorted(made.contents, key=lambda rival: rival.origin.site != state.site)
    roles = {rival: _role(place) for place, rival in enumerate(own_first)}
    held = [Held(role, rival.entry._replace(version=Version(rival.origin.sequence))) for rival, role in roles.items()]
    if settlement.winner is None:
        held.append(Held(MERGED, entry))
    conflict = Conflict(
        found.conflict,
        entry.key,
        settlement.conflict_type,
        settlement.strategy,
        state.now,
        settlement.manual,
        entry.version,
        settlement.clashes[:MAX_FIELDS],
        tuple(roles[rival] for rival in made.of(settlement.accepted)),
        tuple(roles[rival] for rival in made.of(settlement.rejected)),
        None if settlement.manual else state.now,
        made.stands.entry.author if settlement.strategy is Strategy.LAST_WRITE_WINS else "",
        held=tuple(held),
    )
    note_dispute(state, folded, Dispute(conflict, entry), terms)


def note_overtaken(state: State, folded: Folded, row: Entry | None, left: Entry, terms: Terms) -> None:
    """Settle the conflict of a row that is replaced, at whatever site that was written: whoever wrote it knew of all of it.

    Where a further content joined it, or it ended by itself, nobody decided: it is settled as it stands.
    """
    named, goes_on = conflict_of(row), conflict_of(left)
    item = item_of(state, folded, item_name(named)) if named and named != goes_on else None
    conflict = unpack_conflict(item) if item is not None else None
    if conflict is None or not conflict.open:
        return
    content = left.deleted, left.content_hash
    taken = tuple(one.role for one in conflict.options if (one.entry.deleted, one.entry.content_hash) == content)
    rejected = tuple(one.role for one in conflict.options if one.role not in taken)
    by_hand = not (goes_on or left.local)
    settled = conflict.settled(
        Strategy.MANUAL if by_hand else Strategy.LAST_WRITE_WINS,
        winner=left.version,
        at=state.now,
        by=left.author if by_hand else "",
    )
    keep_settled(state, folded, settled._replace(accepted=taken, rejected=rejected), left, terms)


def _role(place: int) -> str:
    """This site's own is local, where it has one; the others are remote and external, the older first."""
    return _ROLES[place] if place < len(_ROLES) else f"{EXTERNAL}-{place - 1}"
