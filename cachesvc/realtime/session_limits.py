"""Limits of one session."""

from __future__ import annotations

from dataclasses import dataclass, field

from cachesvc.realtime.authentication import AuthLimits


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Limits of one session: bytes, counts, seconds."""

    max_frame_size: int = (1 << 20) + (64 << 10)
    max_subscriptions: int = 1_000
    max_in_flight: int = 64
    max_batch: int = 256
    queue_size: int = 1 << 20
    ping_interval: float = 20.0
    ping_timeout: float = 20.0
    auth: AuthLimits = field(default_factory=AuthLimits)
    max_errors: int = 100
    max_refusals: int = 1_000  # by the rate, within the same window
    error_window: float = 60.0
    remembered: int = 1_000  # messages that were pushed, for who missed some
    remembered_bytes: int = 256 << 10

    def told(self) -> dict[str, object]:
        """What a client is told of them; milliseconds."""
        return {
            "heartbeat": {"interval": round(self.ping_interval * 1000), "timeout": round(self.ping_timeout * 1000)},
            "limits": {
                "maxFrameSize": self.max_frame_size,
                "maxSubscriptions": self.max_subscriptions,
                "maxInFlight": self.max_in_flight,
                "maxBatch": self.max_batch,
            },
        }
