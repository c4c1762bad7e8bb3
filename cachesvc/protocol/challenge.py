"""Challenge: how one who shares a secret proves it without saying it, the same on both sides of a connection.

The rule that must not break: what is signed names the connection and the subject, so that a signature is of use nowhere else.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

NODE_PROTOCOL = "node"  # the subprotocol by which a node asks to be challenged
NODE_SUBJECT = "node:"  # what its subject begins with


class Challenge(NamedTuple):
    """What `auth:challenge` asks to be signed: its `nonce`, `connectionId` and `timestamp`, as they were sent."""

    nonce: str
    connection: str
    timestamp: str

    def signature(self, secret: bytes, subject: str) -> str:
        """HMAC-SHA256(secret, nonce ‖ connectionId ‖ subject ‖ timestamp) in hexadecimal digits: `auth`'s `signature`.

        Only the subject is of the signer's choice, the others are the challenger's: so no two ways to join them are the same.
        """
        said = "".join((self.nonce, self.connection, subject, self.timestamp))
        return hmac.new(secret, said.encode("utf-8", "surrogatepass"), sha256).hexdigest()

    def met(self, secrets: Iterable[bytes], subject: str, signature: str) -> bool:
        """Whether it is signed by one of the secrets. How long that takes does not tell how near it came."""
        given = signature.encode("utf-8", "surrogatepass")
        found = False
        for secret in secrets:
            found |= hmac.compare_digest(self.signature(secret, subject).encode(), given)
        return found
