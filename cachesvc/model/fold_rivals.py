"""How writes of several sites that did not know of each other are kept and told, at each site that hears of them.

The rule that must not break: every content that does not stand is kept with the conflict, whole, though the entry forgets it at
the next write. The conflict has the same id at each site.
"""

from __future__ import annotations

from typing import Final

from cachesvc.model.conflict import EXTERNAL, LOCAL, MAX_FIELDS, MERGED, REMOTE, Conflict, Held
from cachesvc.model.fold_conflict import Dispute, note_dispute
from cachesvc.model.fold_state import Folded, State, Terms
from cachesvc.model.keys import module_of
from cachesvc.model.position import Version
from cachesvc.model.replica import Settled, settling

_ROLES: Final = (LOCAL, REMOTE, EXTERNAL)


def note_rivals(state: State, folded: Folded, found: Settled, terms: Terms) -> None:
    """Keep the conflict that was found, and tell of it."""
    entry = found.entry
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
        held=tuple(held),
    )
    note_dispute(state, folded, Dispute(conflict, entry), terms)


def _role(place: int) -> str:
    """This site's own is local, where it has one; the others are remote and external, the older first."""
    return _ROLES[place] if place < len(_ROLES) else f"{EXTERNAL}-{place - 1}"
