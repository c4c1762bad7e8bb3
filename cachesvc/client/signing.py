"""Signers: who answers an `auth:challenge`, by which a service has a client prove more than that it has a token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from cachesvc.protocol.challenge import Challenge


class Signer(Protocol):
    """One who can sign for a subject, wherever the secret is kept."""

    @property
    def subject(self) -> str:
        """Of the token; or of a node that has none: `node:SITE`."""
        ...

    async def sign(self, challenge: Challenge) -> str:
        """What `challenge.signature(secret, subject)` is. Whatever it raises is logged, and asked for again with the next
        connection."""
        ...


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """Signs by a secret that is at hand (`auth.step_up`, `auth.node_secrets`)."""

    subject: str
    secret: bytes = field(repr=False)

    async def sign(self, challenge: Challenge) -> str:
        return challenge.signature(self.secret, self.subject)
