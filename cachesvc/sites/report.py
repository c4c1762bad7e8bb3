"""What a comparison with another site came to, and what following it has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SiteReport:
    """One comparison; counts of entries, bytes both ways, seconds.

    `differing` were different on the first look. `relayed`, `ended` and `repaired` still were on the second, though the other
    site's had not changed: writes of a third site, which it was the first to tell of; what an invalidation had ended at one of
    the two alone; and what in normal operation is a fault found.
    """

    site: str
    at: float
    asked: bool = False  # by someone, not by the clock
    initial: bool = False  # the first since its log could not be gone on with
    entries: int = 0  # that this site has
    differing: int = 0
    relayed: int = 0
    ended: int = 0
    repaired: int = 0
    held: int = 0  # of a time that is still to come
    refused: int = 0
    rounds: int = 0
    sent: int = 0
    received: int = 0
    seconds: float = 0.0
    policies_differ: bool = False
    error: str = ""

    @property
    def agreed(self) -> bool:
        return not (self.differing or self.error)

    def told(self) -> dict[str, object]:
        """As it is told over HTTP and to the other nodes."""
        return {
            "at": self.at,
            "seconds": self.seconds,
            "asked": self.asked,
            "initial": self.initial,
            "entries": self.entries,
            "differing": self.differing,
            "relayed": self.relayed,
            "ended": self.ended,
            "repaired": self.repaired,
            "held": self.held,
            "refused": self.refused,
            "rounds": self.rounds,
            "sentBytes": self.sent,
            "receivedBytes": self.received,
            "policiesDiffer": self.policies_differ,
            "error": self.error or None,
        }


@dataclass(slots=True)
class PeerCounts:
    """Of one other site, since the start of this node."""

    connected: bool = False  # now
    policies_differ: bool = False  # it settles conflicts in another way: what both write may not come to the same
    connections: int = 0
    failures: int = 0
    batches: int = 0
    entries: int = 0  # heard of
    taken: int = 0  # of those, that were news
    invalidations: int = 0
    published: int = 0
    refused: int = 0  # that could not be understood, or carried out
    held: int = 0  # waiting now, since they are of a time that is still to come
    held_ever: int = 0
    held_dropped: int = 0  # more than may wait; they are found again by comparing
    started_over: int = 0
    conflicts: int = 0
    sent: int = 0  # bytes
    received: int = 0
    paused: float = 0.0  # seconds, by the budget
    synced: int = 0
    sync_failures: int = 0
    repaired: int = 0
