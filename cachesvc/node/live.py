"""The sockets as the settings want them."""

from __future__ import annotations

from collections.abc import Sequence

from cachesvc.model.merging import Policy, Strategy
from cachesvc.protocol.challenge import NODE_SUBJECT
from cachesvc.realtime.authentication import AuthLimits, Proofs
from cachesvc.realtime.modules import SOURCE, Module, Modules
from cachesvc.realtime.recovery import KeptLimits
from cachesvc.realtime.session_limits import SessionLimits
from cachesvc.settings import Auth, ConflictPolicy, Conflicts, Realtime, Sites
from cachesvc.web.live import LiveLimits
from cachesvc.web.service import Limits


def modules_of(realtime: Realtime) -> Modules:
    """The table of modules, with those that the settings add."""
    return Modules(
        Module(name, added.type, entity=added.entity or name, also=added.also, members=(SOURCE,))
        for name, added in realtime.modules.items()
    )


def policies_of(conflicts: Conflicts) -> dict[str, Policy]:
    """How conflicts are settled, by module; "" for those that have no policy of their own."""
    return {name: _policy(said) for name, said in {**conflicts.modules, "": conflicts}.items()}


def _policy(said: ConflictPolicy) -> Policy:
    return Policy(Strategy(said.strategy), Strategy(said.otherwise), tuple(said.sources), said.time_field)


def live_limits(realtime: Realtime, auth: Auth, limits: Limits, sites: Sites) -> LiveLimits:
    """The limits of the sockets."""
    return LiveLimits(
        SessionLimits(
            max_frame_size=limits.max_update_size,
            max_subscriptions=realtime.max_subscriptions,
            max_in_flight=realtime.max_in_flight,
            max_batch=realtime.max_batch,
            queue_size=realtime.queue_size,
            ping_interval=realtime.ping_interval,
            ping_timeout=realtime.ping_timeout,
            auth=AuthLimits(realtime.auth_timeout, realtime.challenge_timeout, realtime.renewal_notice, realtime.renewal_grace),
            max_errors=realtime.max_errors,
            max_refusals=realtime.max_refusals,
            error_window=realtime.error_window,
            remembered=realtime.remembered,
            remembered_bytes=realtime.remembered_bytes,
        ),
        kept=KeptLimits(realtime.kept_for, realtime.max_kept, realtime.max_kept_bytes),
        send_timeout=realtime.send_timeout,
        drain_spread=realtime.drain_spread,
        drain_timeout=realtime.drain_timeout,
        proofs=Proofs(
            _secrets(auth.node_secrets),
            _secrets(auth.step_up_secrets),
            frozenset(auth.step_up),
            {f"{NODE_SUBJECT}{name}": peer.secret.encode() for name, peer in sites.peers.items()},
        ),
        max_connections=realtime.max_connections,
        max_per_address=realtime.max_connections_per_address,
        allowed_origins=frozenset(realtime.allowed_origins),
    )


def _secrets(texts: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(text.encode() for text in texts)
