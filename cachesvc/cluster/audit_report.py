"""What an audit of one tier came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Report:
    """One round over one tier; counts of entries, bytes as they lie there, seconds.

    `audited` are those of which it could be told whether they agree: `agreed`, perhaps only on the second look, or `repaired`.
    `undecided` are those of which it could not, since the tier was not told soon enough of what the authority had.
    """

    tier: str
    at: float
    asked: bool  # by someone, not by the clock
    audited: int = 0
    agreed: int = 0
    repaired: int = 0
    undecided: int = 0
    bytes: int = 0
    seconds: float = 0.0
    whole: bool = False  # all of the tier was looked at, not a sample
    error: str = ""  # why it ended early

    @property
    def coherence(self) -> float | None:
        """The share of the audited that agreed; None where nothing was audited."""
        return self.agreed / self.audited if self.audited else None

    def told(self) -> dict[str, object]:
        """As it is told over HTTP and to the other nodes."""
        return {
            "at": self.at,
            "seconds": self.seconds,
            "asked": self.asked,
            "whole": self.whole,
            "audited": self.audited,
            "agreed": self.agreed,
            "repaired": self.repaired,
            "undecided": self.undecided,
            "coherence": self.coherence,
            "bytes": self.bytes,
            "error": self.error or None,
        }


@dataclass(slots=True)
class Totals:
    """Counts of all rounds over a tier since the start of this node."""

    rounds: int = 0
    failed: int = 0  # rounds that ended early
    audited: int = 0
    agreed: int = 0
    repaired: int = 0
    undecided: int = 0

    def note(self, report: Report) -> None:
        self.rounds += 1
        self.failed += bool(report.error)
        self.audited += report.audited
        self.agreed += report.agreed
        self.repaired += report.repaired
        self.undecided += report.undecided
