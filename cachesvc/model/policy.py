"""Policy: for how long what a module holds may be served past its life, when it is refreshed, how long an absence is believed.

The rule that must not break: a policy speaks of time only. What a change or a pattern has ended is not stale but gone.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cachesvc.model.entry import NO_CONTENT, Entry

LOADER: Final = "loader"  # the source of what a loader gave


class Policy(NamedTuple):
    """Seconds past its life (RFC 5861), the last share of its life in which a read refreshes an entry, and for absences."""

    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    refresh_ahead: float = 0.0  # a share of the ttl
    negative_ttl: float = 0.0

    @property
    def stale(self) -> float:
        """For how long an entry is of use past its life."""
        return max(self.stale_while_revalidate, self.stale_if_error)

    def ahead(self, entry: Entry) -> float:
        """Seconds before the end of its life from which on a read refreshes it."""
        if not self.refresh_ahead or entry.expires_at is None:
            return 0.0
        return self.refresh_ahead * (entry.expires_at - entry.updated_at)

    def due(self, entry: Entry, now: float) -> bool:
        """Whether a live entry is to be refreshed by whoever reads it."""
        return entry.expires_at is not None and now >= entry.expires_at - self.ahead(entry) and self.refresh_ahead > 0

    def revalidates(self, entry: Entry, now: float) -> bool:
        """Whether an entry past its life is served while it is loaded anew."""
        return _within(entry, now, self.stale_while_revalidate)

    def tolerates(self, entry: Entry, now: float) -> bool:
        """Whether an entry is served where what is newer cannot be had, or not soon."""
        return _within(entry, now, self.stale_if_error)

    def missing(self, entry: Entry, now: float) -> bool:
        """Whether it says that the origin had nothing, not too long ago."""
        return absent(entry) and now < entry.updated_at + self.negative_ttl


def absent(entry: Entry) -> bool:
    """Whether it is the tombstone of a load that found nothing, and not of a deletion or of something that was invalidated."""
    return entry.deleted and entry.source == LOADER and entry.content_hash == NO_CONTENT


def _within(entry: Entry, now: float, seconds: float) -> bool:
    return seconds > 0 and not entry.deleted and (entry.expires_at is None or now < entry.expires_at + seconds)
